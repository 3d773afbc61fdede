"""Two segmentations or structure sets of the same images: how far segments of one name agree, how large they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.dicom.results.rtstruct_reader import StoredStructureSet
from isocenter_operators.dicom.results.seg_reader import StoredSegmentation
from isocenter_operators.errors import GeometryError, InputError

__all__ = ["Overlap", "Segmented", "overlaps"]

Segmented = StoredSegmentation | StoredStructureSet

_SAME_SLICE = 0.1  # of the distance between two slices
_SAME_GRID_MM = 0.01


@dataclass(frozen=True)
class Overlap:
    """One segment in both. `dice`: 0 to 1; None where neither has a voxel of it. Volumes in millilitres."""

    label: str
    dice: float | None
    one_ml: float
    other_ml: float


def overlaps(one: Segmented | None, other: Segmented | None) -> tuple[Overlap, ...]:
    """Each segment that either of the two names, by its label. None stands for a result in which nothing was found.

    Raises InputError for a FRACTIONAL one or a label that stands twice, GeometryError where they lie on different
    grids.
    """
    numbers = [_numbers(each) for each in (one, other)]
    depths = [0 if each is None else each.grid.shape[0] for each in (one, other)]
    widest = (
        one if depths[0] >= depths[1] else other
    )  # of a single slice nobody knows how far the next one is
    voxel_ml = 0.0 if widest is None else abs(float(np.linalg.det(widest.grid.affine[:3, :3]))) / 1000
    pairs = _same_slices(one, other) if one is not None and other is not None else ()
    found = []
    for label in dict.fromkeys([*numbers[0], *numbers[1]]):
        first, second = (_mask(each, of.get(label)) for each, of in zip((one, other), numbers, strict=True))
        shared = sum(int(np.count_nonzero(first[here] & second[there])) for here, there in pairs)
        counts = [int(np.count_nonzero(each)) for each in (first, second)]
        dice = 2 * shared / sum(counts) if sum(counts) else None
        found.append(Overlap(label, dice, counts[0] * voxel_ml, counts[1] * voxel_ml))
    return tuple(found)


def _numbers(seg: Segmented | None) -> dict[str, int]:
    if seg is None:
        return {}
    if seg.dataset.get("SegmentationType") == "FRACTIONAL":
        raise InputError(f"{seg.dataset.SOPInstanceUID} is FRACTIONAL: it has no segments to be compared")
    numbers = {segment.label: segment.number for segment in seg.segments}
    if len(numbers) != len(seg.segments):
        raise InputError(f"{seg.dataset.SOPInstanceUID} has two segments of one label")
    return numbers


def _mask(seg: Segmented | None, number: int | None) -> NDArray[np.bool_]:
    """(Z, Y, X); nothing where there is no such segment."""
    if seg is None or number is None:
        shape = (0, 0, 0) if seg is None else seg.grid.shape
        return np.zeros(shape, np.bool_)
    return seg.mask(number).astype(np.bool_)


def _same_slices(one: Segmented, other: Segmented) -> tuple[tuple[int, int], ...]:
    """The slices that both have: empty ones may be missing in either."""
    grids = (one.grid, other.grid)
    axes = [grid.affine[:3, :2] for grid in grids]
    if grids[0].shape[1:] != grids[1].shape[1:] or np.abs(axes[0] - axes[1]).max() > _SAME_GRID_MM:
        raise GeometryError("the two segmentations lie on different planes", series_uid=None)
    places = [
        grid.affine[:3, 3] + np.arange(grid.shape[0])[:, None] * grid.affine[:3, 2] for grid in grids
    ]  # (Z, 3), mm
    distances_mm = np.linalg.norm(places[0][:, None] - places[1][None], axis=2)
    widest = max(grids, key=lambda grid: grid.shape[0])
    step_mm = float(np.linalg.norm(widest.affine[:3, 2]))
    return tuple((int(here), int(there)) for here, there in np.argwhere(distances_mm < _SAME_SLICE * step_mm))
