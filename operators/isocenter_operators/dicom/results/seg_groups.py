"""What each frame of a Segmentation is: of which segment, where, derived from which image (PS3.3, C.7.6.16, C.8.20.3).

A whole-body segmentation has thousands of frames, and describing each with Datasets takes longer than all its pixels.
So the parts that frames have in common, of a plane and of a segment, are encoded once, and the Per-frame Functional
Groups Sequence is put together of their bytes. pydicom reads it when somebody looks into it, and writes it as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.valuerep import format_number_as_ds

from isocenter_operators.dicom.findings import Code
from isocenter_operators.dicom.header import referenced
from isocenter_operators.dicom.series.frame import Frame

__all__ = ["per_frame_groups"]

_DERIVATION = Code("113076", "DCM", "Segmentation")  # CID 7203
_PURPOSE = Code("121322", "DCM", "Source image for image processing operation")  # CID 7202


def per_frame_groups(
    entries: Sequence[tuple[int, int]],
    frames: Sequence[Frame],
    ranks: Mapping[int, int],
    *,
    segments_differ: bool,
) -> RawDataElement:
    """The Per-frame Functional Groups Sequence, in Explicit VR Little Endian.

    entries: of each frame the segment's number, 0 in a LABELMAP, and the index of its plane in `frames`.
    ranks: of each plane that has a frame, its place among them, from 1: the dimension index of its position.
    segments_differ: whether each frame says which segment it is of; else the shared groups do, or none does.
    """
    derivations = {z: _derivation(frames[z]) for z in ranks}
    positions = {z: _position(frames[z]) for z in ranks}
    numbers = {number for number, _ in entries}
    identifications = {number: _identification(number) if segments_differ else b"" for number in numbers}
    # The tags of an item ascend: 0008, 0020, 0020, 0062.
    value = b"".join(
        _item(derivations[z] + _content(number, ranks[z]) + positions[z] + identifications[number])
        for number, z in entries
    )
    tag = Tag("PerFrameFunctionalGroupsSequence")
    return RawDataElement(tag, "SQ", len(value), value, 0, False, True)


def _derivation(frame: Frame) -> bytes:
    """Derivation Image Sequence with the one image that lies in the same place (PS3.3, C.7.6.16.2.6)."""
    (reference,) = referenced([frame])
    number = reference.get("ReferencedFrameNumber")
    image = [
        _element(0x00081150, b"UI", str(reference.ReferencedSOPClassUID)),
        _element(0x00081155, b"UI", str(reference.ReferencedSOPInstanceUID)),
        b"" if number is None else _element(0x00081160, b"IS", str(number)),
        _element(0x0028135A, b"CS", "YES"),  # Spatial Locations Preserved
        _sequence(0x0040A170, _coded(_PURPOSE)),  # Purpose of Reference Code
    ]
    source = _sequence(0x00082112, b"".join(image))
    return _sequence(0x00089124, source + _sequence(0x00089215, _coded(_DERIVATION)))


def _content(number: int, rank: int) -> bytes:
    """Frame Content Sequence with the Dimension Index Values; of a LABELMAP, of the position alone."""
    indices = struct.pack("<2L", number, rank) if number else struct.pack("<L", rank)
    return _sequence(0x00209111, _element(0x00209157, b"UL", indices))


def _position(frame: Frame) -> bytes:
    """As the source has it, where its decimal strings are not too long to be valid (PS3.5, 6.2)."""
    texts = [str(value).strip() for value in frame.get("ImagePositionPatient")]
    valid = [text if len(text) <= 16 else format_number_as_ds(float(text)) for text in texts]
    return _sequence(0x00209113, _element(0x00200032, b"DS", "\\".join(valid)))


def _identification(number: int) -> bytes:
    return _sequence(0x0062000A, _element(0x0062000B, b"US", struct.pack("<H", number)))


def _coded(code: Code) -> bytes:
    return b"".join(
        [
            _element(0x00080100, b"SH", code.value),
            _element(0x00080102, b"SH", code.scheme),
            _element(0x00080104, b"LO", code.meaning),
        ]
    )


def _element(tag: int, vr: bytes, value: bytes | str) -> bytes:
    """With an even number of bytes, as PS3.5, 6.2 and 7.1.2 have it; text is of the default repertoire."""
    content = value.encode("ascii") if isinstance(value, str) else value
    if len(content) % 2:
        content += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(content)) + content


def _sequence(tag: int, content: bytes) -> bytes:
    """With one item."""
    item = _item(content)
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, b"SQ", 0, len(item)) + item


def _item(content: bytes) -> bytes:
    return struct.pack("<HHL", 0xFFFE, 0xE000, len(content)) + content
