"""The installed applications, as their folders describe them, without importing any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from isocenter.map_reference import digest_in, is_package, package_name
from isocenter.maps.store import MapStore, StoredMap
from isocenter.serving import Servings
from isocenter.settings import Settings
from isocenter.weights import weights_of
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.errors import ConfigurationError
from isocenter_operators.manifest import AppManifest, read_manifest

__all__ = ["Catalog"]

_OF_ATTEMPT = 0.9  # of what an attempt may take at most, a package itself: it is ended before the worker is


class Catalog:
    """The applications of some folders. Each is read when it is asked for: a wrong app.yaml is no other's concern.

    apps_dir: the folder that must be there. imported: another one, which may be. repositories: of the embedded
    inference server's models; then `get` knows their weights too. servings: which versions of the models are in use;
    without it, those that app.yaml names. packages: the MONAI Application Packages that routes may name, each for at
    most `longest_s`.

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
        packages: MapStore | None = None,
        longest_s: float = 1800.0,
    ) -> None:
        if not apps_dir.is_dir():
            raise ConfigurationError(f"apps_dir: there is no folder {apps_dir}")
        self._places = (apps_dir, imported) if imported is not None else (apps_dir,)
        self._repositories = tuple(repositories)
        self._servings = servings
        self._packages = packages
        self._longest_s = longest_s

    @classmethod
    def of(cls, settings: Settings) -> Catalog:
        """The applications that are installed and imported, without what only their models' files tell."""
        return cls._of(settings, ())

    @classmethod
    def weighed(cls, settings: Settings) -> Catalog:
        """The applications with the weights of their models, as far as these lie here: for who names an algorithm."""
        # What a Triton elsewhere has of its own is not known here; what was imported here it has from here.
        own = settings.model_repositories if settings.triton.embedded else settings.imported_models
        return cls._of(settings, own)

    @classmethod
    def _of(cls, settings: Settings, repositories: Sequence[Path]) -> Catalog:
        return cls(
            settings.apps_dir,
            settings.imported_apps_dir,
            repositories=repositories,
            servings=Servings(settings.data_dir),
            packages=MapStore(settings.maps_dir, settings.maps.trusted_keys),
            longest_s=_OF_ATTEMPT * settings.worker.longest_attempt_s,
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

    @property
    def names(self) -> set[str]:
        """All that a route may name. Raises ConfigurationError where an application can not be read."""
        packages = self._packages.all() if self._packages else []
        return {app.name for app in self.all()} | {each.reference for each in packages}

    def for_study(self, name: str, study_uid: str) -> AppManifest:
        """The application as it does this study's work: that of some studies is a canary's, where there is one."""
        if is_package(name):
            return self._package(name)
        return self._weighed(self._for_study(self._named(name), study_uid, {}))

    def for_job(self, algorithm: Algorithm, study_uid: str) -> AppManifest:
        """As `for_study`, but with the versions that a job was made for, as far as these still answer; a package is
        the very image that the job was made for, whatever the route names by now."""
        if is_package(algorithm.name):
            return self._package(f"{algorithm.name}@sha256:{algorithm.weights.get(algorithm.name, '')}")
        return self._weighed(self._for_study(self._named(algorithm.name), study_uid, algorithm.models))

    def with_version(self, name: str, model: str, version: str) -> AppManifest:
        """The application as it runs with this version of one of its models, whatever that is for."""
        return self._weighed(self._at_active(self._named(name)).with_model(model, version))

    def stored(self, app: AppManifest) -> StoredMap | None:
        """The package that an application is; None of one that is none. Raises ConfigurationError."""
        if self._packages is None or not is_package(app.name):
            return None
        return self._packages.get(f"sha256:{app.weights[app.name]}")

    def _package(self, reference: str) -> AppManifest:
        digest = digest_in(reference)
        if digest is None or self._packages is None:
            raise ConfigurationError(
                f"{reference!r} names no package: `isocenter map list` tells those that are here"
            )
        stored = self._packages.get(digest)
        limit_s = self._longest_s
        name = package_name(reference)
        return AppManifest(
            name=name,
            folder=self._packages.place(stored),
            title=stored.title,
            version=stored.version,
            models={},
            deadline_s=min(stored.timeout_s or limit_s, limit_s),
            weights={name: digest.removeprefix("sha256:")},
            manufacturer=stored.vendor,
        )

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
