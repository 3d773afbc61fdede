"""The folder that a package is made of: `app.yaml` in the SDK's form, the application, and what it asks for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator

from isocenter.maps.closure import read_requirements
from isocenter.maps.layer import files_below
from isocenter.maps.manifests import Resources
from isocenter_operators.errors import ConfigurationError
from isocenter_operators.manifest import read_manifest

__all__ = ["AppFolder", "read_app"]

_MAIN = "__main__.py"
# Of an application of ours that has none, as imported bundles have none.
_DEFAULT_MAIN = '''\
"""The application by itself, from a folder to a folder."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HOLOSCAN_LOG_LEVEL", "OFF")
os.environ.setdefault("HOLOSCAN_EXECUTOR_LOG_LEVEL", "OFF")

from isocenter_operators.sdk_core import import_sdk_core

if __name__ == "__main__":
    import_sdk_core()  # without MONAI and PyTorch, until somebody asks for them
    from app import application

    from isocenter_operators.command import main
    from isocenter_operators.manifest import read_manifest

    sys.exit(main(read_manifest(Path(__file__).parent), application))
'''
_COMMAND = "isocenter_operators.command"
_DOCUMENTATION = ("README*", "LICENSE*", "LICENCE*", "NOTICE*", "CHANGELOG*")


class _Application(BaseModel):
    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True, populate_by_name=True)
    title: str = Field(min_length=1)
    version: str = Field(min_length=1)
    description: str | None = None
    licence: str | None = Field(None, validation_alias=AliasChoices("license", "licence"))
    authors: str | None = None
    input_formats: tuple[Any, ...] = Field((), validation_alias=AliasChoices("inputFormats", "input-formats"))
    output_formats: tuple[Any, ...] = Field(
        (), validation_alias=AliasChoices("outputFormats", "output-formats")
    )
    pip_packages: tuple[str, ...] = Field((), validation_alias=AliasChoices("pipPackages", "pip-packages"))
    timeout: int = Field(0, ge=0)  # seconds; 0: none

    @field_validator("input_formats", "output_formats", "pip_packages", mode="before")
    @classmethod
    def _one_is_a_list(cls, given: Any) -> Any:
        return () if given is None else given if isinstance(given, list | tuple) else (given,)


class _Config(BaseModel):
    model_config = ConfigDict(extra="allow")
    application: _Application
    resources: Resources = Resources()

    @field_validator("resources", mode="before")
    @classmethod
    def _or_none(cls, given: Any) -> Any:
        return {} if given is None else given


@dataclass(frozen=True)
class AppFolder:
    """What is known of it before anything of it is run. `models`: on Triton, name to version; of our applications."""

    folder: Path
    name: str
    application: _Application
    resources: Resources
    content: dict[str, Any]  # app.yaml, whole
    requirements: tuple[Requirement, ...]
    models: dict[str, str]
    weights: dict[str, str]  # SHA-256 of models' files, as far as app.yaml states them
    is_ours: bool

    def files(self) -> dict[str, Path | bytes]:
        """All that is to lie in the package's application folder, by its path there, without app.yaml."""
        found: dict[str, Path | bytes] = {
            path.relative_to(self.folder).as_posix(): path for path in files_below(self.folder)
        }
        found.pop("app.yaml", None)
        if _MAIN not in found:
            found[_MAIN] = _DEFAULT_MAIN.encode()
        return found

    @property
    def stands_by(self) -> bool:
        """Whether it can be started in advance: its command is that of our applications, which can wait."""
        main = self.folder / _MAIN
        text = main.read_text(errors="replace") if main.is_file() else _DEFAULT_MAIN
        return self.is_ours and _COMMAND in text

    def config(self, weights: dict[str, str]) -> bytes:
        """app.yaml as the package has it: of an application of ours with its name and its models' weights.

        weights: SHA-256 of each model's files, by its name.
        """
        content = self.content
        if self.is_ours:
            models = {
                model: {
                    "version": version,
                    **({"weights_sha256": weights[model]} if model in weights else {}),
                }
                for model, version in self.models.items()
            }
            block = {
                **content.get("isocenter", {}),
                "name": self.name,
                **({"models": models} if models else {}),
            }
            content = {**content, "isocenter": block}
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()

    def documentation(self) -> dict[str, Path]:
        """What goes to the package's documentation, by its path there."""
        files = [
            path for pattern in _DOCUMENTATION for path in sorted(self.folder.glob(pattern)) if path.is_file()
        ]
        found = {path.name: path for path in files}
        if (self.folder / "docs").is_dir():
            found |= {
                path.relative_to(self.folder / "docs").as_posix(): path
                for path in files_below(self.folder / "docs")
            }
        return found


def read_app(folder: Path, config: Path | None = None, requirements: Path | None = None) -> AppFolder:
    """Read the folder of an application.

    config: instead of its app.yaml. requirements: instead of its requirements.txt.

    Raises ConfigurationError naming what is missing, or the file and the key that is wrong.
    """
    file = config or folder / "app.yaml"
    if not folder.is_dir():
        raise ConfigurationError(f"there is no application folder {folder}", path=str(folder))
    content = _content(file)
    try:
        said = _Config.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise ConfigurationError(f"{file}: {problems}", path=str(file)) from error
    ours = "isocenter" in content
    if not (folder / _MAIN).is_file() and not (ours and (folder / "app.py").is_file()):
        raise ConfigurationError(
            f"{folder}: there is no {_MAIN}, by which a package is started", path=str(folder)
        )
    if ours and file != folder / "app.yaml":
        raise ConfigurationError(
            f"-c {file}: an application of Isocenter is read from its own {folder / 'app.yaml'}"
        )
    manifest = read_manifest(folder) if ours else None
    return AppFolder(
        folder=folder,
        name=manifest.name if manifest else folder.resolve().name,
        application=said.application,
        resources=said.resources,
        content=content,
        requirements=_requirements(
            folder, said.application, requirements, manifest.models if manifest else None
        ),
        models=dict(manifest.models) if manifest else {},
        weights=dict(manifest.weights) if manifest else {},
        is_ours=ours,
    )


def _content(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text())
    except OSError as error:
        raise ConfigurationError(f"{file}: can not be read: {error.strerror}", path=str(file)) from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{file}: not valid YAML: {error}", path=str(file)) from error
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{file}: keys and values are expected: application: {{title: ...}}", path=str(file)
        )
    return content


def _requirements(
    folder: Path, application: _Application, file: Path | None, models: Any
) -> tuple[Requirement, ...]:
    """Those of the file and of app.yaml; of an application of ours also what runs it."""
    listed = file or folder / "requirements.txt"
    found = list(read_requirements(listed)) if file or listed.is_file() else []
    found += [Requirement(each) for each in application.pip_packages]
    if models is not None:
        found.append(Requirement("isocenter[models]" if models else "isocenter"))
    return tuple(found)
