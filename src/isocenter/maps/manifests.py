"""The two manifests of a MONAI Application Package: `app.json` says how it is run, `pkg.json` what lies where.

Read are the specification 1.0 (https://github.com/Project-MONAI/monai-deploy, guidelines), what holoscan-cli makes of
it (`models` as an object of names and paths, `formats` of the output), and the legacy form of `/etc/monai` (the same
keys with hyphens). Written is the specification's form. A key that none of them has is refused, with the file's name:
whoever wrote it meant something by it.
"""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from pydantic import (
    AliasGenerator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from isocenter_operators.errors import UnreadableInput

__all__ = [
    "API_VERSION",
    "HOLOSCAN",
    "LAYOUTS",
    "MONAI",
    "ApplicationManifest",
    "Fragment",
    "Input",
    "Layout",
    "Model",
    "Output",
    "PackageManifest",
    "Probe",
    "Problem",
    "Reading",
    "Resources",
    "application_json",
    "examine_application",
    "examine_package",
    "memory_bytes",
    "package_json",
    "read_application",
    "read_package",
]

API_VERSION = "1.0.0"  # of the specification that is written

_Manifest = TypeVar("_Manifest", bound=BaseModel)


@dataclass(frozen=True)
class Layout:
    """Where a package keeps what, and which environment tells the application. All paths are absolute."""

    name: str
    application_manifest: str
    package_manifest: str
    application_root: str
    model_root: str
    documentation: str
    working_directory: str
    configuration: str
    input_variable: str
    output_variable: str
    model_variable: str
    working_directory_variable: str


HOLOSCAN = Layout(
    name="holoscan",
    application_manifest="/etc/holoscan/app.json",
    package_manifest="/etc/holoscan/pkg.json",
    application_root="/opt/holoscan/app",
    model_root="/opt/holoscan/models",
    documentation="/opt/holoscan/docs",
    working_directory="/var/holoscan",
    configuration="/var/holoscan/app.yaml",
    input_variable="HOLOSCAN_INPUT_PATH",
    output_variable="HOLOSCAN_OUTPUT_PATH",
    model_variable="HOLOSCAN_MODEL_PATH",
    working_directory_variable="HOLOSCAN_WORKDIR",
)
MONAI = Layout(
    name="monai",
    application_manifest="/etc/monai/app.json",
    package_manifest="/etc/monai/pkg.json",
    application_root="/opt/monai/app",
    model_root="/opt/monai/models",
    documentation="/opt/monai/docs",
    working_directory="/var/monai",
    configuration="/opt/monai/app/app.yaml",
    input_variable="MONAI_INPUTPATH",
    output_variable="MONAI_OUTPUTPATH",
    model_variable="MONAI_MODELPATH",
    working_directory_variable="MONAI_WORKDIR",
)
LAYOUTS = (HOLOSCAN, MONAI)  # the first that an image has is the one that counts

_UNITS = {
    "": 1,
    **{
        unit: 1000**power
        for power, units in enumerate(("k K kB KB", "m M MB", "g G GB", "T TB"), 1)
        for unit in units.split()
    },
    **{
        unit: 1024**power
        for power, units in enumerate(("Ki KiB", "Mi MiB", "Gi GiB", "Ti TiB"), 1)
        for unit in units.split()
    },
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([A-Za-z]*)\s*")


def memory_bytes(size: str | float) -> int:
    """`1.5Gi`, `512MiB`, `2GB` or a number of bytes, in bytes. Raises ValueError."""
    match = _SIZE.fullmatch(str(size))
    if match is None or match[2] not in _UNITS:
        raise ValueError(f"{size!r} is no size of memory; write it like 2048Mi or 1.5Gi")
    return int(float(match[1]) * _UNITS[match[2]])


def _modern(key: str) -> str:
    """`working-directory` as `workingDirectory`."""
    first, *rest = key.split("-")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


class _Part(BaseModel):
    model_config = ConfigDict(
        alias_generator=AliasGenerator(alias=to_camel),
        validate_by_name=True,
        coerce_numbers_to_str=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _without_hyphens(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        modern = {_modern(key): value for key, value in content.items()}
        if len(modern) < len(content):
            raise ValueError("a key stands here twice, with and without hyphens")
        return modern


class Input(_Part):
    """What the application reads, and from which folder; a relative one lies in the working directory."""

    path: str = "input/"
    formats: tuple[Any, ...] = ()

    @field_validator("formats", mode="before")
    @classmethod
    def _several(cls, formats: Any) -> Any:
        return _formats(formats)

    @field_validator("path", mode="before")
    @classmethod
    def _or_default(cls, path: Any) -> Any:
        return "input/" if path is None else path


class Output(_Part):
    """What the application writes, and to which folder; holoscan-cli calls its format `formats`, and gives several."""

    path: str = "output/"
    format: Any = None

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, content: Any) -> Any:
        if isinstance(content, Mapping) and "formats" in content:
            if "format" in content:
                raise ValueError("give format or formats, not both")
            content = dict(content)
            content["format"] = content.pop("formats")
        return content

    @field_validator("path", mode="before")
    @classmethod
    def _or_default(cls, path: Any) -> Any:
        return "output/" if path is None else path

    @property
    def formats(self) -> tuple[Any, ...]:
        given: tuple[Any, ...] = _formats(self.format)
        return given


def _formats(given: Any) -> Any:
    """One, several or none, of which holoscan-cli and the specification have different ideas."""
    if given is None or given == {}:
        return ()
    return tuple(given) if isinstance(given, list | tuple) else (given,)


class Probe(_Part):
    """How a host finds out whether the application is ready, or alive. Nothing of ours asks: it is passed on."""

    type: str
    command: tuple[str, ...] | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    path: str | None = None
    initial_delay_seconds: int = Field(default=1, ge=0)
    period_seconds: int = Field(default=10, ge=1)
    timeout_seconds: int = Field(default=1, ge=1)
    failure_threshold: int = Field(default=3, ge=1)


class ApplicationManifest(_Part):
    """`app.json`. What is left out has the specification's default, but where the default depends on the layout."""

    command: str
    input: Input = Input()
    output: Output = Output()
    environment: dict[str, str] = Field(default_factory=dict)
    working_directory: str | None = None  # None: the layout's
    timeout: int = Field(default=0, ge=0)  # seconds; 0: none
    version: str | None = None
    api_version: str | None = None
    sdk: str | None = None
    sdk_version: str | None = None
    readiness: Probe | None = None
    liveness: Probe | None = None
    type: str | None = None  # application or service

    @field_validator("command", mode="before")
    @classmethod
    def _one_string(cls, command: Any) -> Any:
        return json.dumps(command) if isinstance(command, list) else command

    @field_validator("input", "output", "environment", mode="before")
    @classmethod
    def _or_nothing(cls, given: Any) -> Any:
        return {} if given is None else given

    @field_validator("timeout", mode="before")
    @classmethod
    def _or_never(cls, given: Any) -> Any:
        return 0 if given is None else given

    @property
    def arguments(self) -> tuple[str, ...]:
        """The command's words: it is a shell command, or, of the SDKs, a list in JSON. Raises ValueError."""
        given = self.command.strip()
        if given.startswith("["):
            words = json.loads(given)
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise ValueError(f"the command {given!r} is a list of something else than strings")
            return tuple(words)
        return tuple(shlex.split(given))

    def working_directory_in(self, layout: Layout) -> str:
        return self.working_directory or layout.working_directory

    def input_path(self, layout: Layout) -> str:
        """The folder that the application reads, absolute."""
        return posixpath.normpath(posixpath.join(self.working_directory_in(layout), self.input.path))

    def output_path(self, layout: Layout) -> str:
        """The folder that the application writes to, absolute."""
        return posixpath.normpath(posixpath.join(self.working_directory_in(layout), self.output.path))


class Model(_Part):
    """A model in the package; without a path it lies in the folder of its name."""

    name: str
    path: str | None = None

    def path_in(self, root: str) -> str:
        """Where it lies, absolute. `root` is the package's model root."""
        return posixpath.normpath(posixpath.join(root, self.name if self.path is None else self.path))


class Fragment(_Part):
    """What an application, or one fragment of it, needs. Sizes are as they were written: see `memory_bytes`."""

    cpu: int | float | None = Field(default=None, ge=0)
    cpu_limit: int | float | None = Field(default=None, ge=0)
    gpu: int | float | None = Field(default=None, ge=0)
    gpu_limit: int | float | None = Field(default=None, ge=0)
    memory: str | None = None
    memory_limit: str | None = None
    gpu_memory: str | None = None
    gpu_memory_limit: str | None = None
    shared_memory: str | None = None
    shared_memory_limit: str | None = None

    @field_validator(
        "memory", "memory_limit", "gpu_memory", "gpu_memory_limit", "shared_memory", "shared_memory_limit"
    )
    @classmethod
    def _a_size(cls, size: str | None) -> str | None:
        if size is not None:
            memory_bytes(size)
        return size


class Resources(Fragment):
    """What the package needs; of an application of several fragments, what each of these does."""

    fragments: dict[str, Fragment] | None = None


class PackageManifest(_Part):
    """`pkg.json`. What is left out has the layout's default, and models are there only if they are named."""

    application_root: str | None = None
    model_root: str | None = None
    models: tuple[Model, ...] = ()
    resources: Resources = Resources()
    version: str | None = None
    api_version: str | None = None
    sdk_version: str | None = None  # of the legacy form
    platform_config: str | None = None  # of holoscan-cli: which kind of GPU

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, content: Any) -> Any:
        """The first packagers wrote `resource`."""
        if isinstance(content, Mapping) and "resource" in content and "resources" not in content:
            content = dict(content)
            content["resources"] = content.pop("resource")
        return content

    @field_validator("resources", mode="before")
    @classmethod
    def _or_none(cls, given: Any) -> Any:
        return {} if given is None else given

    @field_validator("models", mode="before")
    @classmethod
    def _list_or_object(cls, given: Any) -> Any:
        if given is None:
            return ()
        if isinstance(given, Mapping):
            return [{"name": name, "path": path} for name, path in given.items()]
        return given

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = [model.name for model in self.models]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"models: {', '.join(sorted(twice))} stands there twice")
        return self

    def application_root_in(self, layout: Layout) -> str:
        return self.application_root or layout.application_root

    def model_root_in(self, layout: Layout) -> str:
        return self.model_root or layout.model_root


@dataclass(frozen=True)
class Problem:
    """What is wrong with a manifest. `key` is a path of keys, `""` of the whole."""

    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message


@dataclass(frozen=True)
class Reading(Generic[_Manifest]):
    """A manifest, or why it is none. `content`: as the file has it, where it is an object in JSON."""

    manifest: _Manifest | None
    problems: tuple[Problem, ...]
    content: Mapping[str, Any]


def examine_application(text: bytes) -> Reading[ApplicationManifest]:
    """`app.json`, or all that is wrong with it."""
    return _examine(ApplicationManifest, text)


def examine_package(text: bytes) -> Reading[PackageManifest]:
    """`pkg.json`, or all that is wrong with it."""
    return _examine(PackageManifest, text)


def read_application(text: bytes, file: str) -> ApplicationManifest:
    """`app.json`. Raises UnreadableInput, naming `file` and the keys."""
    return _read(examine_application(text), file)


def read_package(text: bytes, file: str) -> PackageManifest:
    """`pkg.json`. Raises UnreadableInput, naming `file` and the keys."""
    return _read(examine_package(text), file)


def _read(reading: Reading[_Manifest], file: str) -> _Manifest:
    if reading.manifest is None:
        raise UnreadableInput(f"{file}: {'; '.join(map(str, reading.problems))}", path=file)
    return reading.manifest


def _examine(kind: type[_Manifest], text: bytes) -> Reading[_Manifest]:
    try:
        content = json.loads(text.decode("utf-8-sig"), object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError) as error:
        return Reading(None, (Problem("", f"not valid JSON: {error}"),), {})
    if not isinstance(content, dict):
        return Reading(None, (Problem("", f"expected an object, found {type(content).__name__}"),), {})
    try:
        return Reading(kind.model_validate(content), (), content)
    except ValidationError as error:
        problems = tuple(
            Problem(".".join(map(str, each["loc"])), each["msg"].removeprefix("Value error, "))
            for each in error.errors()
        )
        return Reading(None, problems, content)


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} stands there twice")
    return content


def application_json(manifest: ApplicationManifest) -> str:
    """The manifest in the specification's form, the same text for the same manifest."""
    return _json(manifest)


def package_json(manifest: PackageManifest) -> str:
    """The manifest in the specification's form, the same text for the same manifest."""
    return _json(manifest)


def _json(manifest: BaseModel) -> str:
    content = manifest.model_dump(mode="json", by_alias=True, exclude_none=True)
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
