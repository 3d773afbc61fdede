"""What a package has written, counted while it runs: nothing else keeps it from filling the host's disk."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

__all__ = ["DEEPEST", "OutputWatch", "size_of_output"]

DEEPEST = 64  # folders in one another

_LOOK_S = 0.5
_SHARE = 10  # of the time at most one in so many goes into counting
_ENTRY = 4096  # bytes that even an empty file or a folder takes
_ENDLESS = 1 << 62  # bytes: of what can not be looked into
_DELETED = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ ([0-9a-f]+):([0-9a-f]+) (\d+) .* \(deleted\)")


@dataclass
class OutputWatch:
    """The folder that a package may write to, and how many bytes it may have in it."""

    folder: Path
    limit: int  # bytes
    _next: float = field(default=0.0, init=False)  # by time.monotonic()

    def exceeded(self, process: int | None = None) -> bool:
        """Whether there is more. process: the one that runs; then it is counted twice a second at most, and with what
        was deleted and is still open."""
        began = time.monotonic()
        if process is not None and began < self._next:
            return False
        size = size_of_output(self.folder, self.limit)
        if process is not None:
            size += _deleted(process, self.folder.stat().st_dev)
        self._next = time.monotonic() + max(_LOOK_S, _SHARE * (time.monotonic() - began))
        return size > self.limit


def size_of_output(folder: Path, enough: int = _ENDLESS) -> int:
    """Bytes below it: of each name what a copy of it could take, so that neither holes nor hard links hide anything.

    No more than `enough` is counted to its end. A folder that can not be looked into, or lies too deep, is endless.
    """
    size, waiting = 0, [(str(folder), 0)]
    while waiting and size <= enough:
        place, depth = waiting.pop()
        if depth > DEEPEST:
            return _ENDLESS
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    size += _size(entry)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, depth + 1))
        except FileNotFoundError:
            continue  # it was removed in the meantime
        except OSError:
            return _ENDLESS
    return size


def _size(entry: os.DirEntry[str]) -> int:
    try:
        there = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return 0
    return max(there.st_size, there.st_blocks * 512, _ENTRY)


def _deleted(process: int, device: int) -> int:
    """Bytes of files that have no name any more, and are kept by a process of this one's descendants."""
    sizes: dict[int, int] = {}  # by inode
    try:
        family = psutil.Process(process).children(recursive=True)
    except psutil.Error:
        return 0
    for each in family:
        for inode, size in (*_open_files(each.pid, device), *_mapped_files(each.pid, device)):
            sizes[inode] = max(size, sizes.get(inode, 0))
    return sum(sizes.values())


def _open_files(process: int, device: int) -> list[tuple[int, int]]:
    found = []
    with suppress(OSError):  # it has ended
        for file in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):  # it was closed in the meantime
                there = file.stat()
                if there.st_dev == device and there.st_nlink == 0:
                    found.append((there.st_ino, max(there.st_size, there.st_blocks * 512)))
    return found


def _mapped_files(process: int, device: int) -> list[tuple[int, int]]:
    """By proc(5), maps: what is mapped of each."""
    found: dict[int, int] = {}
    try:
        lines = Path(f"/proc/{process}/maps").read_text(errors="replace").splitlines()
    except OSError:
        return []
    for line in lines:
        match = _DELETED.fullmatch(line)
        if match and os.makedev(int(match[3], 16), int(match[4], 16)) == device:
            inode = int(match[5])
            found[inode] = found.get(inode, 0) + int(match[2], 16) - int(match[1], 16)
    return list(found.items())
