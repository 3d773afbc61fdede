"""The installed applications, as their folders describe them, without importing any."""

from __future__ import annotations

from pathlib import Path

from isocenter_operators.errors import ConfigurationError
from isocenter_operators.manifest import AppManifest, read_manifest

__all__ = ["Catalog"]


class Catalog:
    """Every application of one folder; raises ConfigurationError for an app.yaml that can not be used."""

    def __init__(self, apps_dir: Path) -> None:
        if not apps_dir.is_dir():
            raise ConfigurationError(f"apps_dir: there is no folder {apps_dir}")
        self._dir = apps_dir
        self._applications = {
            file.parent.name: read_manifest(file.parent) for file in sorted(apps_dir.glob("*/app.yaml"))
        }

    def all(self) -> tuple[AppManifest, ...]:
        return tuple(self._applications.values())

    def get(self, name: str) -> AppManifest:
        """The application of this name. Raises ConfigurationError, naming those that are installed."""
        try:
            return self._applications[name]
        except KeyError:
            there = ", ".join(self._applications) or "none"
            raise ConfigurationError(
                f"there is no application {name!r} in {self._dir} (installed: {there})"
            ) from None

    @property
    def models(self) -> tuple[str, ...]:
        """The names of all models that the applications ask for."""
        return tuple(sorted({model for app in self.all() for model in app.models}))
