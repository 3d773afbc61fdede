"""The per-frame functional groups of a multi-frame object, read fast and without touching the object.

pydicom reads a sequence when somebody looks into it, and then writes it item by item. Of the thousands of frames of a
whole-body segmentation most say the same in most of their groups: here each group is read once, and the object that is
going to be written keeps its bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pydicom import charset
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.tag import BaseTag

from isocenter_operators.dicom.series.part10 import known_tag

__all__ = ["with_groups_read"]

_PER_FRAME = 0x52009230  # Per-frame Functional Groups Sequence
_ITEM = 0xFFFEE000
_UNDEFINED = 0xFFFFFFFF
_LONG = {
    b"OB",
    b"OD",
    b"OF",
    b"OL",
    b"OV",
    b"OW",
    b"SQ",
    b"SV",
    b"UC",
    b"UN",
    b"UR",
    b"UT",
    b"UV",
}  # PS3.5, 7.1.2
_TAG, _TEXT_LENGTH = struct.Struct("<HH"), struct.Struct("<H")
_LENGTH = struct.Struct("<L")


def with_groups_read(image: Dataset) -> Dataset:
    """The same object to look into, not to change: frames that say the same share one item of their groups.

    It is `image` itself where that has no per-frame groups, or they are no bytes of Explicit VR Little Endian with
    stated lengths: pydicom reads those.
    """
    element = image.get_item(_PER_FRAME) if _PER_FRAME in image else None
    if not isinstance(element, RawDataElement) or element.VR != "SQ" or not isinstance(element.value, bytes):
        return image
    if element.is_implicit_VR or not element.is_little_endian:
        return image
    declared = image.get("SpecificCharacterSet")
    encodings = charset.convert_encodings(declared) if declared else charset.default_encoding
    try:
        groups = _Reader(encodings).sequence(element.value)
    except (ValueError, struct.error):
        return image
    seen = Dataset()
    for tag in image.keys():  # noqa: SIM118 - as they are, without reading them
        seen[tag] = image.get_item(tag)
    seen[_PER_FRAME] = DataElement(_PER_FRAME, "SQ", groups)
    if hasattr(image, "file_meta"):
        seen.file_meta = image.file_meta
    return seen


class _Reader:
    """Reads sequences of Explicit VR Little Endian; equal ones are one."""

    def __init__(self, encodings: str | list[str]) -> None:
        self._encodings = encodings
        self._read: dict[tuple[int, bytes], DataElement] = {}

    def sequence(self, content: bytes) -> ItemSequence:
        """Raises ValueError for lengths that are not stated or not true."""
        return ItemSequence([self._item(item) for item in _items(content)])

    def _item(self, content: bytes) -> Dataset:
        elements: dict[BaseTag, DataElement | RawDataElement] = {}
        for tag, vr, value in _elements(content):
            if vr == b"SQ":
                if (tag, value) not in self._read:
                    self._read[tag, value] = DataElement(tag, "SQ", self.sequence(value))
                elements[known_tag(tag)] = self._read[tag, value]
            else:
                elements[known_tag(tag)] = RawDataElement(
                    known_tag(tag), vr.decode("ascii"), len(value), value, 0, False, True
                )
        return Dataset(elements, parent_encoding=self._encodings)


def _items(content: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(content):
        tag, length = _tag(content, place), _LENGTH.unpack_from(content, place + 4)[0]
        if tag != _ITEM or length == _UNDEFINED or place + 8 + length > len(content):
            raise ValueError("not an item with its length")
        yield content[place + 8 : place + 8 + length]
        place += 8 + length


def _elements(content: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    place = 0
    while place < len(content):
        tag, vr = _tag(content, place), content[place + 4 : place + 6]
        long = vr in _LONG
        length = (
            _LENGTH.unpack_from(content, place + 8) if long else _TEXT_LENGTH.unpack_from(content, place + 6)
        )[0]
        start = place + (12 if long else 8)
        if not vr.isalpha() or length == _UNDEFINED or start + length > len(content):
            raise ValueError("not an element with its length")
        yield tag, vr, content[start : start + length]
        place = start + length


def _tag(content: bytes, place: int) -> int:
    group, element = _TAG.unpack_from(content, place)
    return int(group) << 16 | int(element)
