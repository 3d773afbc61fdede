"""What a package says of itself, and what is in it: for people who have to decide whether it may run, and where."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isocenter.maps.filesystem import Entry
from isocenter.maps.manifests import Resources, memory_bytes
from isocenter.maps.package import Package
from isocenter_operators.errors import InputError

__all__ = [
    "BillOfMaterials",
    "Inspection",
    "LayerSummary",
    "ModelSummary",
    "Needs",
    "base_of",
    "bills_of_materials",
    "inspect_package",
    "model_digest",
]

_BASE_NAME = "org.opencontainers.image.base.name"
_BASE_DIGEST = "org.opencontainers.image.base.digest"
_SBOM_AT_MOST = 64 << 20  # bytes


@dataclass(frozen=True)
class ModelSummary:
    """`sha256`: see `model_digest`."""

    name: str
    path: str
    there: bool
    files: int
    size: int  # bytes
    sha256: str | None  # None where it is not there


@dataclass(frozen=True)
class LayerSummary:
    digest: str
    size: int  # bytes, as it lies in the image
    created_by: str


@dataclass(frozen=True)
class BillOfMaterials:
    """A list of what the package is made of, in one of the usual formats."""

    path: str
    format: str  # CycloneDX 1.6, SPDX-2.3
    components: int


@dataclass(frozen=True)
class Needs:
    """What a host has to give. Sizes in bytes; None where the package says nothing, and the host has to decide."""

    cpu: float | None
    gpu: float | None
    memory: int | None
    gpu_memory: int | None
    shared_memory: int | None
    memory_limit: int | None
    cpu_limit: float | None
    timeout_s: int | None

    @classmethod
    def of(cls, package: Package) -> Needs:
        """Of an application of several fragments on one host, what the largest of them needs."""
        reading, application = package.package_reading, package.application_reading
        resources = reading.manifest.resources if reading and reading.manifest else Resources()
        each = [resources, *(resources.fragments or {}).values()]
        timeout = application.manifest.timeout if application and application.manifest else 0

        def most(name: str, *, size: bool) -> Any:
            given = [value for part in each if (value := getattr(part, name)) is not None]
            return max(map(memory_bytes, given) if size else given, default=None)

        return cls(
            cpu=most("cpu", size=False),
            gpu=most("gpu", size=False),
            memory=most("memory", size=True),
            gpu_memory=most("gpu_memory", size=True),
            shared_memory=most("shared_memory", size=True),
            memory_limit=most("memory_limit", size=True),
            cpu_limit=most("cpu_limit", size=False),
            timeout_s=timeout or None,
        )


@dataclass(frozen=True)
class Inspection:
    """All of it. The manifests stand as their files have them; what can not be read is told in `problems`."""

    source: str
    kind: str
    digest: str | None
    tag: str
    platform: str
    created: str | None
    base: str | None
    user: str
    entrypoint: Sequence[str]
    command: Sequence[str]
    working_directory: str
    layout: str
    application: Mapping[str, Any] | None
    package: Mapping[str, Any] | None
    problems: Sequence[str]
    needs: Needs
    models: Sequence[ModelSummary]
    layers: Sequence[LayerSummary]
    labels: Mapping[str, str]
    bills_of_materials: Sequence[BillOfMaterials]
    files: int
    size: int  # bytes of all files


def inspect_package(package: Package) -> Inspection:
    """Raises InputError for an image whose files can not be read."""
    config, started = package.config, package.config.config
    application, manifest = package.application_reading, package.package_reading
    files = [entry for entry in package.files.entries() if entry.kind == "file"]
    problems = [
        f"{file}: {problem}"
        for file, reading in (
            (package.layout.application_manifest, application),
            (package.layout.package_manifest, manifest),
        )
        for problem in (reading.problems if reading else ("there is none",))
    ]
    return Inspection(
        source=package.source,
        kind=package.kind,
        digest=package.digest,
        tag=package.image.tag if package.image else "",
        platform=f"{config.os}/{config.architecture}" if package.image else "",
        created=config.created.isoformat() if config.created else None,
        base=base_of(package),
        user=started.user,
        entrypoint=started.entrypoint or (),
        command=started.cmd or (),
        working_directory=started.working_dir,
        layout=package.layout.name,
        application=application.content if application else None,
        package=manifest.content if manifest else None,
        problems=problems,
        needs=Needs.of(package),
        models=_models(package),
        layers=_layers(package),
        labels=dict(sorted(package.labels.items())),
        bills_of_materials=bills_of_materials(package),
        files=len(files),
        size=sum(entry.size for entry in files),
    )


def base_of(package: Package) -> str | None:
    """The image that it was built on, as its labels say: of OCI, or of holoscan-cli."""
    labels = package.labels
    name, digest = labels.get(_BASE_NAME) or labels.get("base"), labels.get(_BASE_DIGEST)
    if not name:
        return digest
    return f"{name}@{digest}" if digest and "@" not in name else name


def model_digest(package: Package, path: str) -> str | None:
    """The SHA-256 of the model at this path: of a file its own; of a folder as `isocenter.weights` counts it.

    Of a Triton model, the folder with its configuration, that is the folder of its version. None where nothing is.
    """
    found = package.files.find(path)
    files = package.files_below(path)
    if found is None or not files:
        return None
    digest = hashlib.sha256()
    if found.kind == "file":
        for _, pieces in package.files.contents(files):
            for piece in pieces:
                digest.update(piece)
        return digest.hexdigest()
    prefix = f"{_weights_folder(found.path, files)}/"
    own = [each for each in files if each.path.startswith(prefix) and "/__pycache__/" not in each.path]
    for entry, pieces in package.files.contents(own):  # which are sorted by their names
        digest.update(f"{entry.path.removeprefix(prefix)}\0{entry.size}\0".encode())
        for piece in pieces:
            digest.update(piece)
    return digest.hexdigest()


def _weights_folder(folder: str, files: Sequence[Entry]) -> str:
    if f"{folder}/config.pbtxt" not in {each.path for each in files}:
        return folder
    inner = {each.path.removeprefix(f"{folder}/").partition("/")[0] for each in files}
    versions = sorted((each for each in inner if each.isdecimal()), key=int)
    return f"{folder}/{versions[-1]}" if versions else folder


def _models(package: Package) -> list[ModelSummary]:
    found = [(model.name, path, package.files_below(path)) for model, path in package.models]
    return [
        ModelSummary(
            name=name,
            path=path,
            there=package.has(path),
            files=len(files),
            size=sum(entry.size for entry in files),
            sha256=model_digest(package, path),
        )
        for name, path, files in found
    ]


def _layers(package: Package) -> list[LayerSummary]:
    if package.image is None:
        return []
    steps = [step for step in package.config.history or () if not step.empty_layer]
    told = [step.created_by or "" for step in steps] if len(steps) == len(package.image.layers) else []
    return [
        LayerSummary(layer.digest or layer.diff_id, layer.size, told[at] if told else "")
        for at, layer in enumerate(package.image.layers)
    ]


def bills_of_materials(package: Package) -> list[BillOfMaterials]:
    """Those that lie in the package, found by their names."""
    found = []
    for entry in package.files.entries():
        name = entry.path.rpartition("/")[2].lower()
        named = name.endswith((".cdx.json", ".spdx.json")) or name in ("sbom.json", "bom.json")
        if entry.kind == "file" and named and entry.size <= _SBOM_AT_MOST:
            summary = _bill(package, entry)
            if summary is not None:
                found.append(summary)
    return found


def _bill(package: Package, entry: Entry) -> BillOfMaterials | None:
    try:
        content = json.loads(package.files.read(entry.path))
    except (ValueError, InputError):
        return None
    if not isinstance(content, dict):
        return None
    if content.get("bomFormat") == "CycloneDX":
        components = content.get("components") or ()
        return BillOfMaterials(
            f"/{entry.path}", f"CycloneDX {content.get('specVersion', '')}", len(components)
        )
    if "spdxVersion" in content:
        return BillOfMaterials(
            f"/{entry.path}", str(content["spdxVersion"]), len(content.get("packages") or ())
        )
    return None
