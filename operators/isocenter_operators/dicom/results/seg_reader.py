"""Segmentations read back, whoever wrote them: which segments there are, and which voxels are theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from isocenter_operators.dicom.findings import Code
from isocenter_operators.dicom.series.frame import Frame, frames_of
from isocenter_operators.dicom.series.frame_grid import FrameGrid, grid_of
from isocenter_operators.errors import InputError, UnreadableInput

__all__ = ["StoredSegment", "StoredSegmentation", "read_segmentation"]


@dataclass(frozen=True)
class StoredSegment:
    """What a segmentation says of one of its segments (PS3.3, C.8.20.4)."""

    number: int
    label: str
    category: Code | None
    type: Code | None
    laterality: Code | None
    tracking_uid: str | None


@dataclass(frozen=True, eq=False)
class StoredSegmentation:
    """A segmentation on the grid of its own frames. `grid.places` gives the slice of each frame of `frames`."""

    dataset: Dataset
    frames: tuple[Frame, ...]
    grid: FrameGrid
    segments: tuple[StoredSegment, ...]

    def mask(self, number: int) -> NDArray[np.bool_] | NDArray[np.float32]:
        """The voxels of one segment (Z, Y, X): bool, of a FRACTIONAL one float32 in 0..1."""
        fractional = self.dataset.SegmentationType == "FRACTIONAL"
        voxels: NDArray[Any] = np.zeros(self.grid.shape, np.float32 if fractional else np.bool_)
        for frame, place in zip(self.frames, self.grid.places, strict=True):
            if self._is_labelmap:
                voxels[place] = _stored(frame) == number
            elif _segment_of(frame) == number:
                values = _stored(frame)
                voxels[place] = (
                    values / np.float32(self.dataset.MaximumFractionalValue) if fractional else values
                )
        return voxels

    def label_map(self) -> NDArray[np.uint16]:
        """All segments at once: uint16 (Z, Y, X), 0 where there is none, else the segment's number.

        Raises InputError where segments overlap, or the segmentation is FRACTIONAL: no such map says what it says.
        """
        if self.dataset.SegmentationType == "FRACTIONAL":
            raise InputError(f"{self.dataset.SOPInstanceUID} is FRACTIONAL: it has no label map")
        labels = np.zeros(self.grid.shape, np.uint16)
        for frame, place in zip(self.frames, self.grid.places, strict=True):
            values = _stored(frame)
            if self._is_labelmap:
                labels[place] = np.where(values == self._background, 0, values)
                continue
            inside = values != 0
            if labels[place][inside].any():
                raise InputError(
                    f"{self.dataset.SOPInstanceUID}: its segments overlap, so it has no label map"
                )
            labels[place][inside] = _segment_of(frame)
        return labels

    @property
    def _is_labelmap(self) -> bool:
        return bool(self.dataset.SegmentationType == "LABELMAP")

    @property
    def _background(self) -> int:
        """Pixel Padding Value says what stands for no segment (PS3.3, C.8.20.2.4); without it, 0 does."""
        return int(self.dataset.get("PixelPaddingValue") or 0)


def read_segmentation(seg: Dataset) -> StoredSegmentation:
    """A Segmentation of any kind: BINARY, FRACTIONAL or LABELMAP (PS3.3, A.51).

    Raises UnreadableInput where it is none, GeometryError where its frames lie on no regular grid.
    """
    if seg.get("SegmentationType") not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        raise UnreadableInput(f"{seg.get('SOPInstanceUID')} is no segmentation")
    frames = tuple(frames_of([seg]))
    return StoredSegmentation(seg, frames, grid_of(frames), tuple(map(_segment, seg.SegmentSequence)))


def _segment(item: Dataset) -> StoredSegment:
    type_items = item.get("SegmentedPropertyTypeCodeSequence") or [Dataset()]
    return StoredSegment(
        number=int(item.SegmentNumber),
        label=str(item.get("SegmentLabel", "")),
        category=_code(item, "SegmentedPropertyCategoryCodeSequence"),
        type=_code(item, "SegmentedPropertyTypeCodeSequence"),
        laterality=_code(type_items[0], "SegmentedPropertyTypeModifierCodeSequence"),
        tracking_uid=str(item.TrackingUID) if item.get("TrackingUID") else None,
    )


def _code(item: Dataset, keyword: str) -> Code | None:
    for code in item.get(keyword) or []:
        return Code(
            str(code.get("CodeValue", "")), str(code.get("CodingSchemeDesignator", "")), str(code.CodeMeaning)
        )
    return None


def _segment_of(frame: Frame) -> int:
    return int(frame.get("ReferencedSegmentNumber") or 0)


def _stored(frame: Frame) -> NDArray[Any]:
    """The stored values of one frame (Y, X); of a BINARY one its bits, of which eight are a byte (PS3.5, 8.1.1)."""
    seg, index = frame.instance, (frame.number or 1) - 1
    rows, columns = frame.shape
    if int(seg.BitsAllocated) != 1 or seg.file_meta.TransferSyntaxUID.is_encapsulated:
        values: NDArray[Any] = pixel_array(seg, index=index)
        return values
    first = index * rows * columns
    packed = np.frombuffer(
        seg.PixelData, np.uint8, count=(first + rows * columns + 7) // 8 - first // 8, offset=first // 8
    )
    bits = np.unpackbits(packed, bitorder="little")[first % 8 : first % 8 + rows * columns]
    return bits.reshape(rows, columns)
