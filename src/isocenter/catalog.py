"""The installed applications, as their folders describe them, without importing any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.errors import ConfigurationError

__all__ = ["Catalog", "InstalledApplication"]


class _Described(BaseModel):
    """`application:` of an app.yaml, in the SDK's own form; what we do not use may be there too."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    title: str
    version: str


class _Ours(BaseModel):
    """`isocenter:` of an app.yaml."""

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    name: str | None = None
    models: dict[str, str] = Field(default_factory=dict)
    deadline_s: float = Field(default=300.0, gt=0)


class _AppYaml(BaseModel):
    application: _Described
    isocenter: _Ours = _Ours()


@dataclass(frozen=True)
class InstalledApplication:
    """One folder of `apps/`: `name` is the folder's, `models` maps each model it asks for to its version."""

    name: str
    title: str
    version: str
    models: Mapping[str, str]
    deadline_s: float
    folder: Path

    @property
    def algorithm(self) -> Algorithm:
        """What the identity of a job is derived from."""
        return Algorithm(name=self.name, version=self.version, models=dict(self.models))


class Catalog:
    """Every application of one folder; raises ConfigurationError for an app.yaml that can not be used."""

    def __init__(self, apps_dir: Path) -> None:
        if not apps_dir.is_dir():
            raise ConfigurationError(f"apps_dir: there is no folder {apps_dir}")
        self._dir = apps_dir
        self._applications = {
            file.parent.name: _described(file) for file in sorted(apps_dir.glob("*/app.yaml"))
        }

    def all(self) -> tuple[InstalledApplication, ...]:
        return tuple(self._applications.values())

    def get(self, name: str) -> InstalledApplication:
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


def _described(file: Path) -> InstalledApplication:
    try:
        content: Any = yaml.safe_load(file.read_text())
        described = _AppYaml.model_validate(content)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{file}: can not be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(f"{file}: {key}: {first['msg']}") from error
    folder = file.parent.name
    if described.isocenter.name not in {None, folder}:
        raise ConfigurationError(
            f"{file}: isocenter.name is {described.isocenter.name!r}, but the folder is called {folder!r}"
        )
    return InstalledApplication(
        name=folder,
        title=described.application.title,
        version=described.application.version,
        models=MappingProxyType(dict(described.isocenter.models)),
        deadline_s=described.isocenter.deadline_s,
        folder=file.parent.resolve(),
    )
