"""What each frame of a Segmentation is: of which segment, where, derived from which image (PS3.3, C.7.6.16, C.8.20.3).

A whole-body segmentation has thousands of frames, and describing each with Datasets takes longer than all its pixels.
So the parts that frames have in common, of a plane and of a segment, are encoded once, and the Per-frame Functional
Groups Sequence is put together of their bytes. pydicom reads it when somebody looks into it, and writes it as it is.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import Tag

from isocenter_operators.dicom.findings import Code
from isocenter_operators.dicom.frame import Frame
from isocenter_operators.dicom.header import coded, referenced

__all__ = ["per_frame_groups"]

_ITEM = struct.Struct("<HHL")
_DERIVATION = Code("113076", "DCM", "Segmentation")  # CID 7203
_PURPOSE = Code("121322", "DCM", "Source image for image processing operation")  # CID 7202


def per_frame_groups(
    entries: Sequence[tuple[int, int]],
    frames: Sequence[Frame],
    planes: Sequence[Dataset],
    ranks: Mapping[int, int],
    *,
    segments_differ: bool,
) -> RawDataElement:
    """The Per-frame Functional Groups Sequence, in Explicit VR Little Endian.

    entries: of each frame the segment's number, 0 in a LABELMAP, and the index of its plane in `frames` and `planes`.
    ranks: of each plane that has a frame, its place among them, from 1: the dimension index of its position.
    segments_differ: whether each frame says which segment it is of; else the shared groups do, or none does.
    """
    derivations = {z: _encoded(_derivation(frames[z])) for z in ranks}
    positions = {z: _encoded(_position(planes[z])) for z in ranks}
    numbers = {number for number, _ in entries}
    identifications = {n: _encoded(_identification(n)) if segments_differ else b"" for n in numbers}
    items: list[bytes] = []
    for number, z in entries:
        indices = (number, ranks[z]) if number else (ranks[z],)
        # The tags of an item ascend: 0008, 0020, 0020, 0062.
        item = derivations[z] + _content(indices) + positions[z] + identifications[number]
        items += (_ITEM.pack(0xFFFE, 0xE000, len(item)), item)
    value = b"".join(items)
    tag = Tag("PerFrameFunctionalGroupsSequence")
    return RawDataElement(tag, "SQ", len(value), value, 0, False, True)


def _derivation(frame: Frame) -> Dataset:
    (image,) = referenced([frame])
    image.PurposeOfReferenceCodeSequence = [coded(_PURPOSE)]
    image.SpatialLocationsPreserved = "YES"
    derivation = Dataset()
    derivation.DerivationCodeSequence = [coded(_DERIVATION)]
    derivation.SourceImageSequence = [image]
    group = Dataset()
    group.DerivationImageSequence = [derivation]
    return group


def _position(plane: Dataset) -> Dataset:
    position = Dataset()
    position.ImagePositionPatient = plane.ImagePositionPatient
    group = Dataset()
    group.PlanePositionSequence = [position]
    return group


def _identification(number: int) -> Dataset:
    identification = Dataset()
    identification.ReferencedSegmentNumber = number
    group = Dataset()
    group.SegmentIdentificationSequence = [identification]
    return group


def _content(indices: tuple[int, ...]) -> bytes:
    """Frame Content with the Dimension Index Values: 32-bit numbers at its end."""
    return _content_head(len(indices)) + struct.pack(f"<{len(indices)}L", *indices)


def _content_head(count: int) -> bytes:
    value = struct.pack("<HH2sH", 0x0020, 0x9157, b"UL", 4 * count)
    length = len(value) + 4 * count
    item = _ITEM.pack(0xFFFE, 0xE000, length)
    return struct.pack("<HH2sHL", 0x0020, 0x9111, b"SQ", 0, len(item) + length) + item + value


def _encoded(group: Dataset) -> bytes:
    target = DicomBytesIO()
    target.is_implicit_VR, target.is_little_endian = False, True
    write_dataset(target, group)
    return bytes(target.getvalue())
