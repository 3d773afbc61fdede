"""Python distributions that go into an image: as they are installed here, or as wheels in a folder.

What is taken is what the distribution's own RECORD lists, each file checked against the hash that stands there. Left
out: compiled Python, and scripts, whose first line names the interpreter of this machine.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import importlib.util
import json
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name

from isocenter.maps.layer import files_below
from isocenter_operators.errors import ConfigurationError, InputError

__all__ = ["Distribution", "installed", "is_editable", "wheels_in"]

# What pip notes about this machine's installation.
_OF_THIS_MACHINE = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "axle.done", "axle.lck")
_LAYOUT_FOLDERS = {"purelib", "platlib"}


@dataclass(frozen=True)
class Distribution:
    """One distribution. The paths of `files` and `links` are below site-packages.

    requires: as its metadata lists them, with markers. sha256: over the names and hashes of its files.
    """

    name: str  # normalized: lower case, hyphens
    version: str
    licence: str
    requires: tuple[str, ...]
    files: Mapping[str, Path | bytes] = field(repr=False)
    links: Mapping[str, str] = field(repr=False)
    digests: Mapping[str, str] = field(repr=False)  # SHA-256 of each file, in hexadecimal digits
    sha256: str
    size: int  # bytes


def installed(name: str) -> Distribution | None:
    """The distribution of this name in the running environment; None where it is not installed.

    Raises InputError where a file of it is missing or changed: what was tested is not what would be packed.
    """
    found = _found(name)
    if found is None:
        return None
    origin = _editable(found)
    return _from_source(found, origin) if origin is not None else _from_record(found)


def is_editable(name: str) -> bool:
    """Whether it is installed here as a source tree."""
    found = _found(name)
    return found is not None and _editable(found) is not None


def _found(name: str) -> importlib.metadata.Distribution | None:
    """What was installed, before what a build has left in the folder that Python was started in (`.egg-info`)."""
    all_of_it = list(importlib.metadata.distributions(name=name))
    return next((each for each in all_of_it if each.read_text("RECORD")), next(iter(all_of_it), None))


def _editable(found: importlib.metadata.Distribution) -> Path | None:
    """The source tree of an editable installation."""
    said = json.loads(found.read_text("direct_url.json") or "{}")
    if not said.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlsplit(said["url"]).path))


def _from_record(found: importlib.metadata.Distribution) -> Distribution:
    files: dict[str, Path | bytes] = {}
    links: dict[str, str] = {}
    digests: dict[str, str] = {}
    name = found.name  # which reads all of its metadata, each time
    for listed in found.files or ():
        path = PurePosixPath(listed)
        if not _is_wanted(path):
            continue
        here = Path(str(found.locate_file(listed)))
        if here.is_symlink():
            links[str(path)] = str(here.readlink())
        elif here.is_file():
            digests[str(path)] = _sha256(here)
            # Not of metadata: that of Holoscan's wheel is not what its own RECORD says.
            if listed.hash and listed.hash.mode == "sha256" and not _is_metadata(path):
                _expect(name, here, digests[str(path)], listed.hash.value)
            files[str(path)] = here
        elif path.suffix != ".pth":  # Holoscan's wheel removes its own once it is done
            raise InputError(
                f"{name}: {here} is listed in its RECORD and not there; install it anew: "
                f"pip install --force-reinstall --no-deps {name}=={found.version}",
                path=str(here),
            )
    return _distribution(found.metadata, files, links, digests)


def _from_source(found: importlib.metadata.Distribution, tree: Path) -> Distribution:
    """Packages as they lie in the source tree, and metadata from its pyproject.toml: that of the installation may be
    older than both."""
    files: dict[str, Path | bytes] = {}
    for package in (found.read_text("top_level.txt") or "").split():
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            files |= {
                f"{package}/{path.relative_to(place).as_posix()}": path for path in files_below(Path(place))
            }
    if not files:
        raise InputError(f"{found.name}: no package of it was found in {tree}", path=str(tree))
    metadata = _project_metadata(found, tree / "pyproject.toml")
    folder = f"{found.name.replace('-', '_')}-{found.version}.dist-info"
    files[f"{folder}/METADATA"] = metadata.encode()
    if entry_points := found.read_text("entry_points.txt"):
        files[f"{folder}/entry_points.txt"] = entry_points.encode()
    digests = {path: _sha256(content) for path, content in files.items()}
    return _distribution(Parser().parsestr(metadata), files, {}, digests)


def _project_metadata(found: importlib.metadata.Distribution, file: Path) -> str:
    try:
        project: dict[str, Any] = tomllib.loads(file.read_text())["project"]
    except (OSError, KeyError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"{file}: the project's metadata can not be read: {error}", path=str(file)
        ) from error
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {found.name}",
        f"Version: {found.version}",
        *([f"License-Expression: {project['license']}"] if isinstance(project.get("license"), str) else []),
        *(f"Requires-Dist: {each}" for each in project.get("dependencies", ())),
    ]
    for extra, requirements in project.get("optional-dependencies", {}).items():
        lines.append(f"Provides-Extra: {extra}")
        for each in requirements:
            requirement, _, marker = each.partition(";")
            condition = f"({marker.strip()}) and " if marker else ""
            lines.append(f'Requires-Dist: {requirement.strip()}; {condition}extra == "{extra}"')
    return "\n".join(lines) + "\n"


def wheels_in(folder: Path, unpacked: Path) -> dict[str, Distribution]:
    """The wheels in a folder by their names, unpacked into another one.

    Raises ConfigurationError where there are none, or two of one name; InputError where one is damaged.
    """
    found: dict[str, Distribution] = {}
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise ConfigurationError(f"--wheels: there are no wheels (*.whl) in {folder}", path=str(folder))
    for file in wheels:
        wheel = _wheel(file, unpacked / file.stem)
        if wheel.name in found:
            raise ConfigurationError(
                f"--wheels: {folder} holds several versions of {wheel.name}; leave one there"
            )
        found[wheel.name] = wheel
    return found


def _wheel(file: Path, folder: Path) -> Distribution:
    try:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)  # which takes no path out of the folder
        metadata_folder = next(folder.glob("*.dist-info"))
        record = list(csv.reader((metadata_folder / "RECORD").read_text().splitlines()))
        metadata = Parser().parsestr((metadata_folder / "METADATA").read_text())
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise InputError(f"{file}: no wheel that can be read: {error}", path=str(file)) from error
    files: dict[str, Path | bytes] = {}
    digests: dict[str, str] = {}
    for listed, hashed, *_ in record:
        here = folder / listed
        path = _installed_at(PurePosixPath(listed))
        if path is None or not _is_wanted(path):
            continue
        if not here.is_file():
            raise InputError(f"{file}: {listed} is listed in its RECORD and not in it", path=str(file))
        digests[str(path)] = _sha256(here)
        if hashed.startswith("sha256=") and not _is_metadata(path):
            _expect(file.name, here, digests[str(path)], hashed.removeprefix("sha256="))
        files[str(path)] = here
    links = _axle_links(metadata_folder)
    if links:  # which its hook, at Python's start, would make, and has no right to in a package
        hook = f"{metadata_folder.name.removesuffix('.dist-info')}.pth"
        files.pop(hook, None)
        digests.pop(hook, None)
    return _distribution(metadata, files, links, digests)


def _axle_links(metadata_folder: Path) -> dict[str, str]:
    """The symbolic links of a wheel made by wheel-axle, as Holoscan's is: a zip can hold none. Path to target."""
    file = metadata_folder / "symlinks.txt"
    lines = csv.reader(file.read_text().splitlines()) if file.is_file() else ()
    places = ((_installed_at(PurePosixPath(path)), target) for path, target, *_ in lines)
    return {str(path): target for path, target in places if path is not None}


def _installed_at(path: PurePosixPath) -> PurePosixPath | None:
    """Where a file of a wheel comes to lie below site-packages; None for what lies elsewhere, as scripts do."""
    if not path.parts[0].endswith(".data"):
        return path
    return PurePosixPath(*path.parts[2:]) if path.parts[1] in _LAYOUT_FOLDERS else None


def _is_wanted(path: PurePosixPath) -> bool:
    if (
        path.is_absolute()
        or ".." in path.parts
        or "__pycache__" in path.parts
        or path.suffix in (".pyc", ".pyo")
    ):
        return False
    return not (_is_metadata(path) and path.name in _OF_THIS_MACHINE)


def _is_metadata(path: PurePosixPath) -> bool:
    return path.parts[0].endswith(".dist-info")


def _distribution(
    metadata: Message | importlib.metadata.PackageMetadata,
    files: Mapping[str, Path | bytes],
    links: Mapping[str, str],
    digests: Mapping[str, str],
) -> Distribution:
    told = {**links, **digests}
    whole = hashlib.sha256("".join(f"{path} {told[path]}\n" for path in sorted(told)).encode())
    return Distribution(
        name=canonicalize_name(metadata["Name"]),
        version=metadata["Version"],
        licence=_licence(metadata),
        requires=tuple(metadata.get_all("Requires-Dist") or ()),
        files=files,
        links=links,
        digests=digests,
        sha256=whole.hexdigest(),
        size=sum(len(each) if isinstance(each, bytes) else each.stat().st_size for each in files.values()),
    )


def _licence(metadata: Message | importlib.metadata.PackageMetadata) -> str:
    """An SPDX expression where the package states one, else its classifier or its own words; "" where it is silent."""
    for key in ("License-Expression", "License"):
        said = str(metadata[key] or "").strip()
        if said and "\n" not in said and said != "UNKNOWN":
            return said
    return next(_of_classifiers(metadata.get_all("Classifier") or ()), "")


def _of_classifiers(classifiers: Iterable[str]) -> Iterator[str]:
    return (each.rpartition(" :: ")[2] for each in classifiers if each.startswith("License :: "))


def _sha256(content: Path | bytes) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with content.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _expect(name: str, file: Path, found: str, recorded: str) -> None:
    """A RECORD has its hashes as base64, for URLs and without its padding."""
    if base64.urlsafe_b64encode(bytes.fromhex(found)).rstrip(b"=").decode() != recorded:
        raise InputError(
            f"{name}: {file} is not what its RECORD says: it was changed after it was installed; install it anew",
            path=str(file),
        )
