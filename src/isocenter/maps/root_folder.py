"""A package that lies unpacked: a folder that is, or would be, the root of its file system."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from isocenter.maps.filesystem import Entry, FileSystem, Kind
from isocenter_operators.errors import InputError

__all__ = ["RootFolder", "resolved"]

_CHUNK = 1 << 20
_LINKS_AT_MOST = 40  # as Linux follows


class RootFolder(FileSystem):
    """The folder as a file system of its own: no link leads out of it. Raises InputError where it can not be read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(())
        self.folder = folder

    def entries(self) -> Iterator[Entry]:
        """As they are on the disk now; nothing of it is kept."""
        yield from sorted(_entries(self.folder), key=lambda entry: entry.path)

    def find(self, path: str) -> Entry | None:
        real = resolved(self.folder, path)
        place = _on_disk(self.folder, real)
        return _entry(place, real.strip("/")) if os.path.lexists(place) else None

    def read(self, path: str) -> bytes:
        return self._file(self._regular(path)).read_bytes()

    def contents(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        for entry in entries:
            with self._file(entry).open("rb") as content:
                yield entry, iter(lambda content=content: content.read(_CHUNK), b"")  # type: ignore[misc]

    def extract(self, root: Path, *, owners: bool = True) -> None:
        raise InputError(f"{self.folder} is unpacked already", path=str(self.folder))

    def _regular(self, path: str) -> Entry:
        entry = self.find(path)
        if entry is None or entry.kind != "file":
            what = "there is no such file" if entry is None else f"it is a {entry.kind}, no file"
            raise InputError(f"{self.folder}: /{path.lstrip('/')}: {what}", path=path)
        return entry

    def _file(self, entry: Entry) -> Path:
        """An entry's path has no symbolic link in it: they were followed inside of the folder."""
        return self.folder / entry.path


def resolved(root: Path, path: str) -> str:
    """The path with the symbolic links in it followed, inside of the root. Raises InputError for a circle of them."""
    waiting, done, followed = [part for part in path.split("/") if part not in ("", ".")], "/", 0
    while waiting:
        part = waiting.pop(0)
        if part == "..":
            done = posixpath.dirname(done)
            continue
        here = posixpath.join(done, part)
        if not _on_disk(root, here).is_symlink():
            done = here
            continue
        followed += 1
        if followed > _LINKS_AT_MOST:
            raise InputError(f"{path}: its symbolic links lead in a circle", path=path)
        target = str(_on_disk(root, here).readlink())
        done = "/" if target.startswith("/") else done
        waiting[:0] = [each for each in target.split("/") if each not in ("", ".")]
    return done


def _on_disk(root: Path, path: str) -> Path:
    return root / path.lstrip("/")


def _entries(folder: Path) -> Iterable[Entry]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: can not be read: {error.strerror}", path=str(folder)) from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        for name in sorted([*folders, *names]):
            path = Path(place) / name
            yield _entry(path, path.relative_to(folder).as_posix())


def _entry(path: Path, name: str) -> Entry:
    found = path.lstat()
    kind = _kind(found.st_mode)
    return Entry(
        path=name,
        kind=kind,
        mode=stat.S_IMODE(found.st_mode),
        uid=found.st_uid,
        gid=found.st_gid,
        size=found.st_size,
        mtime=found.st_mtime,
        target=str(path.readlink()) if kind == "symlink" else "",
    )


def _kind(mode: int) -> Kind:
    if stat.S_ISDIR(mode):
        return "directory"
    if stat.S_ISLNK(mode):
        return "symlink"
    if stat.S_ISREG(mode):
        return "file"
    return "fifo" if stat.S_ISFIFO(mode) else "device"
