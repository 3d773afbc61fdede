"""Several series of one examination on one grid: the first one's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from isocenter_operators.dicom.series.geometry import Volume
from isocenter_operators.errors import GeometryError, NotApplicable

__all__ = ["aligned"]

_SAME_MM = 0.01  # as far as the corners of two equal grids may lie apart
_LEAST_COVERED = 0.95  # of the first series' voxels
_HALF_A_VOXEL = 0.5 + 1e-6  # a place that lies on an edge is not lost to rounding


def aligned(volume: Volume, onto: Volume, name: str) -> tuple[NDArray[np.int16], str]:
    """The voxels on the grid of `onto`, int16 (Z, Y, X), and a note of what was done; "" where nothing was.

    Linear between voxels; to the edge of the outermost ones, half a voxel from their centres, these go on; what lies
    outside of that is 0. name: what messages call the series.

    Raises GeometryError where one of them has no Frame of Reference UID, NotApplicable where they lie in different
    frames of reference, or less than 95 % of the grid is covered.
    """
    _require_same_space(volume, onto, name)
    if volume.voxels.shape == onto.voxels.shape and _apart_mm(volume, onto) < _SAME_MM:
        return np.ascontiguousarray(volume.voxels, np.int16), ""
    to_index = np.linalg.inv(volume.affine) @ onto.affine  # (x, y, z) of the grid to (x, y, z) of the series
    matrix = to_index[:3, :3][::-1, ::-1]  # the same for (z, y, x)
    offset = to_index[:3, 3][::-1]
    covered = _covered(matrix, offset, onto.voxels.shape, volume.voxels.shape)
    if covered < _LEAST_COVERED:
        raise NotApplicable(
            f"{name}, series {volume.frames[0].series_uid}, shows {100 * covered:.0f} % of what series "
            f"{onto.frames[0].series_uid} shows; all series have to show the same",
            series_uid=volume.frames[0].series_uid,
        )
    placed = ndimage.affine_transform(
        volume.voxels.astype(np.float32),
        matrix,
        offset,
        onto.voxels.shape,
        order=1,
        # With "constant", a place that rounding puts outside of the outermost centres, as a whole first slice, is lost.
        mode="nearest",
    )
    for z, plane in enumerate(placed):
        plane[_outside(z, plane.shape, matrix, offset, volume.voxels.shape)] = 0
    note = f"{name} was brought to the grid of the first series"
    return np.rint(placed).astype(np.int16), note + (
        f"; {100 * (1 - covered):.0f} % of that lies outside of it" if covered < 0.995 else ""
    )


def _require_same_space(volume: Volume, onto: Volume, name: str) -> None:
    uids = [str(each.frames[0].get("FrameOfReferenceUID") or "") for each in (volume, onto)]
    for each, uid in zip((volume, onto), uids, strict=True):
        if not uid:
            raise GeometryError(
                f"series {each.frames[0].series_uid} has no Frame of Reference UID: where it lies beside the other "
                "series is not known; send the original images",
                series_uid=each.frames[0].series_uid,
            )
    if uids[0] != uids[1]:
        raise NotApplicable(
            f"{name}, series {volume.frames[0].series_uid}, lies in another frame of reference than series "
            f"{onto.frames[0].series_uid}: the patient may have moved between them. Register the series first",
            series_uid=volume.frames[0].series_uid,
        )


def _apart_mm(volume: Volume, onto: Volume) -> float:
    """The largest distance of two corners of grids of the same shape."""
    depth, rows, columns = volume.voxels.shape
    ends = np.array([(0, columns - 1), (0, rows - 1), (0, depth - 1)])
    corners = np.stack(np.meshgrid(*ends, [1], indexing="ij")).reshape(4, -1)
    return float(np.linalg.norm(((volume.affine - onto.affine) @ corners)[:3], axis=0).max())


def _covered(
    matrix: NDArray[np.float64], offset: NDArray[np.float64], grid: tuple[int, ...], series: tuple[int, ...]
) -> float:
    """The share of the grid's voxels, of some fifty along each axis, that lie in the series, half a voxel around it."""
    along = (np.arange(0, size, max(1, size // 50)) for size in grid)
    places = np.stack(np.meshgrid(*along, indexing="ij")).reshape(3, -1)
    index = matrix @ places + offset[:, None]
    last = np.array(series, np.float64)[:, None] - 1
    return float(np.mean(np.all((index >= -_HALF_A_VOXEL) & (index <= last + _HALF_A_VOXEL), axis=0)))


def _outside(
    z: int,
    plane: tuple[int, ...],
    matrix: NDArray[np.float64],
    offset: NDArray[np.float64],
    series: tuple[int, ...],
) -> NDArray[np.bool_]:
    """Which voxels (Y, X) of the grid's plane z lie in no voxel of the series."""
    rows, columns = np.arange(plane[0])[:, None], np.arange(plane[1])
    outside = np.zeros(plane, np.bool_)
    for axis, length in enumerate(series):
        at_corners = matrix[axis, 0] * z + offset[axis] + matrix[axis, 1] * rows[[0, -1]]
        at_corners = at_corners + matrix[axis, 2] * columns[[0, -1]]
        if at_corners.min() >= -_HALF_A_VOXEL and at_corners.max() <= length - 1 + _HALF_A_VOXEL:
            continue  # nor is anything between them
        index = matrix[axis, 0] * z + matrix[axis, 1] * rows + matrix[axis, 2] * columns + offset[axis]
        outside |= (index < -_HALF_A_VOXEL) | (index > length - 1 + _HALF_A_VOXEL)
    return outside
