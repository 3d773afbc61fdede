"""What is wrong with a package's manifests, by the specification and by what hosts make of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from isocenter.maps.finding import Finding, error, warning
from isocenter.maps.inspection import Needs
from isocenter.maps.manifests import (
    HOLOSCAN,
    MONAI,
    ApplicationManifest,
    Fragment,
    PackageManifest,
    Probe,
    Reading,
    Resources,
)
from isocenter.maps.package import Package

__all__ = ["GPU_LABEL", "manifest_findings"]

# Set to "optional" by whoever builds a package that also runs without the GPU that it asks for.
GPU_LABEL = "org.isocenter.gpu"

_SEMANTIC = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?(\+[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?"
)  # https://semver.org
_UNIT = re.compile(r"\d+(\.\d+)?\s*[MG]iB?")
_SIZES = ("memory", "memory_limit", "gpu_memory", "gpu_memory_limit", "shared_memory", "shared_memory_limit")
_NAME_AT_MOST = 128  # bytes
_MAJORS = ("0", "1")  # of the specifications that are read


def manifest_findings(package: Package) -> Iterator[Finding]:
    """Of both manifests, each by itself and beside the other."""
    layout = package.layout
    application, manifest = package.application_reading, package.package_reading
    yield from _read(application, "app-manifest", layout.application_manifest)
    yield from _read(manifest, "pkg-manifest", layout.package_manifest)
    if layout is MONAI:
        yield warning(
            "layout-legacy",
            layout.application_manifest,
            "the package has the form that the specification had before 1.0",
            f"package it anew: manifests in {HOLOSCAN.application_manifest} and {HOLOSCAN.package_manifest}",
        )
    if application and application.manifest:
        yield from _application(application.manifest, layout.application_manifest)
    if manifest and manifest.manifest:
        yield from _package(package, manifest.manifest, layout.package_manifest)
    if application and manifest:
        yield from _versions(package, application.content, manifest.content)


def _read(reading: Reading[Any] | None, name: str, file: str) -> Iterator[Finding]:
    if reading is None:
        yield error(
            f"{name}-missing",
            file,
            "there is none",
            "package the application again; it is what makes a MAP of an image",
        )
        return
    for problem in reading.problems:
        if name == "app-manifest" and problem.key == "command":
            yield error(
                "command-missing", f"{file}#command", problem.message, "state the command that runs it"
            )
        else:
            place = f"{file}#{problem.key}" if problem.key else file
            yield error(
                f"{name}-invalid",
                place,
                problem.message,
                "correct it; see the specification's table of fields",
            )


def _application(manifest: ApplicationManifest, file: str) -> Iterator[Finding]:
    yield from _version(manifest.api_version, "api-version", f"{file}#apiVersion")
    yield from _known(manifest.api_version, f"{file}#apiVersion")
    yield from _version(manifest.version, "version", f"{file}#version")
    if manifest.sdk_version is not None and not _SEMANTIC.fullmatch(manifest.sdk_version):
        yield _not_semantic("sdk-version", f"{file}#sdkVersion", manifest.sdk_version)
    if not manifest.timeout:
        yield warning(
            "timeout-absent",
            f"{file}#timeout",
            "without a time limit, a run that hangs holds its place for ever",
            "state the seconds after which a run has failed, well above what the largest study takes",
        )
    for name, formats in (("input", manifest.input.formats), ("output", manifest.output.formats)):
        if not formats:
            key = "formats" if name == "input" else "format"
            yield warning(
                f"{name}-format-absent",
                f"{file}#{name}.{key}",
                f"it does not say what its {name} is, which the specification asks for",
                "state it, for example [DICOM]",
            )
    for name, probe in (("readiness", manifest.readiness), ("liveness", manifest.liveness)):
        if probe is not None:
            yield from _probe(probe, f"{file}#{name}")


def _version(version: str | None, name: str, place: str) -> Iterator[Finding]:
    if version is None:
        yield warning(f"{name}-absent", place, "it is not stated: 0.0.0 is assumed", "state it, as in 1.0.0")
    elif not _SEMANTIC.fullmatch(version):
        yield _not_semantic(name, place, version)


def _not_semantic(name: str, place: str, version: str) -> Finding:
    advice = "write three numbers, as in 1.0.0, in quotes"
    return error(f"{name}-not-semantic", place, f"{version!r} is no semantic version", advice)


def _known(version: str | None, place: str) -> Iterator[Finding]:
    if version is not None and version.partition(".")[0] not in _MAJORS:
        yield warning(
            "api-version-unknown",
            place,
            f"{version} is a version of the specification that is not known here, so it was read as 1.0",
            "update Isocenter, or package it for 1.0",
        )


def _probe(probe: Probe, place: str) -> Iterator[Finding]:
    needed = {"tcp": ("port",), "grpc": ("port",), "http-get": ("port", "path"), "command": ("command",)}
    if probe.type not in needed:
        yield error(
            "probe-type", f"{place}.type", f"{probe.type!r} is no probe", f"use one of {', '.join(needed)}"
        )
        return
    for key in needed[probe.type]:
        if getattr(probe, key) is None:
            yield error(
                "probe-incomplete", f"{place}.{key}", f"a probe of type {probe.type} needs it", "state it"
            )


def _package(package: Package, manifest: PackageManifest, file: str) -> Iterator[Finding]:
    yield from _version(manifest.api_version, "api-version", f"{file}#apiVersion")
    yield from _known(manifest.api_version, f"{file}#apiVersion")
    yield from _version(manifest.version, "version", f"{file}#version")
    for model in manifest.models:
        bad = any(char.isspace() or not char.isprintable() for char in model.name)
        if bad or not model.name or len(model.name.encode()) > _NAME_AT_MOST:
            yield error(
                "model-name",
                f"{file}#models",
                f"{model.name!r}: a model's name has no white space and at most {_NAME_AT_MOST} bytes",
                "rename it",
            )
    yield from _resources(package, manifest.resources, f"{file}#resources")


def _resources(package: Package, resources: Resources, place: str) -> Iterator[Finding]:
    fragments = resources.fragments or {}
    for where, part in (
        (place, resources),
        *((f"{place}.fragments.{name}", each) for name, each in fragments.items()),
    ):
        yield from _units(part, where)
    needs = Needs.of(package)
    if needs.memory is None and needs.memory_limit is None:
        yield warning(
            "memory-absent",
            f"{place}.memory",
            "no memory is stated: hosts assume 1Gi and end it beyond that, or let it take all there is",
            "state what the largest study takes, for example memory: 8Gi",
        )
    if needs.cpu is None and needs.cpu_limit is None:
        yield warning(
            "cpu-absent",
            f"{place}.cpu",
            "no CPU cores are stated: hosts assume 1",
            "state them, for example cpu: 4",
        )
    if needs.shared_memory is None:
        yield warning(
            "shared-memory-absent",
            f"{place}.sharedMemory",
            "no shared memory is stated: hosts give 64Mi, and model servers and PyTorch's loaders pass volumes by it",
            "state what the largest study takes, for example sharedMemory: 1Gi",
        )
    yield from _gpu(package, needs, place)


def _units(part: Fragment, place: str) -> Iterator[Finding]:
    for name in _SIZES:
        size = getattr(part, name)
        if size is not None and not _UNIT.fullmatch(size.strip()):
            key = re.sub("_(.)", lambda match: match[1].upper(), name)
            yield error(
                "memory-unit",
                f"{place}.{key}",
                f"{size!r}: the specification knows Mi and Gi",
                "write it like 1.5Gi",
            )


def _gpu(package: Package, needs: Needs, place: str) -> Iterator[Finding]:
    if needs.gpu:
        if package.labels.get(GPU_LABEL) != "optional":
            yield warning(
                "gpu-needed",
                f"{place}.gpu",
                "it asks for a GPU and does not say that it runs without one",
                f"where it does, label the image {GPU_LABEL}=optional; where not, plan hosts with a GPU for it",
            )
        if needs.gpu_memory is None:
            yield warning(
                "gpu-memory-absent",
                f"{place}.gpuMemory",
                "it asks for a GPU and does not say how much of its memory",
                "state what the largest study takes, for example gpuMemory: 8Gi",
            )
    elif needs.gpu_memory:
        yield warning(
            "gpu-contradicts",
            f"{place}.gpu",
            "GPU memory is stated, and no GPU",
            "state gpu: 1, or no gpuMemory",
        )


def _versions(
    package: Package, application: Mapping[str, Any], manifest: Mapping[str, Any]
) -> Iterator[Finding]:
    label = package.labels.get("org.opencontainers.image.version")
    stated = {
        package.layout.application_manifest: application.get("version"),
        package.layout.package_manifest: manifest.get("version"),
        "label org.opencontainers.image.version": label,
    }
    told = {place: str(version) for place, version in stated.items() if version is not None}
    if len(set(told.values())) > 1:
        yield warning(
            "versions-differ",
            package.layout.package_manifest,
            "; ".join(f"{place} says {version}" for place, version in told.items()),
            "state one version: it is what a result is traced back to",
        )
