"""The grids a volume is seen on: its own, and a smaller one in the patient's axes.

The small grid's array axes are (S, P, L): index 0 runs from inferior to superior, index 1 from anterior to posterior,
index 2 from the patient's right to the left, whichever way the volume was stored. One of its voxels is the mean of
a block of 1, 2 or 4 of the volume's voxels along each axis. All arithmetic is in integers, so that every device
gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .refusal import Refusal

__all__ = ["Grid", "InvalidAffine", "grid_of"]

_LOWEST_HU, _HIGHEST_HU = (
    -1024,
    3071,
)  # 12 bits: padding outside the scan circle and metal must not rule a mean
_SLAB_VOXELS = 2_000_000  # of the volume at a time: what is made of them stays small
_LARGEST_COSINE_PRODUCT = 0.8  # axes nearer to each other than 37 degrees make no volume


class InvalidAffine(ValueError):
    """No volume has this affine: whoever sent it made a mistake."""


@dataclass(frozen=True)
class Grid:
    """How the array (Z, Y, X) of a volume lies in the patient.

    shape, spacing_mm: along the array's axes (Z, Y, X).
    axes: the array's axis that runs along S, P and L.
    flipped: whether the array's axis of the same place in (Z, Y, X) runs against S, P or L.
    blocks: voxels along (Z, Y, X) that make one voxel of the small grid.
    voxel_mm3: of the volume; with a tilted gantry smaller than the product of the spacings.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    axes: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]
    blocks: tuple[int, int, int]
    voxel_mm3: float

    @property
    def small_spacing_mm(self) -> tuple[float, float, float]:
        """Of the small grid, along (S, P, L)."""
        s, p, l = (self.spacing_mm[axis] * self.blocks[axis] for axis in self.axes)  # noqa: E741 - the standard's
        return s, p, l

    @property
    def block_shape(self) -> tuple[int, int, int]:
        """Voxels of the volume in one of the small grid, along (S, P, L)."""
        s, p, l = (self.blocks[axis] for axis in self.axes)  # noqa: E741
        return s, p, l

    def small(self, volume: Tensor) -> Tensor:
        """Mean HU of the blocks, rounded down: int16 (S, P, L), on the volume's device."""
        first, rest = self.blocks[0], volume.shape[1] * volume.shape[2]
        step = max(1, _SLAB_VOXELS // (rest * first)) * first
        start, stop = self._whole(0)
        slabs = [
            self._means(volume[at : min(at + step, stop), slice(*self._whole(1)), slice(*self._whole(2))])
            for at in range(start, stop, step)
        ]
        return self._to_patient(torch.cat(slabs))

    def _whole(self, axis: int) -> tuple[int, int]:
        """The part of an axis that whole blocks cover, counted from its inferior, anterior or right end."""
        covered = self.shape[axis] // self.blocks[axis] * self.blocks[axis]
        start = self.shape[axis] - covered if self.flipped[axis] else 0
        return start, start + covered

    def _means(self, slab: Tensor) -> Tensor:
        sums = slab.clamp(_LOWEST_HU, _HIGHEST_HU)
        summed = 1
        for axis, count in enumerate(self.blocks):
            summed *= count
            if summed > 8 and sums.dtype == torch.int16:  # the sum of 8 still fits 16 bits
                sums = sums.int()
            if count > 1:
                parts = [
                    sums[(slice(None),) * axis + (slice(offset, None, count),)] for offset in range(count)
                ]
                sums = sum(parts[2:], parts[0] + parts[1])
        return (sums >> (summed.bit_length() - 1)).short()  # blocks are powers of 2

    def _to_patient(self, array: Tensor) -> Tensor:
        """(Z, Y, X) -> (S, P, L)."""
        turned = [axis for axis in range(3) if self.flipped[axis]]
        return array.flip(turned).permute(self.axes).contiguous()

    def from_patient(self, array: Tensor) -> Tensor:
        """(S, P, L) -> (Z, Y, X), still in blocks."""
        back = [self.axes.index(axis) for axis in range(3)]
        turned = [axis for axis in range(3) if self.flipped[axis]]
        return array.permute(back).flip(turned).contiguous()

    def part(self, volume: Tensor, box: Sequence[tuple[int, int]]) -> NDArray[np.int16]:
        """The volume's own voxels in a box of blocks (start, stop) along (S, P, L): int16 (S, P, L)."""
        return self._to_patient(volume[self.part_slices(box)]).cpu().numpy()

    def part_slices(self, box: Sequence[tuple[int, int]]) -> tuple[slice, slice, slice]:
        """Where a box of blocks (start, stop) along (S, P, L) lies in the volume (Z, Y, X)."""
        slices = []
        for axis in range(3):
            start, stop = (end * self.blocks[axis] for end in box[self.axes.index(axis)])
            length = self.shape[axis]
            slices.append(slice(length - stop, length - start) if self.flipped[axis] else slice(start, stop))
        return slices[0], slices[1], slices[2]

    def spread(self, array: Tensor, slices: tuple[slice, slice, slice]) -> Tensor:
        """A small (Z, Y, X) array (see `from_patient`) repeated over a part of the volume's voxels.

        Voxels past the last whole block belong to it.
        """
        for axis, (part, count) in enumerate(zip(slices, self.blocks, strict=True)):
            index = torch.arange(part.start, part.stop, device=array.device) - self._whole(axis)[0]
            index = index.div(count, rounding_mode="floor").clamp(0, array.shape[axis] - 1)
            array = array.index_select(axis, index)
        return array

    def slabs(self, small: Tensor) -> Iterator[tuple[slice, slice, slice]]:
        """The volume's box around what is not 0 in a small (Z, Y, X) array, in slabs along Z."""
        box = []
        for axis in range(3):
            used = small.amax(dim=[other for other in range(3) if other != axis]).nonzero().flatten()
            if not len(used):
                return
            first, last = int(used[0]), int(used[-1])
            start, stop = (self._whole(axis)[0] + index * self.blocks[axis] for index in (first, last + 1))
            # The voxels past the last whole block follow that block.
            start = 0 if first == 0 else start
            stop = self.shape[axis] if last == small.shape[axis] - 1 else stop
            box.append(slice(start, stop))
        step = max(1, _SLAB_VOXELS // ((box[1].stop - box[1].start) * (box[2].stop - box[2].start)))
        for at in range(box[0].start, box[0].stop, step):
            yield slice(at, min(at + step, box[0].stop)), box[1], box[2]


def grid_of(shape: Sequence[int], affine: NDArray[np.float64]) -> Grid:
    """The grid of a volume (Z, Y, X) whose affine takes the index (x, y, z, 1) to LPS millimetres.

    Raises InvalidAffine, or Refusal for voxels too large, or too small, to measure lungs in.
    """
    if not np.isfinite(affine).all():
        raise InvalidAffine("the affine holds a value that is no number")
    columns = affine[:3, 2::-1]  # (LPS, array axis): index order (x, y, z) -> (Z, Y, X)
    spacing_mm = np.linalg.norm(columns, axis=0)
    if not spacing_mm.all():
        raise InvalidAffine("an axis of the affine has no length")
    _refuse_spacing(spacing_mm)
    cosines = columns / spacing_mm
    across = np.abs(cosines.T @ cosines - np.eye(3)).max()
    if across > _LARGEST_COSINE_PRODUCT:
        raise InvalidAffine("two axes of the affine are nearly parallel")
    # LPS rows 2, 1, 0: S, P, L.
    axes = max(
        permutations(range(3)), key=lambda order: sum(abs(cosines[2 - i, a]) for i, a in enumerate(order))
    )
    flipped = [bool(cosines[2 - axes.index(axis), axis] < 0) for axis in range(3)]
    blocks = [
        min(4 if spacing < 0.55 else 2 if spacing <= 1.1 else 1, 1 << int(length).bit_length() - 1)
        for spacing, length in zip(spacing_mm, shape, strict=True)
    ]
    return Grid(
        shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        spacing_mm=(float(spacing_mm[0]), float(spacing_mm[1]), float(spacing_mm[2])),
        axes=(axes[0], axes[1], axes[2]),
        flipped=(flipped[0], flipped[1], flipped[2]),
        blocks=(blocks[0], blocks[1], blocks[2]),
        voxel_mm3=float(abs(np.linalg.det(affine[:3, :3]))),
    )


def _refuse_spacing(spacing_mm: NDArray[np.float64]) -> None:
    shown = " x ".join(f"{value:.2f}" for value in spacing_mm[::-1])
    if (spacing_mm < 0.1).any() or (spacing_mm > 8.0).any() or sorted(spacing_mm)[1] > 4.0:
        raise Refusal(
            f"voxels of {shown} mm (x, y, z); needed are 0.1 to 4 mm in the slices and slices at most 8 mm apart"
        )
