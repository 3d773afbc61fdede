"""From a series to one volume with an exact affine, and back to its frames.

Index order of every affine here is (column, row, slice) = (x, y, z), and its result is millimetres in the
patient's Left-Posterior-Superior axes (PS3.3, C.7.6.2.1.1). Arrays are (Z, Y, X).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from isocenter_operators.dicom.series.frame import Frame, frames_of, instances_of
from isocenter_operators.dicom.series.separation import STRICT, StackPolicy
from isocenter_operators.dicom.series.stack import Stack, stack_of
from isocenter_operators.dicom.series.voxels import rescale_into
from isocenter_operators.errors import GeometryError
from isocenter_operators.room import require_room

__all__ = ["Volume", "on_frames", "slices_of", "volume_of"]

_LARGEST_VOLUME_MB = 8192  # 4,000 slices of 1024 x 1024


@dataclass(frozen=True)
class Volume:
    """Voxels, where they lie in the patient, and the frames they came from.

    `voxels`: int16 or float32 (Z, Y, X), rescaled: Hounsfield units for CT.
    `affine`: float64 (4, 4), index (x, y, z, 1) to LPS millimetres. With a tilted gantry its third column is not at
    right angles to the first two.
    `frames`: the image planes in the order of Z: one per slice, but where missing slices were interpolated.
    `places`: where each frame lies on the grid of slices, from 0; empty where that is its own index.
    `notes`: what was decided about the series, in words.
    `missing_slices`: how many the series lacks between its first and its last, filled or left out.
    """

    voxels: NDArray[np.int16] | NDArray[np.float32]  # (Z, Y, X)
    affine: NDArray[np.float64]  # (x, y, z) -> LPS, mm
    frames: tuple[Frame, ...]
    places: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    missing_slices: int = 0

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along (x, y, z) in millimetres."""
        x, y, z = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z

    @property
    def sources(self) -> tuple[Dataset, ...]:
        """The instances that the frames are of, each once, in the order of Z."""
        return tuple(instances_of(self.frames))


def volume_of(
    instances: Sequence[Dataset],
    *,
    policy: StackPolicy = STRICT,
    dtype: type[np.int16] | type[np.float32] = np.int16,
) -> Volume:
    """The one volume that these instances of one series make, single-frame or multi-frame.

    dtype: float32 for values that are no whole numbers, such as those of PET and of MR with a Rescale Slope; int16
    rounds them.

    Raises GeometryError where they make none that the policy allows (see `stack_of`), UnreadableInput and InputError
    where their values can not be had (see `rescale_into`).
    """
    stack = stack_of(frames_of(instances), policy)
    rows, columns = stack.frames[0].shape
    shape = (stack.depth, rows, columns)
    size = np.dtype(dtype).itemsize
    _refuse_large(shape, size, stack.frames[0].series_uid)
    require_room(size * shape[0] * shape[1] * shape[2])
    voxels: NDArray[Any] = np.empty(shape, dtype)
    if stack.regular:
        for plane, frame in zip(voxels, stack.frames, strict=True):
            rescale_into(plane, frame)
    else:
        _interpolate(voxels, stack)
    places = () if stack.regular else stack.places
    return Volume(voxels, _affine(stack), stack.frames, places, stack.notes, stack.missing)


def slices_of(instances: Sequence[Dataset], *, policy: StackPolicy = STRICT) -> list[Frame]:
    """The frames in order along the slice normal, checked to be one stack that the policy allows.

    Raises GeometryError as `stack_of` does.
    """
    return list(stack_of(frames_of(instances), policy).frames)


def on_frames(labels: NDArray[Any], places: Sequence[float]) -> NDArray[Any]:
    """A map on the volume's slices (Z, ...) as it lies on its frames (len(places), ...): of each the nearest slice.

    places: see `Volume`; where empty, slices and frames are the same and so is the map.
    """
    if not places:
        return labels
    return np.ascontiguousarray(labels[np.rint(np.array(places)).astype(np.intp)])


def _refuse_large(shape: tuple[int, int, int], itemsize: int, uid: str) -> None:
    size_mb = shape[0] * shape[1] * shape[2] * itemsize >> 20
    if size_mb > _LARGEST_VOLUME_MB:
        slices, rows, columns = shape
        raise GeometryError(
            f"series {uid}: {slices} slices of {columns} x {rows} are {size_mb} MB; a volume of more than "
            f"{_LARGEST_VOLUME_MB} MB is not made",
            series_uid=uid,
        )


def _interpolate(voxels: NDArray[Any], stack: Stack) -> None:
    """Each slice of the regular grid from the frames on both sides of it, linearly."""
    places = np.array(stack.places)
    planes: dict[int, NDArray[np.float32]] = {}
    for z, slice_ in enumerate(voxels):
        below = int(np.clip(np.searchsorted(places, z, side="right") - 1, 0, len(places) - 2))
        weight = float(np.clip((z - places[below]) / (places[below + 1] - places[below]), 0.0, 1.0))
        for index in (below, below + 1):
            if index not in planes:
                planes[index] = np.empty(slice_.shape, np.float32)
                rescale_into(planes[index], stack.frames[index])
        mixed = (1 - weight) * planes[below] + weight * planes[below + 1]
        slice_[...] = mixed if voxels.dtype.kind == "f" else np.rint(mixed)
        for index in [index for index in planes if index < below]:
            del planes[index]


def _affine(stack: Stack) -> NDArray[np.float64]:
    first, last = stack.frames[0], stack.frames[-1]
    row_spacing_mm, column_spacing_mm = first.spacing_mm
    along_row, along_column = first.directions
    affine = np.eye(4)
    affine[:3, 0] = along_row * column_spacing_mm  # one step along a row: to the next column
    affine[:3, 1] = along_column * row_spacing_mm
    affine[:3, 2] = (last.position_mm - first.position_mm) / (stack.depth - 1)
    affine[:3, 3] = first.position_mm
    return affine
