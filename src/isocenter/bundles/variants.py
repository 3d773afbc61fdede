"""Versions of a model that are the same bundle, computed in another way: by which `variant.json` of their folder says.

What the ways are, and what a variant is loaded from, is known to the engine alone (`bundle_engine.variant`).
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from isocenter.bundles.installing import Imported, adding, versions_of
from isocenter_operators.errors import ConfigurationError
from isocenter_operators.manifest import manifest_file

__all__ = ["Measured", "add_variant", "variant_of", "version_with"]

_VARIANT = "variant.json"
_FILES = "variant.*"  # and what it is loaded from
_BUNDLE = "bundle"
_COMPILED = "__pycache__"


@dataclass(frozen=True)
class Measured:
    """A way of computing a version's network that was measured. `variant`: as the engine reads it, None for the network
    as it is. `files`: a folder with what it is loaded from, as `variant.*`. `figures`: what was measured."""

    variant: Mapping[str, Any] | None
    files: Path
    figures: Mapping[str, Any]


def variant_of(version: Path) -> Mapping[str, Any] | None:
    """The variant that a version's folder names; None where that is the network as it is, and an empty one where the
    file can not be read, which its model refuses."""
    file = version / _VARIANT
    if not file.exists():
        return None
    try:
        said = json.loads(file.read_text())["variant"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return said if isinstance(said, dict) else {}


def version_with(measured: Measured, version: Path) -> str | None:
    """The version that is the same bundle and engine as this one, computed so; None where there is none yet.

    Raises ConfigurationError where files can not be read.
    """
    wanted = None if measured.variant is None else _as_read(measured.variant)
    needed = {file.name for file in measured.files.glob(_FILES)}
    for number in (version.name, *versions_of(version.parent)):
        other = version.parent / number
        there = {file.name for file in other.glob(_FILES)} - {_VARIANT}
        if variant_of(other) == wanted and there == needed and _same(version, other):
            return number
    return None


def add_variant(measured: Measured, version: Path, *, app: Path, loaded: Sequence[str]) -> Imported:
    """Make of a version's folder the next version of the same model, computed so, which does nothing until it is given
    a role. The folder stays as it is.

    app: the application's folder. loaded: the versions that the model's server is to have loaded meanwhile. Raises
    ConfigurationError where something can not be read or written; then there is no such version.
    """
    model = version.parent
    described = _described(app, model.name, version.name)
    with adding(model.name, models=model.parent, apps=app.parent, loaded=loaded) as addition:
        described["isocenter"] = {**described["isocenter"], "models": {model.name: addition.version}}
        text = yaml.safe_dump(described, sort_keys=False, allow_unicode=True)
        (addition.about / "app.yaml").write_text(text)
        _copy(version, addition.model)
        for file in measured.files.glob(_FILES):
            shutil.copyfile(file, addition.model / file.name)
        if measured.variant is not None:
            said = {"variant": measured.variant, "of_version": version.name, "measured": measured.figures}
            (addition.model / _VARIANT).write_text(json.dumps(said, indent=2) + "\n")
    return Imported(model.name, model / addition.version, app, addition.version)


def _described(app: Path, model: str, version: str) -> dict[str, Any]:
    """As the version is described that the new one is of: it is the same bundle."""
    file = manifest_file(app, version)
    try:
        described = yaml.safe_load(file.read_text())
        if model not in described["isocenter"]["models"]:
            raise ValueError(f"it names no model {model}")
        return dict(described)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{file}: can not be read: {error}", path=str(file)) from error


def _copy(version: Path, to: Path) -> None:
    """The bundle as links: weights are large, and no version's are changed."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        own = {_BUNDLE, *(file.name for file in version.glob(_FILES))} if Path(folder) == version else set()
        return {_COMPILED, *own}.intersection(names)

    shutil.copytree(version, to, ignore=left_out, dirs_exist_ok=True)
    shutil.copytree(version / _BUNDLE, to / _BUNDLE, ignore=left_out, copy_function=_link)


def _link(file: str, to: str) -> None:
    try:
        os.link(os.path.realpath(file), to)
    except OSError:  # no file system that can, or another one
        shutil.copy2(file, to)


def _as_read(variant: Mapping[str, Any]) -> Any:
    """As it comes back out of a file: tuples are lists there."""
    return json.loads(json.dumps(variant))


def _same(one: Path, other: Path) -> bool:
    """Whether two versions are the same but for their variants."""
    names = set(_names(one))
    try:
        return names == set(_names(other)) and all(
            (one / name).samefile(other / name) or filecmp.cmp(one / name, other / name, shallow=False)
            for name in names
        )
    except OSError as error:
        raise ConfigurationError(f"{error.filename}: can not be read: {error.strerror}") from error


def _names(version: Path) -> Iterator[str]:
    for place, folders, names in os.walk(version, followlinks=True):
        folders[:] = [name for name in folders if name != _COMPILED]
        for name in names:
            path = (Path(place) / name).relative_to(version)
            if len(path.parts) > 1 or not path.match(_FILES):
                yield path.as_posix()
