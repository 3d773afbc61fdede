"""What lies in a package and should not: secrets, leftovers, open doors; and whether its weights are what it states."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from isocenter.maps.filesystem import Entry
from isocenter.maps.finding import Finding, error, warning
from isocenter.maps.inspection import bills_of_materials, model_digest
from isocenter.maps.package import Package
from isocenter_operators.errors import InputError

__all__ = ["MODEL_LABEL", "content_findings", "is_secret"]

# A label of this and the model's name has the SHA-256 of its weights, as `isocenter map inspect` counts it.
MODEL_LABEL = "org.isocenter.model."

_TOLD_AT_MOST = 3  # places of one kind
_KEY_AT_MOST = 1 << 16  # bytes of a file that holds a key
_OPEN_TO_ALL = ("tmp", "var/tmp", "dev", "proc", "sys", "run", "var/run", "var/lock", "run/lock")
_REPOSITORIES = (".git", ".hg", ".svn")
_CACHES = (".pytest_cache", ".mypy_cache", ".ruff_cache", ".ipynb_checkpoints", ".cache")
_SECRET_NAMES = (".env", ".netrc", ".pypirc", ".pgpass", "id_rsa", "id_dsa", "id_ecdsa", "id_ed25519")
_SECRET_ENDS = (".aws/credentials", ".docker/config.json", ".kube/config", ".config/gcloud/credentials.db")
_KEY_FILES = (".pem", ".key", ".p12", ".pfx")
_OF_LIBRARIES = (
    "/site-packages/",
    "/dist-packages/",
    "usr/share/",
)  # what everybody has: their tests and examples
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")


def content_findings(package: Package) -> Iterator[Finding]:
    """Of every file in the package; places of one kind are told together."""
    entries = list(package.files.entries())
    yield from _permissions(entries)
    yield from _leftovers(package, entries)
    yield from _weights(package)
    if not bills_of_materials(package):
        yield warning(
            "sbom-absent",
            "/",
            "no bill of materials is in it, so nobody can ask whether a known hole concerns it",
            "put a CycloneDX or SPDX file into it when it is built: sbom.cdx.json or *.spdx.json",
        )


def _permissions(entries: list[Entry]) -> Iterator[Finding]:
    yield from _together(
        "world-writable",
        warning,
        (each for each in entries if each.mode & 0o002 and _is_own(each) and not _is_shared_folder(each)),
        "anybody in the container may change it",
        "chmod o-w it when the image is built",
    )
    yield from _together(
        "setuid",
        warning,
        (each for each in entries if each.kind == "file" and each.mode & 0o6000),
        "it runs with its owner's rights, whoever starts it",
        "chmod a-s it when the image is built: an application needs none of them",
    )
    yield from _together(
        "device-inside",
        warning,
        (each for each in entries if each.kind == "device"),
        "a device node, which is the host's to give",
        "leave it out",
    )


def _is_own(entry: Entry) -> bool:
    return entry.kind in ("file", "directory") and not any(
        entry.path == place or entry.path.startswith(f"{place}/") for place in _OPEN_TO_ALL
    )


def _is_shared_folder(entry: Entry) -> bool:
    return entry.kind == "directory" and bool(entry.mode & 0o1000)


def _leftovers(package: Package, entries: list[Entry]) -> Iterator[Finding]:
    yield from _together(
        "repository-inside",
        warning,
        (each for each in entries if _name(each) in _REPOSITORIES),
        "the history of the source code, with all that was ever in it",
        "leave it out: .dockerignore",
    )
    yield from _together(
        "cache-inside",
        warning,
        (each for each in entries if each.kind == "directory" and _is_cache(each, entries)),
        "a cache, which makes the image larger and different each time",
        "leave it out, or delete it in the step that makes it",
    )
    yield from _together(
        "secret-inside",
        warning,
        (
            each
            for each in entries
            if each.kind == "file"
            and not _is_of_library(each)
            and is_secret(each.path, each.size, partial(package.files.read, each.path))
        ),
        "it looks like a secret, and whoever has the image has it",
        "leave it out, and change it where it was used",
    )
    yield from _together(
        "images-inside",
        warning,
        (each for each in entries if _is_image(each)),
        "DICOM files: are they a patient's?",
        "leave them out",
    )


def _is_cache(entry: Entry, entries: list[Entry]) -> bool:
    if _name(entry) not in _CACHES and entry.path != "var/lib/apt/lists":
        return False
    return any(each.kind == "file" and each.path.startswith(f"{entry.path}/") for each in entries)


def _is_image(entry: Entry) -> bool:
    named = _name(entry).lower().endswith((".dcm", ".dicom"))
    return entry.kind == "file" and named and not _is_of_library(entry)


def _is_of_library(entry: Entry) -> bool:
    return any(place in entry.path for place in _OF_LIBRARIES)


def is_secret(path: str, size: int, read: Callable[[], bytes]) -> bool:
    """Whether a file looks like a secret: by its name, and of a key by what `read` gives. size: in bytes."""
    if not size:
        return False
    if path.rpartition("/")[2] in _SECRET_NAMES or path.endswith(_SECRET_ENDS):
        return True
    if not path.endswith(_KEY_FILES) or size > _KEY_AT_MOST:
        return False
    return path.endswith((".p12", ".pfx")) or bool(_PRIVATE_KEY.search(read()))


def _weights(package: Package) -> Iterator[Finding]:
    """Compared with the image's labels, and with the hashes that its bills of materials give files of these names."""
    for model, path in package.models:
        stated, there = package.labels.get(f"{MODEL_LABEL}{model.name}"), model_digest(package, path)
        if stated and there and stated.removeprefix("sha256:") != there:
            yield _differs(f"{MODEL_LABEL}{model.name}", path, stated, there)
    stated_of_files = _stated_hashes(package)
    files = [
        each for each in package.files.entries() if each.kind == "file" and f"/{each.path}" in stated_of_files
    ]
    for file, pieces in package.files.contents(files):
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        if digest.hexdigest() != stated_of_files[f"/{file.path}"]:
            yield _differs(
                "the bill of materials", f"/{file.path}", stated_of_files[f"/{file.path}"], digest.hexdigest()
            )


def _differs(who: str, path: str, stated: str, there: str) -> Finding:
    return error(
        "weights-differ",
        path,
        f"{who} states {stated.removeprefix('sha256:')[:12]}..., and here is {there[:12]}...",
        "do not run it: build it again from the weights that were validated",
    )


def _stated_hashes(package: Package) -> dict[str, str]:
    """The SHA-256 that CycloneDX states of components whose name is an absolute path, by that."""
    stated: dict[str, str] = {}
    for bill in bills_of_materials(package):
        if not bill.format.startswith("CycloneDX"):
            continue
        try:
            content: Any = json.loads(package.files.read(bill.path))
        except (ValueError, InputError):
            continue
        for component in content.get("components") or ():
            if isinstance(component, Mapping):
                stated.update(_hash_of(component))
    return stated


def _hash_of(component: Mapping[str, Any]) -> dict[str, str]:
    name = str(component.get("name", ""))
    if not name.startswith("/"):
        return {}
    for each in component.get("hashes") or ():
        if isinstance(each, Mapping) and each.get("alg") == "SHA-256":
            return {name: str(each.get("content", "")).lower()}
    return {}


def _together(
    name: str,
    make: Callable[[str, str, str, str], Finding],
    entries: Iterable[Entry],
    message: str,
    advice: str,
) -> Iterator[Finding]:
    found = [f"/{entry.path}" for entry in entries]
    for path in found[:_TOLD_AT_MOST]:
        more = len(found) - _TOLD_AT_MOST
        last = path == found[_TOLD_AT_MOST - 1] if len(found) >= _TOLD_AT_MOST else False
        yield make(name, path, f"{message} (and {more} more such)" if last and more > 0 else message, advice)


def _name(entry: Entry) -> str:
    return entry.path.rpartition("/")[2]
