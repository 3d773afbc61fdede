"""Where the voxels of one grid lie between those of another whose axes are parallel: axis by axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

__all__ = ["Lattice", "lattice_of"]

_ALIGNED = 1e-6  # of a voxel


@dataclass(frozen=True)
class Lattice:
    """For each axis of the grid that is read.

    `axes`: which axis of the other one goes along it. `lower`: of each place on that axis the voxel below, int64.
    `weight`: how far it lies from there towards the voxel above, 0..1, float64. Beyond the ends it is the end.
    """

    axes: tuple[int, ...]
    lower: tuple[torch.Tensor, ...]
    weight: tuple[torch.Tensor, ...]


def lattice_of(
    read_affine: torch.Tensor, affine: torch.Tensor, read_size: Sequence[int], size: Sequence[int]
) -> Lattice | None:
    """Where each voxel of a grid lies in the one that is read; None where their axes are not parallel.

    Affines: (4, 4), index to millimetres. Sizes: three numbers each.
    """
    read_affine, affine = (each.to("cpu", torch.float64) for each in (read_affine, affine))
    to_read = torch.linalg.inv(read_affine) @ affine
    along = to_read[:3, :3].abs()
    strongest = along.amax(dim=1)
    axes = [int(axis) for axis in along.argmax(dim=1)]
    if len(set(axes)) != 3 or bool(((along.sum(dim=1) - strongest) * max(size) > _ALIGNED).any()):
        return None
    lower, weight = [], []
    for axis, length in enumerate(read_size):
        other = axes[axis]
        places = torch.arange(size[other], dtype=torch.float64) * to_read[axis, other] + to_read[axis, 3]
        places = places.clamp(0, length - 1)
        below = places.floor().clamp(max=max(0, length - 2))
        lower.append(below.long())
        weight.append(places - below)
    return Lattice(tuple(axes), tuple(lower), tuple(weight))
