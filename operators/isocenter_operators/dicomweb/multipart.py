"""multipart/related bodies, read as they arrive (RFC 2046, 5.1; PS3.18, 8.6.1.2), each part into its place at once."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import suppress
from email.message import Message
from typing import Protocol

from isocenter_operators.room import require_room

__all__ = ["Body", "boundary_of", "parts"]

_BLOCK_BYTES = 16 << 20
_READ_BYTES = 1 << 20  # at a time: so that parts are taken while the next ones arrive
_LARGEST_PART = 1 << 32  # as the length of one DICOM element has 32 bits
_ENDED = "the multipart answer ended before its closing delimiter"


class Body(Protocol):
    """Where a body is read from."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill as much of `buffer` as there is, and say how much: 0 at the end."""


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type header names. Raises ValueError where it names none."""
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if not boundary:
        raise ValueError(f"no multipart boundary in Content-Type {content_type!r}")
    return boundary.encode()


def parts(body: Body, boundary: bytes) -> Iterator[memoryview]:
    """The body of each part, as soon as its last byte is there: where it was received, and nothing is written over it.

    A part's Content-Length is used where it is given, so that its bytes need not be searched for the boundary.
    Raises ValueError when the body ends before its closing delimiter: something is missing; MemoryError where there is
    no room.
    """
    delimiter = b"--" + boundary
    received = _Received(body)
    received.until(delimiter)
    while True:
        tail = received.take(2).tobytes()
        if tail == b"--":
            return
        header = received.until(b"\r\n\r\n").tobytes() if tail == b"\r\n" else b""
        length = _content_length(header)
        if length is None:
            yield received.until(b"\r\n" + delimiter)
        else:
            yield received.take(length)
            received.until(delimiter)


def _content_length(header: bytes) -> int | None:
    for line in header.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return None


class _Received:
    """What came and was not taken yet: in one block of memory, which lives as long as somebody has a part of it."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._block = _block(_BLOCK_BYTES)
        self._begin = self._end = 0

    def take(self, length: int) -> memoryview:
        self._want(length)
        return self._taken(length, length)

    def until(self, mark: bytes) -> memoryview:
        """All up to `mark`, which is taken away too."""
        searched = 0
        while (found := self._block.find(mark, self._begin + searched, self._end)) < 0:
            there = self._end - self._begin
            searched = max(0, there - len(mark) + 1)
            self._want(there + 1)
        length = found - self._begin
        return self._taken(length, length + len(mark))

    def _taken(self, length: int, skipped: int) -> memoryview:
        part = memoryview(self._block)[self._begin : self._begin + length].toreadonly()
        self._begin += skipped
        return part

    def _want(self, length: int) -> None:
        if not 0 <= length <= _LARGEST_PART:
            raise ValueError(f"a part of {length} bytes is not taken")
        if self._begin + length > len(self._block):
            self._move(length)
        while self._end - self._begin < length:
            room = memoryview(self._block)[self._end : self._end + _READ_BYTES]
            count = self._body.readinto(room)
            if not count:
                raise ValueError(_ENDED)
            self._end += count

    def _move(self, length: int) -> None:
        """To a block of its own with room for `length`, and again as much of a part that does not say its length."""
        there = self._end - self._begin
        block = _block(max(_BLOCK_BYTES, length + min(length, there) + _READ_BYTES))
        block[:there] = memoryview(self._block)[self._begin : self._end]
        self._block, self._begin, self._end = block, 0, there


def _block(size: int) -> mmap.mmap:
    require_room(size)
    try:
        block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no room for {size} bytes of the archive's answer") from error
    with suppress(OSError):  # of a kernel without them
        block.madvise(mmap.MADV_HUGEPAGE)  # a fault for each 4 KB costs as much as what is copied there
    return block
