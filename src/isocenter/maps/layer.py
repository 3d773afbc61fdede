"""Layers as this project makes them: the same files give the same bytes, whenever and by whomever they are packed.

Paths are sorted, each folder has an entry, owners are numbers that are asked for, times are one moment, permissions are
0755 or 0644, and nothing else of the file system is kept.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, cast

from isocenter.maps.image_config import LAYER_TYPE
from isocenter_operators.errors import InputError

__all__ = [
    "Compression",
    "LayerContent",
    "WrittenLayer",
    "epoch_of",
    "files_below",
    "write_layer",
    "write_tree",
]

Compression = Literal["none", "gzip"]

_CHUNK = 1 << 20
_EXECUTABLE = 0o111
# Written by Python, by editors and by operating systems: of no use to whoever runs the image, and never the same.
_LEFT_OUT = ("__pycache__", ".git", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".DS_Store")
_LEFT_OUT_SUFFIXES = (".pyc", ".pyo")


@dataclass
class LayerContent:
    """What is to be in a layer. Paths are the image's, without a leading slash.

    files: a file here, or its bytes. executable: those of the bytes that can be run. owned: folders and files that
    belong to another than root, with its numbers. folders: that are to be there, empty or not.
    """

    files: dict[str, Path | bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)  # symbolic: path -> target
    folders: set[str] = field(default_factory=set)
    executable: set[str] = field(default_factory=set)
    owned: dict[str, tuple[int, int]] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)  # of folders and files that are no 0755 or 0644

    def every_folder(self) -> set[str]:
        """Those that were asked for, and all that lead to them and to files."""
        leading = {
            str(parent)
            for path in (*self.files, *self.links, *self.folders)
            for parent in PurePosixPath(path).parents
        }
        return (self.folders | leading) - {"."}


@dataclass(frozen=True)
class WrittenLayer:
    """A layer as it lies in a file."""

    file: Path
    digest: str
    diff_id: str
    size: int  # bytes
    media_type: str

    def open_blob(self) -> BinaryIO:
        return self.file.open("rb")

    def open(self) -> BinaryIO:
        """The tar, without compression."""
        return cast(BinaryIO, gzip.open(self.file)) if self.media_type.endswith("gzip") else self.open_blob()


def epoch_of(environment: Mapping[str, str] = os.environ) -> int:
    """The moment that everything is dated with: SOURCE_DATE_EPOCH where it is set, as reproducible builds have it, else
    0, the beginning of 1970."""
    said = environment.get("SOURCE_DATE_EPOCH", "").strip()
    if said and not said.isdecimal():
        raise InputError(f"SOURCE_DATE_EPOCH: {said!r} is no number of seconds since 1970")
    return int(said or 0)


def files_below(source: Path) -> Iterator[Path]:
    """The files below a folder, sorted. Raises InputError for a link that leads out of it or nowhere."""
    inside = source.resolve()
    for folder, folders, names in os.walk(source, followlinks=False):
        place = Path(folder)
        for name in sorted((*folders, *names)):
            path = place / name
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise InputError(f"{path}: a link out of {source}; put a copy there instead", path=str(path))
            if path.is_symlink() and path.is_dir():
                raise InputError(f"{path}: a link to a folder; put a copy there instead", path=str(path))
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        for name in sorted(names):
            if name in _LEFT_OUT or name.endswith(_LEFT_OUT_SUFFIXES):
                continue
            if not (place / name).is_file():
                raise InputError(f"{place / name}: no file: it can not be packed", path=str(place / name))
            yield place / name


def write_layer(
    content: LayerContent, file: Path, *, epoch: int, compression: Compression = "none"
) -> WrittenLayer:
    """Pack it into `file`. Raises InputError where a file of it can not be read."""
    return _written(file, compression, _members(content, epoch))


def write_tree(
    root: Path, file: Path, *, epoch: int, left_out: Callable[[str], bool], compression: Compression = "none"
) -> WrittenLayer:
    """Pack a root file system as it lies there: owners, permissions and links stay, only times are one moment.

    left_out: whether a path, without its leading slash, stays out, a folder with all that is in it. Device nodes and
    sockets always do.
    """
    return _written(file, compression, _tree_members(root, epoch, left_out))


_Member = tuple[tarfile.TarInfo, Path | bytes | None]


def _written(file: Path, compression: Compression, members: Iterable[_Member]) -> WrittenLayer:
    plain = hashlib.sha256()
    with file.open("wb") as out:
        blob = _Hashing(out)
        # Without the name and the time, which gzip would keep.
        packed = gzip.GzipFile("", "wb", 6, blob, mtime=0) if compression == "gzip" else None
        tar = _Hashing(cast(BinaryIO, packed) if packed else blob, plain)
        with tarfile.open(fileobj=cast(BinaryIO, tar), mode="w", format=tarfile.PAX_FORMAT) as archive:
            for header, source in members:
                _add(archive, header, source)
        if packed:
            packed.close()
    return WrittenLayer(
        file=file,
        digest=f"sha256:{blob.digest.hexdigest()}",
        diff_id=f"sha256:{plain.hexdigest()}",
        size=file.stat().st_size,
        media_type=LAYER_TYPE + ("+gzip" if compression == "gzip" else ""),
    )


class _Hashing(io.RawIOBase):
    """Passes on what is written, and hashes it."""

    def __init__(self, out: BinaryIO | _Hashing, digest: hashlib._Hash | None = None) -> None:
        self._out = out
        self.digest = digest or hashlib.sha256()
        self._at = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.digest.update(data)
        self._at += len(data)
        self._out.write(data)
        return len(data)


def _members(content: LayerContent, epoch: int) -> Iterator[_Member]:
    folders = content.every_folder()
    for path in sorted({*folders, *content.files, *content.links}, key=lambda path: path.split("/")):
        header = tarfile.TarInfo(path)
        header.mtime = epoch
        header.uid, header.gid = content.owned.get(path, (0, 0))
        source: Path | bytes | None = None
        if path in content.files:
            source = content.files[path]
            header.mode = content.modes.get(path, 0o755 if _is_executable(content, path) else 0o644)
        elif path in content.links:
            header.type, header.linkname, header.mode = tarfile.SYMTYPE, content.links[path], 0o777
        else:
            header.type, header.mode = tarfile.DIRTYPE, content.modes.get(path, 0o755)
        yield header, source


def _tree_members(root: Path, epoch: int, left_out: Callable[[str], bool]) -> Iterator[_Member]:
    first: dict[tuple[int, int], str] = {}  # of files with several names
    for path in _walked(root, left_out):
        there = (root / path).lstat()
        header = tarfile.TarInfo(path)
        header.mode, header.uid, header.gid, header.mtime = (
            stat.S_IMODE(there.st_mode),
            there.st_uid,
            there.st_gid,
            epoch,
        )
        inode = (there.st_dev, there.st_ino)
        if stat.S_ISLNK(there.st_mode):
            header.type, header.linkname = tarfile.SYMTYPE, str((root / path).readlink())
        elif stat.S_ISDIR(there.st_mode):
            header.type = tarfile.DIRTYPE
        elif inode in first:
            header.type, header.linkname = tarfile.LNKTYPE, first[inode]
        elif stat.S_ISREG(there.st_mode):
            if there.st_nlink > 1:
                first[inode] = path
            yield header, root / path
            continue
        else:
            continue
        yield header, None


def _walked(root: Path, left_out: Callable[[str], bool]) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        place = Path(folder).relative_to(root).as_posix()
        prefix = "" if place == "." else f"{place}/"
        folders[:] = sorted(name for name in folders if not left_out(prefix + name))
        yield from sorted(
            (*(prefix + n for n in folders), *(prefix + n for n in names if not left_out(prefix + n)))
        )


def _is_executable(content: LayerContent, path: str) -> bool:
    source = content.files[path]
    return path in content.executable or (
        isinstance(source, Path) and bool(source.stat().st_mode & _EXECUTABLE)
    )


def _add(archive: tarfile.TarFile, header: tarfile.TarInfo, source: Path | bytes | None) -> None:
    if source is None:
        archive.addfile(header)
    elif isinstance(source, bytes):
        header.size = len(source)
        archive.addfile(header, io.BytesIO(source))
    else:
        try:
            with source.open("rb") as stream:
                header.size = os.fstat(stream.fileno()).st_size
                archive.addfile(header, stream)
        except OSError as error:
            raise InputError(f"{source}: can not be read: {error.strerror}", path=str(source)) from error
