"""Instances in the DICOM file format (PS3.10, 7), read fast where they are regular; their pixels stay where they are.

Most elements of an image are those of the slice before it: each is made and looked at once for a series. Pixels are not
copied: an instance keeps where its bytes lie, as pydicom's own deferred reading does, and whoever needs them reads them
into place. Nothing is decided about damage here: what is not regular is left to pydicom, and to those who refuse.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from pydicom import charset
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataelem import RawDataElement, empty_value_for_VR
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

__all__ = [
    "PIXEL_DATA",
    "PixelBytes",
    "Regular",
    "Seen",
    "StoredPixels",
    "known_tag",
    "regular",
    "release_pixels",
    "stored_pixels",
    "tag_of",
]

# One object for each tag of PS3.6: comparing two of pydicom takes its own code, comparing one with itself does not.
_TAGS = {tag: BaseTag(tag) for tag in DicomDictionary}
_KEYWORDS = {entry[4]: _TAGS[tag] for tag, entry in DicomDictionary.items() if entry[4]}

_HEAD_BYTES = 1 << 16  # in which the header of nearly every image ends
_LONGEST_HEAD_BYTES = 1 << 22
PIXEL_DATA = _TAGS[0x7FE00010]
_CHARACTER_SET = _TAGS[0x00080005]
_TRANSFER_SYNTAX = _TAGS[0x00020010]
_META_LENGTH = b"DICM\x02\x00\x00\x00UL\x04\x00"
# PS3.5, 7.1.2: with a length of two bytes, and of four.
_SHORT = {vr: vr.decode() for vr in b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split()}
_LONG = {vr: vr.decode() for vr in b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split()}
_PIXEL_VRS = ("OB", "OW", None)
_PIXELS = int(PIXEL_DATA)  # which pydicom's own tag is slow to be compared with
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_SHARED_BYTES = 256  # of an element: longer ones are seldom the same in two instances
_DEEPEST = 8
_explicit = struct.Struct("<HH2sH").unpack_from
_implicit = struct.Struct("<HHL").unpack_from
_length = struct.Struct("<L").unpack_from


class _Irregular(Exception):
    """Not as most instances are: pydicom shall read it."""


class _TooShort(_Irregular):
    """The header does not end in what was read of the instance."""


class PixelBytes(io.RawIOBase):
    """The bytes of a whole instance in memory, as a file that pydicom can read deferred elements from."""

    def __init__(self, content: memoryview) -> None:
        super().__init__()
        self.content = content
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = (0, self._place, len(self.content))[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        found = self.content[self._place : self._place + len(buffer)]
        memoryview(buffer)[: len(found)] = found
        self._place += len(found)
        return len(found)

    def __deepcopy__(self, memo: Mapping[int, Any]) -> PixelBytes:
        return PixelBytes(self.content)


class _Run(NamedTuple):
    """Elements that follow one another, the same in every instance so far."""

    content: bytes
    elements: dict[BaseTag, RawDataElement]
    first: int  # tags
    last: int


class _Known:
    """The elements of one encoding that were met."""

    def __init__(self) -> None:
        self.elements: dict[bytes, RawDataElement] = {}  # by their bytes
        self.runs: list[_Run] = []
        self.varying: set[int] | None = None  # tags whose values are not all alike; None before there are two


class Seen:
    """What instances of one series, read one after another, have in common."""

    def __init__(self) -> None:
        self.head_bytes = _HEAD_BYTES  # how much of an instance is looked into
        self.meta, self.explicit, self.implicit = _Known(), _Known(), _Known()
        self._sound: dict[tuple[int, ...], Sequence[RawDataElement | None]] = {}
        self._encodings: dict[RawDataElement | None, Any] = {None: charset.default_encoding}

    def encodings(self, declared: RawDataElement | None) -> Any:
        """The Python encodings of a Specific Character Set."""
        if declared is not None and declared not in self._encodings:
            alone = Dataset({_CHARACTER_SET: declared})
            self._encodings[declared] = charset.convert_encodings(alone[_CHARACTER_SET].value)
        return self._encodings[declared]

    def is_sound(self, elements: Sequence[RawDataElement | None], pixel_bytes: int) -> bool:
        """Whether `found_sound` was told of these very elements, together, with as much pixel data."""
        return (*map(id, elements), pixel_bytes) in self._sound

    def found_sound(self, elements: Sequence[RawDataElement | None], pixel_bytes: int) -> None:
        self._sound[*map(id, elements), pixel_bytes] = elements  # kept, so that no other gets the id of one


class Regular(NamedTuple):
    """An instance as it was read. `elements`: with those of its file meta information; raw until somebody looks.

    `unseen`: those of them that no instance before had.
    """

    instance: FileDataset
    elements: dict[BaseTag, RawDataElement]
    unseen: list[RawDataElement]


def regular(content: bytes | memoryview, size: int, seen: Seen, source: Path | PixelBytes) -> Regular | None:
    """The instance of `size` bytes that begins with `content`; None where it is not regular, or where more is needed.

    Regular is Explicit or Implicit VR Little Endian, elements in order, pixel data last, whole and not compressed.
    They are read from `source` when somebody asks for them (see `stored_pixels`).
    """
    try:
        return _read(bytes(content), size, seen, source)
    except (_TooShort, struct.error):
        seen.head_bytes = max(seen.head_bytes, min(4 * len(content), _LONGEST_HEAD_BYTES))  # of the next one
        return None
    except (_Irregular, LookupError, ValueError):
        return None


class StoredPixels(NamedTuple):
    """Where the bytes of Pixel Data lie: in the file of this name, or in the bytes of the instance."""

    where: str | memoryview
    offset: int
    length: int


def release_pixels(instance: Dataset) -> None:
    """Take the pixel data from the instance, wherever it lies."""
    del instance.PixelData
    if isinstance(instance, FileDataset) and isinstance(instance.buffer, PixelBytes):
        instance.buffer = None


def known_tag(tag: int) -> BaseTag:
    """The one object of a tag of PS3.6, or a new one of any other."""
    return _TAGS.get(tag) or BaseTag(tag)


def tag_of(keyword: str) -> BaseTag:
    """The tag of a keyword of PS3.6. Raises KeyError where that has no such keyword."""
    return _KEYWORDS[keyword]


def stored_pixels(instance: Dataset) -> StoredPixels | None:
    """Where the bytes of Pixel Data lie that nobody has read yet; None where they were read, or there are none."""
    element = instance.get_item(PIXEL_DATA, keep_deferred=True)
    if not isinstance(element, RawDataElement) or element.value is not None or not element.length:
        return None
    buffer = getattr(instance, "buffer", None)
    filename = getattr(instance, "filename", None)
    where = buffer.content if isinstance(buffer, PixelBytes) else filename
    return None if where is None else StoredPixels(where, element.value_tell, element.length)


def _read(head: bytes, size: int, seen: Seen, source: Path | PixelBytes) -> Regular:
    if head[128:140] != _META_LENGTH:
        raise _Irregular
    start = 144 + _length(head, 140)[0]
    meta, unseen = _elements(_Scan(head[:start], 132, start, False, seen.meta))
    syntax = (meta[_TRANSFER_SYNTAX].value or b"").rstrip(b"\0").decode()
    if syntax not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        raise _Irregular
    implicit = syntax == ImplicitVRLittleEndian
    known = seen.implicit if implicit else seen.explicit
    elements, unseen_too = _elements(_Scan(head, start, size, implicit, known))
    instance = FileDataset(source, {**elements}, head[:128], FileMetaDataset({**meta}), implicit, True)
    instance.set_original_encoding(implicit, True, seen.encodings(elements.get(_CHARACTER_SET)))
    return Regular(instance, meta | elements, unseen + unseen_too)


class _Scan:
    """A walk over the elements from `place` to `size`; `content` need not hold the pixel data at their end."""

    def __init__(self, content: bytes, place: int, size: int, implicit: bool, known: _Known) -> None:
        self.content, self.place, self.size, self.known = content, place, size, known
        self.last = 0  # tag
        self.unseen: list[RawDataElement] = []
        self.implicit = implicit

    def element(self) -> RawDataElement:
        """The one that begins here."""
        tag, vr, length, start = self._header()
        if tag <= self.last:
            raise _Irregular  # PS3.5, 7.1: in increasing order, each once
        self.last = tag
        end = after = start + length
        if tag == _PIXELS:
            if length == _UNDEFINED or end != self.size or vr not in _PIXEL_VRS:
                raise _Irregular
            self.place = end
            return RawDataElement(PIXEL_DATA, vr, length, None, start, self.implicit, True)
        if length == _UNDEFINED:
            if vr != "SQ":
                raise _Irregular  # whether it is a sequence would have to be looked up
            end, after = _sequence_end(self.content, start, 0)
        if after > len(self.content):
            raise _TooShort
        whole = self.content[self.place : after] if after - self.place <= _SHARED_BYTES else b""
        self.place = after
        element = self.known.elements.get(whole)
        if element is None:
            value = (
                self.content[start:end] if length else cast("bytes | None", empty_value_for_VR(vr, raw=True))
            )
            element = RawDataElement(known_tag(tag), vr, length, value, start, self.implicit, True)
            self.unseen.append(element)
            if whole:
                self.known.elements[whole] = element
        return element

    def _header(self) -> tuple[int, str | None, int, int]:
        """Tag, VR, length and where the value begins."""
        if self.implicit:
            group, number, length = _implicit(self.content, self.place)
            return group << 16 | number, None, length, self.place + 8
        group, number, code, length = _explicit(self.content, self.place)
        vr = _SHORT.get(code)
        if vr is not None:
            return group << 16 | number, vr, length, self.place + 8
        return group << 16 | number, _LONG[code], _length(self.content, self.place + 8)[0], self.place + 12


def _elements(scan: _Scan) -> tuple[dict[BaseTag, RawDataElement], list[RawDataElement]]:
    """All elements, and those that were not known before."""
    elements: dict[BaseTag, RawDataElement] = {}
    known, start = scan.known, scan.place
    for run in known.runs:
        while scan.place < scan.size and scan.last < run.first:
            if scan.content.startswith(run.content, scan.place):
                elements |= run.elements
                scan.place, scan.last = scan.place + len(run.content), run.last
                break
            element = scan.element()
            elements[element.tag] = element
    while scan.place < scan.size:
        element = scan.element()
        elements[element.tag] = element
    new = {int(element.tag) for element in scan.unseen}
    if known.varying is None:
        known.varying = set()
    elif not known.runs or not new <= known.varying:
        known.varying |= new
        known.runs = _runs(scan, start)
    return elements, scan.unseen


def _runs(scan: _Scan, place: int) -> list[_Run]:
    """What was scanned from `place` on without what varies, cut there."""
    again = _Scan(scan.content, place, scan.size, scan.implicit, scan.known)
    varying = scan.known.varying or set()
    runs: list[_Run] = []
    begin, elements = place, dict[BaseTag, RawDataElement]()
    while again.place < again.size:
        here = again.place
        element = again.element()
        if int(element.tag) not in varying and element.tag != PIXEL_DATA:
            elements[element.tag] = element
            continue
        if elements:
            runs.append(_run(scan.content[begin:here], elements))
        begin, elements = again.place, {}
    if elements:
        runs.append(_run(scan.content[begin : again.place], elements))
    return runs


def _run(content: bytes, elements: dict[BaseTag, RawDataElement]) -> _Run:
    tags = [int(tag) for tag in elements]
    return _Run(content, elements, tags[0], tags[-1])


def _sequence_end(content: bytes, place: int, depth: int) -> tuple[int, int]:
    """Where the items of a sequence of undefined length end, and where its delimiter does (PS3.5, 7.5.2)."""
    if depth > _DEEPEST:
        raise _Irregular
    while True:
        group, number, length = _implicit(content, place)
        tag = group << 16 | number
        if tag == _SEQUENCE_END:
            return place, place + 8
        if tag != _ITEM:
            raise _Irregular
        place += 8
        place = _item_end(content, place, depth) if length == _UNDEFINED else place + length


def _item_end(content: bytes, place: int, depth: int) -> int:
    while True:
        group, number, code, length = _explicit(content, place)
        if group << 16 | number == _ITEM_END:
            return place + 8
        place += 8
        if code not in _SHORT:
            if code not in _LONG:
                raise _Irregular
            length = _length(content, place)[0]
            place += 4
        if length == _UNDEFINED:
            if code != b"SQ":
                raise _Irregular
            place = _sequence_end(content, place, depth + 1)[1]
        else:
            place += length
