"""Which frames a Segmentation has, and their pixels (PS3.3, C.8.20.2.3; PS3.5, 8.1.1).

A frame holds one segment on one plane, or in a LABELMAP all segments on one plane. Frames without any voxel are left
out. Whole-body models find a hundred segments, so each voxel is looked at as rarely as can be: once to see which
segments lie on a plane and in which rows, and once for each segment in just those rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.encaps import encapsulate

from isocenter_operators.dicom.results.run_length import run_length_encoded
from isocenter_operators.errors import InvalidResult
from isocenter_operators.room import require_room

__all__ = ["SegFrames", "fractional_frames", "label_frames", "mask_frames"]

_LONGEST_VALUE = 0xFFFFFFFE  # bytes in one attribute (PS3.5, 7.1.1)
_Extents = dict[int, dict[int, tuple[int, int]]]  # segment number -> plane -> its rows, from and to


@dataclass(frozen=True)
class SegFrames:
    """`entries`: of each frame the segment's number, 0 where it holds all, and the plane's index in Z.

    `pixel_data`: all of them, encapsulated where they are compressed. `overlap`: Segments Overlap (0062,0013).
    """

    entries: tuple[tuple[int, int], ...]
    pixel_data: bytes
    overlap: str


def mask_frames(labels: NDArray[Any], order: Sequence[int]) -> SegFrames:
    """BINARY: one bit per voxel.

    labels: uint8 or uint16 (Z, Y, X), 0 for background, or bool (segments, Z, Y, X), which may overlap.
    order: the planes' indices in Z, in the order in which their frames are written.
    """
    stacked = labels.ndim == 4
    extents = _extents_of_masks(labels, order) if stacked else _extents_of_labels(labels, order)
    entries = [(number, z) for number in sorted(extents) for z in order if z in extents[number]]

    def pieces() -> Iterator[tuple[int, NDArray[np.bool_]]]:
        for number, z in entries:
            top, bottom = extents[number][z]
            yield top, labels[number - 1, z, top:bottom] if stacked else labels[z, top:bottom] == number

    overlap = "YES" if stacked and _overlapping(labels) else "NO"
    return SegFrames(tuple(entries), _packed(len(entries), labels.shape[-2:], pieces()), overlap)


def label_frames(labels: NDArray[Any], order: Sequence[int], *, highest: int, compressed: bool) -> SegFrames:
    """LABELMAP: the number of the segment in each voxel, in 8 bits where the `highest` number fits them, else 16.

    labels: as for `mask_frames`; masks that overlap are refused with InvalidResult. compressed: RLE Lossless.
    """
    if labels.ndim == 4:
        labels = _combined(labels)
    dtype = np.dtype(np.uint8 if highest < 256 else "<u2")
    planes = [z for z in order if labels[z].any()]
    frames = (labels[z].astype(dtype) for z in planes)
    return SegFrames(tuple((0, z) for z in planes), _encoded(frames, compressed), "NO")


def fractional_frames(
    fractions: NDArray[Any], order: Sequence[int], *, maximum: int, compressed: bool
) -> SegFrames:
    """FRACTIONAL: 8 bits per voxel, from 0 to `maximum`.

    fractions: float32 (segments, Z, Y, X) in 0..1, or uint8 that are the stored values already.
    """
    entries: list[tuple[int, int]] = []

    def frames() -> Iterator[NDArray[np.uint8]]:
        for index, segment in enumerate(fractions):
            for z in order:
                plane = segment[z]
                stored = (
                    plane if plane.dtype == np.uint8 else np.rint(plane * float(maximum)).astype(np.uint8)
                )
                if stored.any():
                    entries.append((index + 1, z))
                    yield stored

    pixel_data = _encoded(frames(), compressed)
    # Whether two segments are in one voxel is not defined where either may be there in part (PS3.3, C.8.20.2.3).
    return SegFrames(tuple(entries), pixel_data, "UNDEFINED" if len(fractions) > 1 else "NO")


def _extents_of_labels(labels: NDArray[Any], order: Sequence[int]) -> _Extents:
    extents: _Extents = {}
    highest = int(labels.max(initial=0))
    for z in order:
        top, bottom = _span(labels[z].any(axis=1))
        if top == bottom:
            continue
        left, right = _span(np.asarray(labels[z, top:bottom].any(axis=0)))
        region = labels[z, top:bottom, left:right]
        seen = np.zeros((len(region), highest + 1), np.bool_)  # whether a row has a number
        seen[np.arange(len(region))[:, np.newaxis], region] = True
        present: list[int] = np.flatnonzero(np.any(seen, axis=0)).tolist()
        for number in present:
            first, last = _span(np.asarray(seen[:, number]))
            if number:
                extents.setdefault(number, {})[z] = (top + first, top + last)
    return extents


def _extents_of_masks(masks: NDArray[Any], order: Sequence[int]) -> _Extents:
    extents: _Extents = {}
    for index, mask in enumerate(masks):
        for z in order:
            top, bottom = _span(mask[z].any(axis=1))
            if top < bottom:
                extents.setdefault(index + 1, {})[z] = (top, bottom)
    return extents


def _span(there: NDArray[Any]) -> tuple[int, int]:
    """From the first to after the last; (0, 0) where nothing is there."""
    places = np.flatnonzero(there)
    return (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 0)


def _overlapping(masks: NDArray[Any]) -> bool:
    return any(int(masks[:, z].sum(axis=0, dtype=np.uint16).max()) > 1 for z in range(masks.shape[1]))


def _combined(masks: NDArray[Any]) -> NDArray[np.uint16]:
    if _overlapping(masks):
        raise InvalidResult(
            "segments overlap, and in a LABELMAP a voxel belongs to one segment alone; write them as BINARY"
        )
    labels = np.zeros(masks.shape[1:], np.uint16)
    for index, mask in enumerate(masks):
        labels[mask] = index + 1
    return labels


def _packed(count: int, shape: tuple[int, ...], pieces: Iterable[tuple[int, NDArray[np.bool_]]]) -> bytes:
    """The bits of `count` frames without a gap between them, the first pixel in the lowest bit (PS3.5, 8.1.1, D).

    pieces: of each frame the first row that has any, and the rows from there to the last that has.
    """
    rows, columns = shape
    size = (count * rows * columns + 7) // 8
    size += size % 2
    _refuse_long(size)
    require_room(2 * size)
    bits = np.zeros(size, np.uint8)
    for index, (top, piece) in enumerate(pieces):
        byte, lead = divmod((index * rows + top) * columns, 8)
        flat = piece.ravel()
        if lead:
            flat = np.concatenate([np.zeros(lead, np.bool_), flat])
        packed = np.packbits(flat, bitorder="little")
        bits[byte : byte + len(packed)] |= packed
    return bits.tobytes()


def _encoded(frames: Iterable[NDArray[Any]], compressed: bool) -> bytes:
    if compressed:
        items = [run_length_encoded(frame) for frame in frames]
        return encapsulate(items) if items else b""
    values = b"".join([frame.tobytes() for frame in frames])
    _refuse_long(len(values))
    return values + b"\0" * (len(values) % 2)


def _refuse_long(size: int) -> None:
    if size > _LONGEST_VALUE:
        raise InvalidResult(
            f"the segmentation's frames take {size >> 20} MB, more than the 4095 MB that one object can hold; "
            "write it as a compressed LABELMAP, or fewer segments at once"
        )
