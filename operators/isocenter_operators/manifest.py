"""`app.yaml`: an application's name, version, models and limits, read without importing the application.

The SDK's form (`application`, `resources`) with one block of our own:

    application: {title: ..., version: 1.0.0, inputFormats: [DICOM], outputFormats: [DICOM]}
    isocenter:
      name: ct_lung_density              # by which results and jobs know it; left out: the folder's, which in a
                                         # package is always `app`, so `isocenter map build` writes it down
      models: {ct_lung_density: "1"}     # on the inference server, by exact version; or, where its weights are stated,
                                         # {liver: {version: "2", weights_sha256: <64 hexadecimal digits>}}
      deadline_s: 120                    # for one call of a model
      concurrency: 1                     # jobs at once, on all workers together; left out: as many as they take
      accepts: {modalities: [CT]}        # what the input gate lets through: dicom.acceptance, docs/input-gate.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from isocenter_operators.dicom.gate.acceptance import Acceptance
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.errors import ConfigurationError

__all__ = ["AppManifest", "manifest_file", "read_manifest"]


@dataclass(frozen=True)
class AppManifest:
    """One application as its folder describes it."""

    name: str  # the folder's, where app.yaml gives no other
    folder: Path
    title: str
    version: str
    models: Mapping[str, str]  # name -> version
    deadline_s: float
    concurrency: int | None = None  # jobs at once, on all workers together; None: as many as they take
    accepts: Acceptance = field(default_factory=Acceptance)
    weights: Mapping[str, str] = field(
        default_factory=dict
    )  # model name -> SHA-256 of its files, where known
    manufacturer: str = "Isocenter"

    @property
    def algorithm(self) -> Algorithm:
        """What a job's identity and its results name as their maker."""
        return Algorithm(self.name, self.version, self.models, self.manufacturer, self.weights)

    def with_model(self, model: str, version: str) -> AppManifest:
        """The application as it runs with this version of one of its models, which may be of another bundle than the
        first: then its title and version are that one's. Raises ConfigurationError as `read_manifest` does."""
        if self.models.get(model) == version:
            return self
        file = manifest_file(self.folder, version)
        said = _parsed(file).application
        return replace(
            self,
            title=said.title,
            version=said.version,
            models={**self.models, model: version},
            weights={name: digest for name, digest in self.weights.items() if name != model},
        )


class _Application(BaseModel):
    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)
    title: str
    version: str


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)
    version: str
    weights_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")

    @model_validator(mode="before")
    @classmethod
    def _of_version(cls, value: Any) -> Any:
        return {"version": value} if isinstance(value, (str, int, float)) else value


class _Isocenter(BaseModel):
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)
    name: str | None = Field(default=None, pattern="^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    models: dict[str, _Model] = Field(default_factory=dict)
    deadline_s: float = Field(default=300.0, gt=0)
    concurrency: int | None = Field(default=None, ge=1)
    accepts: Acceptance = Acceptance()


class _AppYaml(BaseModel):
    model_config = ConfigDict(extra="allow")
    application: _Application
    isocenter: _Isocenter = _Isocenter()


def read_manifest(folder: Path) -> AppManifest:
    """The manifest of the application in `folder`. Raises ConfigurationError naming the file and the key."""
    parsed = _parsed(folder / "app.yaml")
    models = parsed.isocenter.models
    return AppManifest(
        name=parsed.isocenter.name or folder.resolve().name,
        folder=folder.resolve(),
        title=parsed.application.title,
        version=parsed.application.version,
        models={name: model.version for name, model in models.items()},
        deadline_s=parsed.isocenter.deadline_s,
        concurrency=parsed.isocenter.concurrency,
        accepts=parsed.isocenter.accepts,
        weights={name: model.weights_sha256 for name, model in models.items() if model.weights_sha256},
    )


def manifest_file(folder: Path, version: str = "") -> Path:
    """What describes the application with this version of its model: a file of its own where there is one.

    Limits, and what is accepted, are the application's, and stand in `app.yaml` alone.
    """
    own = folder / "versions" / version / "app.yaml"
    return own if version and own.is_file() else folder / "app.yaml"


def _parsed(file: Path) -> _AppYaml:
    try:
        content: Any = yaml.safe_load(file.read_text())
        return _AppYaml.model_validate(content)
    except OSError as error:
        raise ConfigurationError(f"{file}: can not be read: {error.strerror}", path=str(file)) from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{file}: not valid YAML: {error}", path=str(file)) from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise ConfigurationError(f"{file}: {problems}", path=str(file)) from error
