"""`app.yaml`: an application's name, version, models and limits, read without importing the application.

The SDK's form (`application`, `resources`) with one block of our own:

    application: {title: ..., version: 1.0.0, inputFormats: [DICOM], outputFormats: [DICOM]}
    isocenter:
      models: {ct_lung_density: "1"}     # on the inference server, by exact version
      deadline_s: 120                    # for one call of a model
      concurrency: 1                     # jobs at once, on all workers together; left out: as many as they take
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.errors import ConfigurationError

__all__ = ["AppManifest", "read_manifest"]


@dataclass(frozen=True)
class AppManifest:
    """One application as its folder describes it."""

    name: str  # the folder's
    folder: Path
    title: str
    version: str
    models: Mapping[str, str]  # name -> version
    deadline_s: float
    concurrency: int | None = None  # jobs at once, on all workers together; None: as many as they take

    @property
    def algorithm(self) -> Algorithm:
        """What a job's identity and its results name as their maker."""
        return Algorithm(self.name, self.version, self.models)


class _Application(BaseModel):
    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)
    title: str
    version: str


class _Isocenter(BaseModel):
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)
    models: dict[str, str] = Field(default_factory=dict)
    deadline_s: float = Field(default=300.0, gt=0)
    concurrency: int | None = Field(default=None, ge=1)


class _AppYaml(BaseModel):
    model_config = ConfigDict(extra="allow")
    application: _Application
    isocenter: _Isocenter = _Isocenter()


def read_manifest(folder: Path) -> AppManifest:
    """The manifest of the application in `folder`. Raises ConfigurationError naming the file and the key."""
    file = folder / "app.yaml"
    try:
        content: Any = yaml.safe_load(file.read_text())
        parsed = _AppYaml.model_validate(content)
    except OSError as error:
        raise ConfigurationError(f"{file}: can not be read: {error.strerror}", path=str(file)) from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{file}: not valid YAML: {error}", path=str(file)) from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise ConfigurationError(f"{file}: {problems}", path=str(file)) from error
    return AppManifest(
        name=folder.resolve().name,
        folder=folder.resolve(),
        title=parsed.application.title,
        version=parsed.application.version,
        models=parsed.isocenter.models,
        deadline_s=parsed.isocenter.deadline_s,
        concurrency=parsed.isocenter.concurrency,
    )
