"""The installed applications, as their folders describe them, without importing any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from isocenter.settings import Settings
from isocenter.weights import weights_of
from isocenter_operators.errors import ConfigurationError
from isocenter_operators.manifest import AppManifest, read_manifest

__all__ = ["Catalog"]


class Catalog:
    """The applications of some folders. Each is read when it is asked for: a wrong app.yaml is no other's concern.

    apps_dir: the folder that must be there. imported: another one, which may be. repositories: of the embedded
    inference server's models; then `get` knows their weights too.

    Raises ConfigurationError for a folder that is not there, and for an app.yaml that can not be used.
    """

    def __init__(
        self, apps_dir: Path, imported: Path | None = None, *, repositories: Sequence[Path] = ()
    ) -> None:
        if not apps_dir.is_dir():
            raise ConfigurationError(f"apps_dir: there is no folder {apps_dir}")
        self._places = (apps_dir, imported) if imported is not None else (apps_dir,)
        self._repositories = tuple(repositories)

    @classmethod
    def of(cls, settings: Settings) -> Catalog:
        """The applications that are installed and imported, without what only their models' files tell."""
        return cls(settings.apps_dir, settings.imported_apps_dir)

    @classmethod
    def weighed(cls, settings: Settings) -> Catalog:
        """The applications with the weights of their models, as far as these lie here: for who names an algorithm."""
        repositories = settings.model_repositories if settings.triton.embedded else ()
        return cls(settings.apps_dir, settings.imported_apps_dir, repositories=repositories)

    def all(self) -> tuple[AppManifest, ...]:
        return tuple(read_manifest(folder) for folder in self._folders())

    def sound(self, tell: Callable[[ConfigurationError], None] = lambda _: None) -> tuple[AppManifest, ...]:
        """Those whose app.yaml can be used; what is wrong with each other one is told."""
        found = []
        for folder in self._folders():
            try:
                found.append(read_manifest(folder))
            except ConfigurationError as error:
                tell(error)
        return tuple(found)

    def get(self, name: str) -> AppManifest:
        """The application of this name. Raises ConfigurationError, naming those that are installed."""
        folders = {folder.name: folder for folder in reversed(self._folders())}  # what is installed wins
        if name not in folders:
            there = ", ".join(sorted(folders)) or "none"
            places = " or ".join(map(str, self._places))
            raise ConfigurationError(f"there is no application {name!r} in {places} (installed: {there})")
        app = read_manifest(folders[name])
        if not self._repositories:
            return app
        return replace(app, weights=weights_of(app, self._repositories))

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all models that the applications ask for."""
        return tuple(sorted({model for app in self.all() for model in app.models}))

    def _folders(self) -> list[Path]:
        return [
            file.parent
            for place in self._places
            for file in sorted(place.glob("*/app.yaml"))
            if not file.parent.name.startswith(".")  # an import that is not whole yet
        ]
