"""A package from an application's folder: what goes into each layer, and the image made of them without an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isocenter.maps import entry
from isocenter.maps.app_folder import AppFolder
from isocenter.maps.base import Base, open_base
from isocenter.maps.closure import Closure
from isocenter.maps.image_config import ContainerConfig, History, ImageConfig
from isocenter.maps.image_writer import Draft, write_image
from isocenter.maps.layer import Compression, LayerContent, WrittenLayer, write_layer
from isocenter.maps.manifests import (
    API_VERSION,
    HOLOSCAN,
    ApplicationManifest,
    Input,
    Model,
    Output,
    PackageManifest,
    application_json,
    package_json,
)
from isocenter.maps.models import PackagedModel
from isocenter.maps.python_layer import ENVIRONMENT, PYTHON, environment_layer, interpreter_layer
from isocenter.maps.sbom import SBOM_PATH, sbom_of
from isocenter.maps.standby import STANDBY_LABEL, STANDBY_VALUE
from isocenter_operators.errors import ConfigurationError

__all__ = [
    "TOOLS",
    "USER",
    "Parts",
    "build_image",
    "container_config",
    "environment",
    "finish_image",
    "image_labels",
    "manifests",
    "models_layer",
    "package_layer",
]

TOOLS = "/var/holoscan/tools"  # where holoscan-cli has its own
USER = 1000  # and group: no root
_INPUT = "/var/holoscan/input"
_OUTPUT = "/var/holoscan/output"
_PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# By which NVIDIA's container runtime brings the driver in; the CUDA libraries come with PyTorch.
_NVIDIA = {"NVIDIA_VISIBLE_DEVICES": "all", "NVIDIA_DRIVER_CAPABILITIES": "compute,utility"}
_SDK = "monai-deploy-app-sdk"


@dataclass(frozen=True)
class Parts:
    """All that a package is made of, but its base."""

    app: AppFolder
    closure: Closure
    models: tuple[PackagedModel, ...]
    tag: str
    minor: str  # of Python, "3.11"
    gpu: bool = False

    @property
    def weights(self) -> dict[str, str]:
        return {model.name: model.sha256 for model in self.models if model.name in self.app.models}

    def __post_init__(self) -> None:
        torch = next((each for each in self.closure.distributions if each.name == "torch"), None)
        if self.gpu and torch is not None and torch.version.endswith("+cpu"):
            raise ConfigurationError(
                f"--platform gpu: the PyTorch that would be packed, {torch.version}, is a CPU build: install the CUDA "
                "build of it, or give its wheel by --wheels"
            )

    @property
    def sdk_version(self) -> str | None:
        return next((each.version for each in self.closure.distributions if each.name == _SDK), None)


def build_image(
    parts: Parts, base: Base, out: Path, folder: Path, *, epoch: int, compression: Compression = "none"
) -> str:
    """Write the package to `out`, an archive (.oci, .tar) or the folder of a layout, and return its digest.

    folder: for what is made on the way. Raises ConfigurationError where the base has another Python than the one whose
    packages would be taken.
    """
    interpreter = base.interpreter()
    if interpreter.minor != parts.minor:
        raise ConfigurationError(
            f"--base: {base.name} has Python {interpreter.minor}, and the packages here are of {parts.minor}: give a "
            f"base with {parts.minor}, or build with a Python {interpreter.minor}"
        )
    contents = {
        "Python packages": environment_layer(parts.closure.distributions, parts.minor),
        "interpreter": interpreter_layer(interpreter),
        "models": models_layer(parts.models),
        "application": package_layer(parts, _sbom(parts, base, (base.name, base.digest)), users=_users(base)),
    }
    layers: list[WrittenLayer] = [
        write_layer(content, folder / f"{number}.tar", epoch=epoch, compression=compression)
        for number, content in enumerate(contents.values())
    ]
    created = datetime.fromtimestamp(epoch, UTC)
    history = tuple(
        History(created=created, created_by="isocenter map build", comment=comment) for comment in contents
    )
    before = base.config.history
    config = base.config.model_copy(
        update={
            "created": created,
            "config": container_config(parts, base.config.config, (base.name, base.digest)),
            # One entry for each layer: a base that tells less than it has is left untold.
            "history": (*before, *history) if before and _told(base.config) == len(base.layers) else None,
        }
    )
    return write_image(Draft(config, [*base.layers, *layers], parts.tag), out)


def finish_image(
    parts: Parts, built: Path, origin: tuple[str, str], out: Path, folder: Path, *, epoch: int
) -> str:
    """Write what an engine has built to `out`, with the bill of materials that only the whole image can tell, and
    return its digest. origin: the base's name, and its digest or ""."""
    image = open_base(built, folder, epoch=epoch)
    place = SBOM_PATH.lstrip("/")
    sbom = write_layer(
        LayerContent(files={place: _sbom(parts, image, origin)}), folder / "sbom.tar", epoch=epoch
    )
    comment = History(created_by="isocenter map build", comment="bill of materials")
    history = image.config.history
    config = image.config.model_copy(update={"history": (*history, comment) if history else None})
    return write_image(Draft(config, [*image.layers, sbom], parts.tag), out)


def _told(config: ImageConfig) -> int:
    return sum(not each.empty_layer for each in config.history or ())


def environment(parts: Parts) -> dict[str, str]:
    """What the specification tells the application, and what Python needs."""
    return {
        "HOLOSCAN_INPUT_PATH": _INPUT,
        "HOLOSCAN_OUTPUT_PATH": _OUTPUT,
        "HOLOSCAN_WORKDIR": HOLOSCAN.working_directory,
        "HOLOSCAN_APPLICATION": HOLOSCAN.application_root,
        "HOLOSCAN_MODEL_PATH": HOLOSCAN.model_root,
        "HOLOSCAN_DOCS_PATH": HOLOSCAN.documentation,
        "HOLOSCAN_CONFIG_PATH": HOLOSCAN.configuration,
        "HOLOSCAN_APP_MANIFEST_PATH": HOLOSCAN.application_manifest,
        "HOLOSCAN_PKG_MANIFEST_PATH": HOLOSCAN.package_manifest,
        "HOLOSCAN_TIMEOUT": str(parts.app.application.timeout),
        **(_NVIDIA if parts.gpu else {}),
        "HOME": "/tmp",  # the root may be read-only, and the user has no other place
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        # Holoscan is linked to the CUDA runtime, on a CPU too, and looks for it beside itself only.
        "LD_LIBRARY_PATH": f"{ENVIRONMENT}/lib/python{parts.minor}/site-packages/nvidia/cu13/lib",
    }


def container_config(parts: Parts, base: ContainerConfig, origin: tuple[str, str]) -> ContainerConfig:
    """How the package's container is started. origin: the base's name and digest."""
    ours = environment(parts)
    paths = base.environment.get("PATH", _PATHS)
    merged = {**base.environment, **ours, "PATH": f"{ENVIRONMENT}/bin:{paths}"}
    return ContainerConfig(
        user=f"{USER}:{USER}",
        env=tuple(f"{name}={value}" for name, value in merged.items()),
        entrypoint=(PYTHON, TOOLS),
        working_dir=HOLOSCAN.working_directory,
        labels={**(base.labels or {}), **image_labels(parts, origin)},
    )


def image_labels(parts: Parts, origin: tuple[str, str]) -> dict[str, str]:
    """OCI's own annotations, and those that holoscan-cli writes."""
    said = parts.app.application
    name, digest = origin
    labels = {
        "org.opencontainers.image.title": said.title,
        "org.opencontainers.image.version": said.version,
        "org.opencontainers.image.description": said.description,
        "org.opencontainers.image.licenses": said.licence,
        "org.opencontainers.image.authors": said.authors,
        "org.opencontainers.image.base.name": name,
        "org.opencontainers.image.base.digest": digest,
        "org.monai.deploy.app-sdk": parts.sdk_version,
        STANDBY_LABEL: STANDBY_VALUE if parts.app.stands_by else None,
        "tag": parts.tag,
        **{f"org.isocenter.model.{model}": f"sha256:{digest}" for model, digest in parts.weights.items()},
    }
    return {key: value for key, value in labels.items() if value}


def manifests(parts: Parts) -> tuple[ApplicationManifest, PackageManifest]:
    """app.json and pkg.json."""
    app = parts.app
    started = ["-m", "isocenter.stack.alone"] if app.models else []
    application = ApplicationManifest(
        api_version=API_VERSION,
        # As holoscan-cli writes and reads it: a list, in JSON.
        command=_words([PYTHON, *started, HOLOSCAN.application_root]),
        environment=environment(parts),
        input=Input(path=_INPUT, formats=app.application.input_formats),
        output=Output(path=_OUTPUT, format=list(app.application.output_formats) or None),
        sdk=_SDK if parts.sdk_version else None,
        sdk_version=parts.sdk_version,
        timeout=app.application.timeout,
        version=app.application.version,
        working_directory=HOLOSCAN.working_directory,
    )
    package = PackageManifest(
        api_version=API_VERSION,
        application_root=HOLOSCAN.application_root,
        model_root=HOLOSCAN.model_root,
        models=tuple(
            Model(name=each.name, path=f"{HOLOSCAN.model_root}/{each.name}") for each in parts.models
        ),
        resources=app.resources,
        version=app.application.version,
    )
    return application, package


def models_layer(models: Sequence[PackagedModel]) -> LayerContent:
    content = LayerContent(folders={HOLOSCAN.model_root.lstrip("/")})
    for model in models:
        for path, file in model.files.items():
            content.files[f"{HOLOSCAN.model_root.lstrip('/')}/{model.name}/{path}"] = file
    return content


def package_layer(parts: Parts, sbom: bytes, users: dict[str, bytes]) -> LayerContent:
    """The application, what the package says of itself, its folders, and `users`: the files that name its user."""
    content = LayerContent()
    files: dict[str, Any] = content.files
    root = HOLOSCAN.application_root.lstrip("/")
    config = parts.app.config(parts.weights)
    files |= {f"{root}/{path}": source for path, source in parts.app.files().items()}
    files[f"{root}/app.yaml"] = config
    files[HOLOSCAN.configuration.lstrip("/")] = config
    docs = HOLOSCAN.documentation.lstrip("/")
    files |= {f"{docs}/{path}": source for path, source in parts.app.documentation().items()}
    content.folders.add(docs)
    files[SBOM_PATH.lstrip("/")] = sbom
    application, package = manifests(parts)
    files[HOLOSCAN.application_manifest.lstrip("/")] = application_json(application).encode()
    files[HOLOSCAN.package_manifest.lstrip("/")] = package_json(package).encode()
    files[TOOLS.lstrip("/")] = Path(entry.__file__)
    content.executable.add(TOOLS.lstrip("/"))
    files |= users
    for path in (_INPUT, _OUTPUT):
        content.folders.add(path.lstrip("/"))
    # Whoever runs it as another user mounts a folder there; as its own it can write where it is told to.
    content.owned[_OUTPUT.lstrip("/")] = (USER, USER)
    return content


def _users(base: Base) -> dict[str, bytes]:
    """The base's users with the package's own, as which it runs."""
    found = {}
    for file, line in (
        ("etc/passwd", f"holoscan:x:{USER}:{USER}:holoscan:/var/holoscan:/usr/sbin/nologin\n"),
        ("etc/group", f"holoscan:x:{USER}:\n"),
    ):
        text = base.file_system.read(file).decode() if base.file_system.find(file) else ""
        if not any(each.split(":")[2:3] == [str(USER)] for each in text.splitlines()):
            found[file] = (text + ("" if text.endswith("\n") or not text else "\n") + line).encode()
    return found


def _sbom(parts: Parts, base: Base, origin: tuple[str, str]) -> bytes:
    text = (
        base.file_system.read("/etc/os-release").decode() if base.file_system.find("/etc/os-release") else ""
    )
    release = dict(line.partition("=")[::2] for line in text.splitlines() if "=" in line)
    return sbom_of(
        parts.app.name,
        parts.app.application.version,
        base=origin,
        distributions=parts.closure.distributions,
        packages=base.packages(),
        models=parts.models,
        release={key: value.strip('"') for key, value in release.items()},
    )


def _words(words: Sequence[str]) -> str:
    quoted = ", ".join(f'"{word}"' for word in words)
    return f"[{quoted}]"
