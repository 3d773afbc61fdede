"""A MONAI bundle as it lies on the disk: a folder, or a zip of one (MONAI's "Bundle Specification")."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from isocenter_operators.errors import ConfigurationError

__all__ = ["Bundle", "opened"]

_CONFIGS = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
_PROGRAMS = frozenset({".py", ".pyc", ".so", ".pyd", ".egg", ".whl"})
_LARGEST_ZIP_MB = 32_768  # of what comes out of it


@dataclass(frozen=True)
class Bundle:
    """`config`: what inference is made of, as it stands in the file `config_file`, a path in the bundle."""

    folder: Path
    name: str
    metadata: Mapping[str, Any]
    config: Mapping[str, Any]
    config_file: str

    @property
    def programs(self) -> list[str]:
        """The files that it brings and Python could import, as paths in the bundle."""
        return sorted(
            file.relative_to(self.folder).as_posix()
            for file in self.folder.rglob("*")
            if file.suffix in _PROGRAMS and "__pycache__" not in file.parts
        )

    def has(self, path: str) -> bool:
        """Whether there is a file of this path, and in the bundle itself."""
        file = (self.folder / path).resolve()
        return file.is_file() and file.is_relative_to(self.folder.resolve())


@contextmanager
def opened(path: Path) -> Iterator[Bundle]:
    """The bundle in this folder or zip. Raises ConfigurationError, naming the file, where there is none."""
    if path.is_dir():
        yield _read(path.resolve(), path.resolve().name)
    elif path.is_file():
        with TemporaryDirectory(prefix="isocenter-bundle-") as folder:
            _unpack(path, Path(folder))
            yield _read(_root(Path(folder), path), path.stem)
    else:
        raise ConfigurationError(f"{path}: there is no such folder or zip", path=str(path))


def _read(folder: Path, name: str) -> Bundle:
    metadata_file = folder / "configs" / "metadata.json"
    if not metadata_file.is_file():
        raise ConfigurationError(
            f"{folder}: this is no MONAI bundle: there is no configs/metadata.json in it", path=str(folder)
        )
    config = next((each for each in _CONFIGS if (folder / each).is_file()), None)
    if config is None:
        raise ConfigurationError(
            f"{folder}: the bundle has none of {', '.join(_CONFIGS)}: it does not say how it is run",
            path=str(folder),
        )
    return Bundle(folder, name, _mapping(metadata_file), _mapping(folder / config), config)


def _mapping(file: Path) -> Mapping[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{file}: can not be read: {error}", path=str(file)) from error
    if not isinstance(content, Mapping):
        raise ConfigurationError(f"{file}: keys and values were expected", path=str(file))
    return content


def _unpack(path: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(each.file_size for each in archive.infolist()) > _LARGEST_ZIP_MB << 20:
                raise ConfigurationError(f"{path}: more than {_LARGEST_ZIP_MB} MB would come out of it")
            for each in archive.infolist():
                place = PurePosixPath(each.filename)
                if place.is_absolute() or ".." in place.parts:
                    raise ConfigurationError(f"{path}: {each.filename!r} would lie outside of the bundle")
            archive.extractall(folder)
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError) as error:  # the last: one with a password
        raise ConfigurationError(f"{path}: can not be unpacked: {error}", path=str(path)) from error


def _root(folder: Path, path: Path) -> Path:
    """Where the bundle begins: the zip may hold it in a folder of its own."""
    found = sorted(folder.rglob("configs/metadata.json"), key=lambda file: len(file.parts))
    if not found:
        raise ConfigurationError(
            f"{path}: this is no MONAI bundle: there is no configs/metadata.json in it", path=str(path)
        )
    return found[0].parents[1]
