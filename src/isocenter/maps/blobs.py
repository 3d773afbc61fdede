"""Where an image's blobs lie: in a folder, or one after another in a tar file. Nothing is unpacked to read them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from isocenter_operators.errors import InputError

__all__ = ["Folder", "Store", "TarFile", "digest_of", "store_at"]

_CHUNK = 1 << 20


class Store(Protocol):
    """Named files. `open` raises InputError for a name that is not there."""

    @property
    def path(self) -> Path: ...

    def has(self, name: str) -> bool: ...

    def open(self, name: str) -> BinaryIO: ...


@dataclass(frozen=True)
class Folder:
    """An OCI layout as it lies unpacked."""

    path: Path

    def has(self, name: str) -> bool:
        return self._file(name).is_file()

    def open(self, name: str) -> BinaryIO:
        try:
            return self._file(name).open("rb")
        except OSError as error:
            raise InputError(
                f"{self.path}: {name} can not be read: {error.strerror}", path=str(self.path)
            ) from error

    def _file(self, name: str) -> Path:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise InputError(f"{self.path}: {name!r} would lie outside of the image", path=str(self.path))
        return self.path / name


@dataclass(frozen=True)
class TarFile:
    """An archive: `files` says where in it each file begins, and how long it is, in bytes."""

    path: Path
    files: Mapping[str, tuple[int, int]]

    @classmethod
    def at(cls, path: Path) -> TarFile:
        """Read the archive's headers. Raises InputError where it is no tar, or a compressed one."""
        try:
            with tarfile.open(path, "r:") as archive:
                members = archive.getmembers()
        except OSError as error:
            raise InputError(f"{path}: can not be read: {error.strerror}", path=str(path)) from error
        except tarfile.TarError as error:
            raise InputError(
                f"{path}: no tar file, so no image archive ({error}); where it is compressed, unpack it first: "
                f"gunzip {path.name}",
                path=str(path),
            ) from error
        found: dict[str, tuple[int, int]] = {}
        links: dict[str, str] = {}
        for member in members:
            name = str(PurePosixPath(member.name))
            if member.isreg():
                found[name] = (member.offset_data, member.size)
            elif member.issym():  # docker save, before its version 25, for a layer that is there twice
                links[name] = str(PurePosixPath(name).parent / member.linkname)
        for name, target in links.items():
            if (place := _plain(target)) in found:
                found[name] = found[place]
        return cls(path, found)

    def has(self, name: str) -> bool:
        return name in self.files

    def open(self, name: str) -> BinaryIO:
        if name not in self.files:
            raise InputError(f"{self.path}: there is no {name} in it", path=str(self.path))
        start, size = self.files[name]
        return io.BufferedReader(_Part(self.path.open("rb", buffering=0), start, size), _CHUNK)


class _Part(io.RawIOBase):
    """The bytes from `start` to `start + size` of a file, as a file of its own."""

    def __init__(self, file: io.FileIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), max(0, self._size - self._at))
        self._file.seek(self._start + self._at)
        read = self._file.readinto(memoryview(buffer)[:wanted])
        self._at += read
        return read

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def store_at(path: Path) -> Store:
    """The folder or the archive. Raises InputError where there is neither."""
    if not path.exists():
        raise InputError(f"{path}: there is no such image file or folder", path=str(path))
    return Folder(path) if path.is_dir() else TarFile.at(path)


def digest_of(stream: BinaryIO) -> str:
    """`sha256:...` of all that is left to read in it."""
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def _plain(name: str) -> str:
    """`a/../b` as `b`."""
    parts: list[str] = []
    for part in PurePosixPath(name).parts:
        if part == "..":
            parts[-1:] = []
        else:
            parts.append(part)
    return "/".join(parts)
