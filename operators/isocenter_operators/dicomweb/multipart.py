"""multipart/related bodies, read as they arrive (RFC 2046, 5.1; PS3.18, 8.6.1.2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from email.message import Message

__all__ = ["boundary_of", "parts"]


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type header names. Raises ValueError where it names none."""
    header = Message()
    header["Content-Type"] = content_type
    boundary = header.get_boundary()
    if not boundary:
        raise ValueError(f"no multipart boundary in Content-Type {content_type!r}")
    return boundary.encode()


def parts(chunks: Iterable[bytes], boundary: bytes) -> Iterator[bytes]:
    """The body of each part, as soon as its last byte is there.

    A part's Content-Length is used where it is given, so that its bytes need not be searched for the boundary.
    Raises ValueError when the body ends before its closing delimiter: something is missing.
    """
    delimiter = b"--" + boundary
    stream = _Stream(chunks)
    stream.until(delimiter)
    while True:
        tail = stream.take(2)
        if tail == b"--":
            return
        header = stream.until(b"\r\n\r\n") if tail == b"\r\n" else b""
        length = _content_length(header)
        if length is None:
            yield stream.until(b"\r\n" + delimiter)
        else:
            yield stream.take(length)
            stream.until(delimiter)


def _content_length(header: bytes) -> int | None:
    for line in header.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return None


class _Stream:
    """A buffer over incoming chunks."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = bytearray()

    def _more(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            raise ValueError("the multipart answer ended before its closing delimiter")
        self._buffer += chunk

    def take(self, length: int) -> bytes:
        while len(self._buffer) < length:
            self._more()
        taken = bytes(memoryview(self._buffer)[:length])
        del self._buffer[:length]
        return taken

    def until(self, mark: bytes) -> bytes:
        """All up to `mark`, which is taken away too."""
        searched = 0
        while (found := self._buffer.find(mark, searched)) < 0:
            searched = max(0, len(self._buffer) - len(mark))
            self._more()
        before = bytes(memoryview(self._buffer)[:found])
        del self._buffer[: found + len(mark)]
        return before
