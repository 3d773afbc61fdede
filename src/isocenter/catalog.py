"""The installed applications, as their folders describe them, without importing any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from isocenter.settings import Settings
from isocenter.weights import weights_of
from isocenter_operators.errors import ConfigurationError
from isocenter_operators.manifest import AppManifest, read_manifest

__all__ = ["Catalog"]


class Catalog:
    """The applications of one folder. Each is read when it is asked for: a wrong app.yaml is no other's concern.

    repository: of the embedded inference server's models; then `get` knows their weights too.

    Raises ConfigurationError for a folder that is not there, and for an app.yaml that can not be used.
    """

    def __init__(self, apps_dir: Path, repository: Path | None = None) -> None:
        if not apps_dir.is_dir():
            raise ConfigurationError(f"apps_dir: there is no folder {apps_dir}")
        self._dir = apps_dir
        self._repository = repository

    @classmethod
    def of(cls, settings: Settings) -> Catalog:
        """The applications with the weights of their models, as far as these lie here: for who names an algorithm."""
        triton = settings.triton
        return cls(settings.apps_dir, triton.model_repository if triton.embedded else None)

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
        folders = {folder.name: folder for folder in self._folders()}
        if name not in folders:
            there = ", ".join(folders) or "none"
            raise ConfigurationError(f"there is no application {name!r} in {self._dir} (installed: {there})")
        app = read_manifest(folders[name])
        if self._repository is None:
            return app
        return replace(app, weights=weights_of(app, self._repository))

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all models that the applications ask for."""
        return tuple(sorted({model for app in self.all() for model in app.models}))

    def _folders(self) -> list[Path]:
        return [file.parent for file in sorted(self._dir.glob("*/app.yaml"))]
