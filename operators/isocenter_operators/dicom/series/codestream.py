"""What a compressed frame says of itself, read before any decoder sees it: its size, and whether its end is there.

Decoders believe these headers: a frame that says it is 60000 x 60000 costs its memory, one that is cut short is filled
up with invented values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

__all__ = ["Codestream", "fragments_of", "read_codestream"]

_ITEM, _SEQUENCE_DELIMITER = (
    b"\xfe\xff\x00\xe0",
    b"\xfe\xff\xdd\xe0",
)  # (FFFE,E000), (FFFE,E0DD), little endian
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF0 ... SOF15, and SOF55 of JPEG-LS
_END, _START_OF_SCAN = 0xD9, 0xDA
# In the data of a scan: 0xFF is followed by a stuffed 0x00 (JPEG), or by a byte below 0x80 (JPEG-LS), or restarts.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_JPEG_LS_MARKER = re.compile(rb"\xff[\x80-\xcf\xd8-\xfe]")
_RLE_EXPANSION = 64  # a run of 128 bytes is written in two (PS3.5, G.3.1)


@dataclass(frozen=True)
class Codestream:
    """What the frame says of itself; None where it has no such header.

    `samples` are per pixel, `precision` is their bits, `most_bytes` is what it can expand to at most.
    """

    rows: int | None = None
    columns: int | None = None
    samples: int | None = None
    precision: int | None = None
    most_bytes: int | None = None


def fragments_of(pixel_data: bytes) -> list[bytes]:
    """The fragments of encapsulated pixel data, without its offset table (PS3.5, A.4).

    The last delimiter may be missing, as pydicom takes it away. Raises ValueError where one is cut short, or there is
    something else.
    """
    fragments: list[bytes] = []
    at = 0
    while at < len(pixel_data):
        tag, length = pixel_data[at : at + 4], int.from_bytes(pixel_data[at + 4 : at + 8], "little")
        if tag == _SEQUENCE_DELIMITER:
            break
        if tag != _ITEM:
            raise ValueError("something other than a fragment lies between its fragments")
        if at + 8 + length > len(pixel_data):
            raise ValueError("a fragment is longer than what is left of the file")
        fragments.append(bytes(pixel_data[at + 8 : at + 8 + length]))
        at += 8 + length
    return fragments[1:]


def read_codestream(frame: bytes, syntax: UID) -> Codestream:
    """The header of one compressed frame, walked to its end. Raises ValueError where the frame is not whole."""
    if syntax == RLELossless:
        return Codestream(most_bytes=len(frame) * _RLE_EXPANSION)
    if syntax in JPEG2000TransferSyntaxes:
        return _read_jpeg_2000(frame)
    if syntax in JPEGLSTransferSyntaxes:
        return _read_jpeg(frame, _JPEG_LS_MARKER)
    if syntax in JPEGTransferSyntaxes:
        return _read_jpeg(frame, _JPEG_MARKER)
    return Codestream()


def _read_jpeg(frame: bytes, in_scan: re.Pattern[bytes]) -> Codestream:
    """JPEG (ISO/IEC 10918-1, B) and JPEG-LS (ISO/IEC 14495-1, C), which share their markers."""
    found: Codestream | None = None
    for marker, segment in _jpeg_segments(frame, in_scan):
        if marker == _END:
            if found is None:
                raise ValueError("the compressed frame ends before it has said its size")
            return found
        if marker in _FRAME_HEADERS:
            if found is not None or len(segment) < 6:
                raise ValueError("the compressed frame has two headers, or a short one")
            rows, columns = int.from_bytes(segment[1:3], "big"), int.from_bytes(segment[3:5], "big")
            found = Codestream(rows, columns, samples=segment[5], precision=segment[0])
    raise ValueError("the compressed frame has no end")


def _jpeg_segments(frame: bytes, in_scan: re.Pattern[bytes]) -> Iterator[tuple[int, bytes]]:
    if not frame.startswith(b"\xff\xd8"):
        raise ValueError("the compressed frame is no JPEG")
    at = 2
    while at + 2 <= len(frame):
        if frame[at] != 0xFF:
            raise ValueError("the compressed frame has something else where a marker is due")
        marker = frame[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == _END:
            yield marker, b""
            return
        length = int.from_bytes(frame[at + 2 : at + 4], "big")
        if length < 2 or at + 2 + length > len(frame):
            raise ValueError("the compressed frame is cut short in its headers")
        yield marker, frame[at + 4 : at + 2 + length]
        at += 2 + length
        if marker == _START_OF_SCAN:
            following = in_scan.search(frame, at)
            if following is None:
                raise ValueError("the compressed frame is cut short")
            at = following.start()


def _read_jpeg_2000(frame: bytes) -> Codestream:
    """SIZ, the first marker segment (ISO/IEC 15444-1, A.5.1); the codestream's end has to be there, too."""
    start = frame.find(
        b"\xff\x4f\xff\x51"
    )  # SOC, SIZ; some put the boxes of a JP2 file around the codestream
    if start < 0 or (start > 0 and frame[4:8] != b"jP  ") or start + 44 > len(frame):
        raise ValueError("the compressed frame is no JPEG 2000")
    if b"\xff\xd9" not in frame.rstrip(b"\x00")[-4:]:
        raise ValueError("the compressed frame is cut short")
    right, lower, left, upper = (
        int.from_bytes(frame[start + at : start + at + 4], "big") for at in (8, 12, 16, 20)
    )
    samples = int.from_bytes(frame[start + 40 : start + 42], "big")
    tiles = (int.from_bytes(frame[start + at : start + at + 4], "big") for at in (24, 28))
    if not all(tiles):
        raise ValueError("the compressed frame has tiles of no size")
    precision = (frame[start + 42] & 0x7F) + 1  # of the first component; the highest bit is its sign
    return Codestream(lower - upper, right - left, samples, precision)
