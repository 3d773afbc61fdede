"""The file system that an image's layers make together, without unpacking them: whiteouts, links, what replaces what.

Source: OCI Image Format Specification 1.1, layer.md (applying changesets).
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal, Protocol

from isocenter_operators.errors import InputError

__all__ = ["Entry", "FileSystem", "TarLayer"]

Kind = Literal["file", "directory", "symlink", "fifo", "device"]

_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_LINKS_AT_MOST = 40  # as Linux follows, before it calls them a loop
_CHUNK = 1 << 20


class TarLayer(Protocol):
    """A layer without its compression. Reading `open()` to its end tells whether it is what its digest says."""

    def open(self) -> BinaryIO: ...


@dataclass(frozen=True)
class Entry:
    """One path of the merged file system, as the header of its tar says it. `path` has no leading slash."""

    path: str
    kind: Kind
    mode: int  # permission bits, with set-user-ID and its kin
    uid: int
    gid: int
    size: int
    mtime: float  # seconds since 1970
    target: str = ""  # of a symbolic link
    layer: int = 0  # counted from the lowest
    offset: int = 0  # of its bytes in the layer without compression
    xattrs: dict[str, str] = field(default_factory=dict)

    @property
    def inode(self) -> tuple[int, int]:
        """The same for names that are hard links of one file."""
        return (self.layer, self.offset)


class FileSystem:
    """The merged layers, the lowest first. Raises InputError for a layer that is no tar, or leaves the image's root."""

    def __init__(self, layers: Sequence[TarLayer]) -> None:
        self._layers = layers
        self._entries: dict[str, Entry] = {}
        self._symlinks: set[str] = set()
        self._parents: set[str] = set()  # every path that something was ever put below
        for number, layer in enumerate(layers):
            self._apply(number, _headers(layer, number))
        self._refuse_below_no_folder()

    def entries(self) -> Iterator[Entry]:
        """Every path there is, sorted."""
        return (self._entries[path] for path in sorted(self._entries))

    def find(self, path: str) -> Entry | None:
        """What is at this path once symbolic links are followed; None where nothing is."""
        return self._entries.get(self._resolved(_relative(path)))

    def read(self, path: str) -> bytes:
        """The content of a file. Raises InputError where there is none at this path."""
        entry = self.find(path)
        if entry is None or entry.kind != "file":
            what = "there is no such file" if entry is None else f"it is a {entry.kind}, no file"
            raise InputError(f"/{path.lstrip('/')}: {what} in the image", path=path)
        with self._layers[entry.layer].open() as stream:
            stream.seek(entry.offset)
            return _exactly(stream, entry)

    def contents(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, Iterator[bytes]]]:
        """Each file with its bytes, in pieces; they are to be read before the next file is asked for.

        In the order in which they lie in the image this reads each layer once.
        """
        stream: BinaryIO | None = None
        layer = -1
        try:
            for entry in entries:
                if stream is None or entry.layer != layer:
                    if stream is not None:
                        stream.close()
                    layer, stream = entry.layer, self._layers[entry.layer].open()
                stream.seek(entry.offset)
                yield entry, _pieces(stream, entry)
        finally:
            if stream is not None:
                stream.close()

    def extract(self, root: Path, *, owners: bool = True) -> None:
        """Write all of it below `root`, which is made or has to be empty. What has set-user-ID keeps it: let nobody but
        its owner reach the folder that `root` lies in.

        owners: keep them, where this process is root; else all of it belongs to this process. Device nodes and extended
        attributes are left out. Nothing is written outside of `root`: every link is made after all that is no link.
        Raises InputError.
        """
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise InputError(f"{root}: has to be empty, an image is unpacked into it", path=str(root))
        root.chmod(0o755)  # it becomes the / of whoever runs in it
        folders = [entry for entry in self.entries() if entry.kind == "directory"]
        for entry in folders:
            (root / entry.path).mkdir(parents=True, exist_ok=True)
        self._write_files(root, owners)
        for entry in self.entries():
            place = root / entry.path
            if entry.kind == "symlink":
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(entry.target)
            elif entry.kind == "fifo":
                place.parent.mkdir(parents=True, exist_ok=True)
                os.mkfifo(place)
            else:
                continue
            _own(place, entry, owners)
        for entry in reversed(folders):  # the innermost first: one that may not be written to is closed last
            _own(root / entry.path, entry, owners)

    def _write_files(self, root: Path, owners: bool) -> None:
        files = sorted(
            (e for e in self._entries.values() if e.kind == "file"), key=lambda e: (*e.inode, e.path)
        )
        first: dict[tuple[int, int], Path] = {}
        opened: tuple[int, BinaryIO] | None = None
        for entry in files:
            place = root / entry.path
            place.parent.mkdir(parents=True, exist_ok=True)
            if entry.inode in first:
                os.link(first[entry.inode], place, follow_symlinks=False)
                continue
            first[entry.inode] = place
            if opened is None or opened[0] != entry.layer:
                if opened is not None:
                    opened[1].close()
                opened = (entry.layer, self._layers[entry.layer].open())
            _write(place, opened[1], entry)
            _own(place, entry, owners)
        if opened is not None:
            opened[1].close()

    def _apply(self, number: int, headers: Iterable[tuple[Entry, str | None]]) -> None:
        here = list(headers)
        for (
            entry,
            _,
        ) in here:  # first of all: a whiteout is about the layers below, wherever it stands in its own
            parent, _, name = entry.path.rpartition("/")
            if name == _OPAQUE:
                self._remove_below(self._resolved(parent))
            elif name.startswith(_WHITEOUT):
                self._remove(self._at(f"{parent}/{name.removeprefix(_WHITEOUT)}"))
        for entry, linked in here:
            if entry.path.rpartition("/")[2].startswith(_WHITEOUT):
                continue
            path = self._at(entry.path)
            if linked is not None:
                self._put(path, self._linked(entry, linked))
            else:
                self._put(path, replace(entry, path=path))

    def _linked(self, entry: Entry, target: str) -> Entry:
        there = self._entries.get(self._at(_relative(target)))
        if there is None:
            raise InputError(f"/{entry.path}: a hard link to /{target}, which is not there", path=entry.path)
        return replace(there, path=self._at(entry.path))

    def _put(self, path: str, entry: Entry) -> None:
        before = self._entries.get(path)
        if before is not None and not (before.kind == entry.kind == "directory"):
            self._remove(path)
        elif before is None and entry.kind != "directory" and path in self._parents:
            self._remove_below(path)  # a folder that no layer has an entry for gives way too
        self._entries[path] = entry
        self._parents.update(_parents(path))
        if entry.kind == "symlink":
            self._symlinks.add(path)

    def _refuse_below_no_folder(self) -> None:
        """What lies below a link would be written where that leads, outside of the image."""
        for path in self._entries:
            for parent in _parents(path):
                above = self._entries.get(parent)
                if above is not None and above.kind != "directory":
                    raise InputError(
                        f"/{path}: it lies below /{parent}, which is a {above.kind}: the image is not opened",
                        path=path,
                    )

    def _remove(self, path: str) -> None:
        before = self._entries.pop(path, None)
        self._symlinks.discard(path)
        if before is None or before.kind == "directory":  # also one that no layer has an entry for
            self._remove_below(path)

    def _remove_below(self, path: str) -> None:
        prefix = f"{path}/" if path else ""
        for each in [each for each in self._entries if each.startswith(prefix)]:
            del self._entries[each]
            self._symlinks.discard(each)

    def _at(self, path: str) -> str:
        """Where an entry of this path comes to lie: its folder may be a symbolic link of a lower layer."""
        parent, _, name = path.strip("/").rpartition("/")
        folder = self._resolved(parent)
        return f"{folder}/{name}" if folder else name

    def _resolved(self, path: str) -> str:
        """The path with every symbolic link in it followed, inside of the image's root."""
        waiting = [part for part in path.split("/") if part]
        if not any("/".join(waiting[: end + 1]) in self._symlinks for end in range(len(waiting))):
            return "/".join(waiting)
        done: list[str] = []
        followed = 0
        while waiting:
            part = waiting.pop(0)
            if part == "..":
                done[-1:] = []
                continue
            here = "/".join([*done, part])
            if here not in self._symlinks:
                done.append(part)
                continue
            followed += 1
            if followed > _LINKS_AT_MOST:
                raise InputError(f"/{path}: its symbolic links lead in a circle", path=path)
            target = self._entries[here].target
            done = [] if target.startswith("/") else done
            waiting[:0] = [each for each in target.split("/") if each not in ("", ".")]
        return "/".join(done)


def _parents(path: str) -> Iterator[str]:
    """`a/b` and `a` of `a/b/c`."""
    end = path.rfind("/")
    while end > 0:
        yield path[:end]
        end = path.rfind("/", 0, end)


def _headers(layer: TarLayer, number: int) -> Iterator[tuple[Entry, str | None]]:
    """Each entry of one layer, with the target of a hard link."""
    try:
        with layer.open() as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                if member.issparse():  # its bytes do not lie there as they are
                    raise InputError(
                        f"/{member.name}: a sparse file, which is not read here: pack the layer without --sparse"
                    )
                if (path := _relative(member.name)) or not member.isdir():
                    yield _entry(member, path, number), member.linkname if member.islnk() else None
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"layer {number + 1} of the image can not be read: {error}") from error


def _entry(member: tarfile.TarInfo, path: str, number: int) -> Entry:
    xattrs = {
        key.removeprefix("SCHILY.xattr."): value
        for key, value in member.pax_headers.items()
        if key.startswith("SCHILY.xattr.")
    }
    return Entry(
        path=path,
        kind=_kind(member),
        mode=stat.S_IMODE(member.mode),
        uid=member.uid,
        gid=member.gid,
        size=member.size,
        mtime=member.mtime,
        target=member.linkname if member.issym() else "",
        layer=number,
        offset=member.offset_data,
        xattrs=xattrs,
    )


def _kind(member: tarfile.TarInfo) -> Kind:
    if member.isdir():
        return "directory"
    if member.issym():
        return "symlink"
    if member.isfifo():
        return "fifo"
    return "device" if member.isdev() else "file"


def _relative(name: str) -> str:
    """`./a/b/` and `/a/b` as `a/b`. Raises InputError for what leads out of the root."""
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", "//", ".")]
    if ".." in parts or "\0" in name:
        raise InputError(f"{name!r}: a path of the image that leads out of it: it is not opened", path=name)
    return "/".join(parts)


def _pieces(stream: BinaryIO, entry: Entry) -> Iterator[bytes]:
    left = entry.size
    while left:
        piece = stream.read(min(_CHUNK, left))
        if not piece:
            raise InputError(f"/{entry.path}: the layer ends in the middle of it", path=entry.path)
        yield piece
        left -= len(piece)


def _exactly(stream: BinaryIO, entry: Entry) -> bytes:
    content = stream.read(entry.size)
    if len(content) != entry.size:
        raise InputError(f"/{entry.path}: the layer ends in the middle of it", path=entry.path)
    return content


def _write(place: Path, stream: BinaryIO, entry: Entry) -> None:
    stream.seek(entry.offset)
    with place.open("xb") as out:
        out.writelines(_pieces(stream, entry))


def _own(place: Path, entry: Entry, owners: bool) -> None:
    """Owner, permissions and time, in this order: a change of owner takes set-user-ID away."""
    if owners and os.geteuid() == 0:
        os.chown(place, entry.uid, entry.gid, follow_symlinks=False)
    if entry.kind == "symlink":
        return
    place.chmod(entry.mode)
    os.utime(place, (entry.mtime, entry.mtime))
