"""The installed applications, as their folders describe them, without importing any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from isocenter.serving import Servings
from isocenter.settings import Settings
from isocenter.weights import weights_of
from isocenter_operators.errors import ConfigurationError
from isocenter_operators.manifest import AppManifest, read_manifest

__all__ = ["Catalog"]


class Catalog:
    """The applications of some folders. Each is read when it is asked for: a wrong app.yaml is no other's concern.

    apps_dir: the folder that must be there. imported: another one, which may be. repositories: of the embedded
    inference server's models; then `get` knows their weights too. servings: which versions of the models are in use;
    without it, those that app.yaml names.

    An application is always described with the versions that it would run with now: the active ones.

    Raises ConfigurationError for a folder that is not there, and for an app.yaml that can not be used.
    """

    def __init__(
        self,
        apps_dir: Path,
        imported: Path | None = None,
        *,
        repositories: Sequence[Path] = (),
        servings: Servings | None = None,
    ) -> None:
        if not apps_dir.is_dir():
            raise ConfigurationError(f"apps_dir: there is no folder {apps_dir}")
        self._places = (apps_dir, imported) if imported is not None else (apps_dir,)
        self._repositories = tuple(repositories)
        self._servings = servings

    @classmethod
    def of(cls, settings: Settings) -> Catalog:
        """The applications that are installed and imported, without what only their models' files tell."""
        return cls(settings.apps_dir, settings.imported_apps_dir, servings=Servings(settings.data_dir))

    @classmethod
    def weighed(cls, settings: Settings) -> Catalog:
        """The applications with the weights of their models, as far as these lie here: for who names an algorithm."""
        repositories = settings.model_repositories if settings.triton.embedded else ()
        return cls(
            settings.apps_dir,
            settings.imported_apps_dir,
            repositories=repositories,
            servings=Servings(settings.data_dir),
        )

    def all(self) -> tuple[AppManifest, ...]:
        return tuple(self._at_active(read_manifest(folder)) for folder in self._folders())

    def sound(self, tell: Callable[[ConfigurationError], None] = lambda _: None) -> tuple[AppManifest, ...]:
        """Those whose app.yaml can be used; what is wrong with each other one is told."""
        found = []
        for folder in self._folders():
            try:
                found.append(self._at_active(read_manifest(folder)))
            except ConfigurationError as error:
                tell(error)
        return tuple(found)

    def get(self, name: str) -> AppManifest:
        """The application of this name. Raises ConfigurationError, naming those that are installed."""
        return self._weighed(self._at_active(self._named(name)))

    def for_study(self, name: str, study_uid: str) -> AppManifest:
        """The application as it does this study's work: that of some studies is a canary's, where there is one."""
        return self._weighed(self._for_study(self._named(name), study_uid, {}))

    def for_job(self, name: str, study_uid: str, models: Mapping[str, str]) -> AppManifest:
        """As `for_study`, but with the versions that a job was made for, as far as these still answer."""
        return self._weighed(self._for_study(self._named(name), study_uid, models))

    def with_version(self, name: str, model: str, version: str) -> AppManifest:
        """The application as it runs with this version of one of its models, whatever that is for."""
        return self._weighed(self._at_active(self._named(name)).with_model(model, version))

    def _named(self, name: str) -> AppManifest:
        folders = {folder.name: folder for folder in reversed(self._folders())}  # what is installed wins
        if name not in folders:
            there = ", ".join(sorted(folders)) or "none"
            places = " or ".join(map(str, self._places))
            raise ConfigurationError(f"there is no application {name!r} in {places} (installed: {there})")
        return read_manifest(folders[name])

    def _weighed(self, app: AppManifest) -> AppManifest:
        return replace(app, weights=weights_of(app, self._repositories)) if self._repositories else app

    def _at_active(self, app: AppManifest) -> AppManifest:
        for model in app.models:
            serving = self._servings.of(model) if self._servings else None
            if serving is not None:
                app = app.with_model(model, serving.active)
        return app

    def _for_study(self, app: AppManifest, study_uid: str, asked: Mapping[str, str]) -> AppManifest:
        for model in app.models:
            serving = self._servings.of(model) if self._servings else None
            if serving is None:
                continue
            version = asked.get(model, "")
            if version not in serving.answering:
                version = serving.version_for(model, study_uid)
            app = app.with_model(model, version)
        return app

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all models that the applications ask for, but for those that were taken out of service."""
        names = sorted({model for app in self.all() for model in app.models})
        servings = {model: self._servings.of(model) if self._servings else None for model in names}
        return tuple(model for model, serving in servings.items() if serving is None or serving.loaded)

    def _folders(self) -> list[Path]:
        return [
            file.parent
            for place in self._places
            for file in sorted(place.glob("*/app.yaml"))
            if not file.parent.name.startswith(".")  # an import that is not whole yet
        ]
