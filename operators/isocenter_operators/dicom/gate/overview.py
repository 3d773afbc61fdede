"""A CT volume on a coarse grid along the patient's own axes: enough to tell what is in it, whichever way it lies.

A few millimetres are enough to see a lung, a skull or a spine, and a hundredth of the voxels is looked at in a tenth of
a second. The grid is laid through the affine, so that axial, coronal, oblique and tilted acquisitions look alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import SupportsFloat

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["Overview", "overview_of"]

_Mask = NDArray[np.bool_]

_STEP_MM = 4.0  # the wall of a skull is 5 to 8 mm thick, the shell of a table 1 to 2
_MOST_POINTS = 1_500_000  # of the grid: a chest takes 700,000
_OUTSIDE_FIELD_HU = -1100  # lower than air can be: what scanners write where they reconstructed nothing
_TISSUE_HU = -300  # half-way between fat (-100) and inflated lung or air
_AIR_HU = -1000
_SMALLEST_BODY_ML = 50.0
_CROSS = ndimage.generate_binary_structure(2, 1)[None]  # neighbours in an axial plane


@dataclass(frozen=True)
class Overview:
    """The coarse grid, all arrays (S, P, L): from the feet to the head, front to back, right to left.

    hu: float32, Hounsfield units; each the mean of up to four voxels, which halves the noise. Air where not `seen`.
    seen: where the volume has voxels, and not what stands for "outside the field of view" (below -1100 HU).
    step_mm: between grid points, the same along each axis.
    """

    hu: NDArray[np.float32]
    seen: _Mask
    step_mm: float

    @cached_property
    def body(self) -> _Mask:
        """The largest connected piece of tissue, (S, P, L): no table, no holder, and not the air inside."""
        tissue = (self.hu > _TISSUE_HU) & self.seen
        solid = ndimage.binary_opening(tissue, _CROSS)  # a table's shell is thinner than two steps
        labels, count = ndimage.label(solid)
        if not count:
            return np.zeros(self.hu.shape, np.bool_)
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        largest: _Mask = labels == int(sizes.argmax())
        return largest

    @cached_property
    def inside(self) -> _Mask:
        """The body with the air in it, (S, P, L): what has tissue on at least three of its four sides in its plane.

        Three, not four: a lung at the edge of a small field of view has no chest wall there.
        """
        sides = np.zeros(self.body.shape, np.uint8)
        for axis in (1, 2):
            sides += np.maximum.accumulate(self.body, axis)
            sides += np.flip(np.maximum.accumulate(np.flip(self.body, axis), axis), axis)
        return (self.body | (sides >= 3)) & self.seen

    @property
    def holds_nothing(self) -> bool:
        """Whether no piece of tissue is as large as 50 mL, which the hand of a child has."""
        return self.millilitres(np.count_nonzero(self.body)) < _SMALLEST_BODY_ML

    @cached_property
    def outline(self) -> NDArray[np.float64]:
        """How many points each axial section's outline has, (S,)."""
        return self._edges[0]

    @cached_property
    def cut_share(self) -> NDArray[np.float64]:
        """Of each axial section's outline, (S,): how much of it lies at the edge of the field of view."""
        outline, cut = self._edges
        return cut / np.maximum(outline, 1)

    @cached_property
    def _edges(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        field = np.pad(self.seen, ((0, 0), (1, 1), (1, 1)))
        body = np.pad(self.inside, ((0, 0), (1, 1), (1, 1)))
        outline: NDArray[np.float64] = np.zeros(len(body))
        cut: NDArray[np.float64] = np.zeros(len(body))
        for axis in (1, 2):
            for shift in (1, -1):
                edge = body & ~np.roll(body, shift, axis)
                outline += edge.sum(axis=(1, 2))
                cut += (edge & ~np.roll(field, shift, axis)).sum(axis=(1, 2))
        return outline, cut

    def millilitres(self, count: SupportsFloat) -> float:
        """The volume of so many grid points."""
        return float(count) * self.step_mm**3 / 1000


def overview_of(voxels: NDArray[np.generic], affine: NDArray[np.float64]) -> Overview:
    """The overview of CT voxels (Z, Y, X) in HU; `affine`: index (x, y, z, 1) to LPS mm."""
    thinned, thinned_affine = _thinned(voxels, affine)
    ends = [(-0.5, count - 0.5) for count in thinned.shape[::-1]]  # (x, y, z)
    corners = np.array([(x, y, z, 1) for x in ends[0] for y in ends[1] for z in ends[2]]) @ thinned_affine.T
    low_mm, size_mm = corners.min(0)[:3], np.ptp(corners, axis=0)[:3]
    step_mm = max(_STEP_MM, float(np.prod(size_mm) / _MOST_POINTS) ** (1 / 3))
    counts = np.maximum(1, np.ceil(size_mm / step_mm).astype(int))
    axes_mm = [low + (np.arange(count) + 0.5) * step_mm for low, count in zip(low_mm, counts, strict=True)]
    x, y, z = _indices(axes_mm, thinned_affine)
    seen = np.ones(z.shape, np.bool_)
    for index, count in zip((x, y, z), thinned.shape[::-1], strict=True):
        seen &= (index >= 0) & (index < count)
    hu = np.full(seen.shape, _AIR_HU, np.float32)
    hu[seen] = thinned[z[seen], y[seen], x[seen]]
    beyond = hu < _OUTSIDE_FIELD_HU
    hu[beyond] = _AIR_HU
    return Overview(hu, seen & ~beyond, step_mm)


def _thinned(
    voxels: NDArray[np.generic], affine: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Every so many voxels along each axis, the mean of up to four in a slice, and the affine of these."""
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)  # (x, y, z)
    step_x, step_y, step_z = (max(1, int(_STEP_MM / spacing)) for spacing in spacing_mm)
    half_x, half_y = step_x // 2, step_y // 2
    offsets = sorted({(row, column) for row in (0, half_y) for column in (0, half_x)})
    views = [voxels[::step_z, row::step_y, column::step_x] for row, column in offsets]
    shape = tuple(min(view.shape[axis] for view in views) for axis in range(3))
    total = np.zeros(shape, np.float32)
    for view in views:
        total += view[: shape[0], : shape[1], : shape[2]]
    thinned_affine = affine.copy()
    thinned_affine[:3, 3] += affine[:3, :3] @ (half_x / 2, half_y / 2, 0)
    thinned_affine[:3, :3] *= (step_x, step_y, step_z)
    total /= len(views)
    return total, thinned_affine


def _indices(
    axes_mm: list[NDArray[np.float64]], affine: NDArray[np.float64]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """The index x, y and z of the voxel nearest to each grid point, each (S, P, L)."""
    inverse = np.linalg.inv(affine)
    left, back, up = axes_mm
    x, y, z = (
        np.rint(
            (row[0] * left + row[3])[None, None, :]
            + (row[1] * back)[None, :, None]
            + (row[2] * up)[:, None, None]
        ).astype(np.int32)
        for row in inverse[:3]
    )
    return x, y, z
