"""The airway tree, followed from the trachea downwards: trachea, main and lobar bronchi with their walls.

A wave runs through the lumen, one voxel further at a time. Where its front parts, each part becomes a branch of
its own. A branch whose front grows instead of narrowing has broken through the wall into the lung: what it took
is given back (after the explosion control of Mori et al., ICPR 1996, here for each branch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from .grid import Grid
from .morphology import ball_dilate
from .trachea import Trachea

__all__ = ["Airways", "follow_airways"]

_LUMEN_HU = -880
_WALL_MM = 2.0  # from where the lumen is darker than _LUMEN_HU to the outside of its wall
_NARROWEST_MM2 = 14.0  # a lumen of about 4 mm: beyond lie segmental bronchi, which stay in the lung
_LARGEST_GROWTH = 1.6  # of a front over what it was
_ALLOWED_MM2 = 30.0  # on top, for fronts that are askew
_REACH_MM = (110.0, 70.0, 85.0)  # below the trachea's end, and to each side of it: S, P, L
_TRACHEA_MM = 45.0  # the trachea's own part may lie this far to each side of its lower end


@dataclass(frozen=True)
class Airways:
    """mask: bool (S, P, L) on the volume's own voxels, lumen with wall; box: the blocks it covers, (start, stop)."""

    mask: NDArray[np.bool_]
    box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    lumen_ml: float


@dataclass
class _Branch:
    parent_mm2: float  # cross-section of the branch it came from
    fronts: list[NDArray[np.int64]] = field(default_factory=list)


def follow_airways(volume: Tensor, grid: Grid, trachea: Trachea, small_shape: Sequence[int]) -> Airways:
    """The airways of an int16 volume (Z, Y, X) below and around the trachea found on its small grid."""
    box = _box(grid, trachea, small_shape)
    hu = grid.part(volume, box)
    spacing_mm = [small / count for small, count in zip(grid.small_spacing_mm, grid.block_shape, strict=True)]
    finer = [max(1, round(spacing / min(spacing_mm))) for spacing in spacing_mm]
    hu = _interpolated(hu, finer)
    spacing_mm = [spacing / times for spacing, times in zip(spacing_mm, finer, strict=True)]
    seed = [
        ((place - start) * count + count // 2) * times
        for place, (start, _), count, times in zip(trachea.middle, box, grid.block_shape, finer, strict=True)
    ]
    lumen = _Wave(hu < _LUMEN_HU, spacing_mm).run(seed, trachea.area_mm2)
    walled = ball_dilate(torch.from_numpy(lumen).to(volume.device), _WALL_MM, spacing_mm).cpu().numpy()
    lumen_ml = float(lumen.sum()) * grid.voxel_mm3 / (1000 * np.prod(finer))
    return Airways(walled[:: finer[0], :: finer[1], :: finer[2]], box, float(lumen_ml))


def _interpolated(hu: NDArray[np.int16], times: Sequence[int]) -> NDArray[np.int16]:
    """Linearly, in integers, with so many steps between two planes: a wave needs voxels of even sides."""
    for axis, count in enumerate(times):
        if count > 1:
            planes = np.moveaxis(hu, axis, 0).astype(np.int32)
            between = np.empty(((len(planes) - 1) * count + 1, *planes.shape[1:]), np.int16)
            for step in range(count):
                mixed = (planes[:-1] * (count - step) + planes[1:] * step) // count
                between[step:-1:count] = mixed
            between[-1] = planes[-1]
            hu = np.moveaxis(between, 0, axis)
    return np.ascontiguousarray(hu)


def _box(
    grid: Grid, trachea: Trachea, shape: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    ends = []
    for axis, spacing in enumerate(grid.small_spacing_mm):
        places = (trachea.top[axis], trachea.bottom[axis])
        below = _REACH_MM[axis] / spacing
        above = 0.0 if axis == 0 else below
        ends.append((max(0, int(min(places) - below)), min(shape[axis], int(max(places) + above) + 1)))
    return ends[0], ends[1], ends[2]


class _Wave:
    """A wave through a mask bool (S, P, L)."""

    def __init__(self, mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> None:
        self._free = np.pad(mask, 1)  # a border, so that no step leaves the array
        self._shape = self._free.shape
        self._flat = self._free.ravel()
        strides = (self._shape[1] * self._shape[2], self._shape[2], 1)
        self._steps = np.array([sign * stride for stride in strides for sign in (1, -1)])
        # A front of a wave that steps through faces is about as large as the cross-section it stands in.
        self._voxel_mm2 = float(spacing_mm[1] * spacing_mm[2])

    def run(self, seed: Sequence[int], area_mm2: float) -> NDArray[np.bool_]:
        """What the wave keeps that starts from the cross-section (P, L) around the seed: bool (S, P, L).

        area_mm2: of the trachea, where that cross-section lies.
        """
        kept = np.zeros(self._flat.size, np.bool_)
        start = self._section([place + 1 for place in seed])
        self._flat[start] = False
        branches = [(_Branch(area_mm2), start)]
        while branches:
            branch, front = branches.pop()
            branches.extend(self._follow(branch, front))
            for reached in branch.fronts:
                kept[reached] = True
        return kept.reshape(self._shape)[1:-1, 1:-1, 1:-1]

    def _section(self, seed: Sequence[int]) -> NDArray[np.int64]:
        labels, _ = ndimage.label(self._free[seed[0]])
        label = labels[seed[1], seed[2]]
        plane = np.flatnonzero(labels == label) if label else np.empty(0, np.int64)
        section: NDArray[np.int64] = plane + seed[0] * self._shape[1] * self._shape[2]
        return section

    def _follow(self, branch: _Branch, front: NDArray[np.int64]) -> list[tuple[_Branch, NDArray[np.int64]]]:
        """Run one branch to its end; the branches that go on from there."""
        while front.size:
            branch.fronts.append(front)
            area_mm2 = front.size * self._voxel_mm2
            if area_mm2 > self._limit_mm2(branch):
                self._give_back(branch)
                return []
            front = self._next(front)
            parts = self._parts(front)
            if len(parts) > 1:
                typical = self._typical_mm2(branch)
                return [(_Branch(typical), part) for part in parts]
            front = parts[0] if parts else front[:0]
        return []

    def _typical_mm2(self, branch: _Branch) -> float:
        return float(np.median([front.size for front in branch.fronts[:20]])) * self._voxel_mm2

    def _limit_mm2(self, branch: _Branch) -> float:
        young = len(branch.fronts) < 10
        usual = branch.parent_mm2 if young else min(self._typical_mm2(branch), branch.parent_mm2)
        return _LARGEST_GROWTH * usual + _ALLOWED_MM2

    def _give_back(self, branch: _Branch) -> None:
        """Drop the fronts from where they began to grow."""
        typical = float(np.median([front.size for front in branch.fronts]))
        sound = 0
        for front in branch.fronts:
            if front.size > 1.2 * typical + 2:
                break
            sound += 1
        del branch.fronts[max(0, sound - 2) :]

    def _next(self, front: NDArray[np.int64]) -> NDArray[np.int64]:
        reached = (front[:, None] + self._steps).ravel()
        reached = np.unique(reached[self._flat[reached]])
        self._flat[reached] = False
        return reached

    def _parts(self, front: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The front's connected parts that are wide enough to follow."""
        fewest = _NARROWEST_MM2 / self._voxel_mm2
        if front.size < fewest:
            return []
        places = np.array(np.unravel_index(front, self._shape))
        low = places.min(axis=1)
        places -= low[:, None]
        block = np.zeros(places.max(axis=1) + 1, np.bool_)
        block[tuple(places)] = True
        labels, count = ndimage.label(block, np.ones((3, 3, 3), np.bool_))
        if count == 1:
            return [front]
        label = labels[tuple(places)]
        parts = [front[label == index] for index in range(1, count + 1)]
        return [part for part in parts if part.size >= fewest]
