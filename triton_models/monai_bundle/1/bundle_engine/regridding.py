"""A volume turned and brought to the network's spacing in one go, from the voxels as they came.

Orientationd and Spacingd, with which nearly every bundle begins, make two copies of the volume in single precision and
one in double, on the way to a grid that often holds a tenth of it. Where they only resample along the axes, linearly,
the same values are computed axis by axis from the whole numbers, and of these only what the grid lies between is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, EnsureTyped, Orientationd, Spacingd
from monai.utils.enums import LazyAttr, TraceKeys

from bundle_engine.lattice import Lattice, lattice_of

__all__ = ["is_linear", "regridded"]

_PIECE_BYTES = 1 << 20  # small enough to stay in a processor's cache
_UNCHANGED = 1e-3  # MONAI's own: what it would move by less it leaves as it is


def is_linear(operation: Mapping[str, Any]) -> bool:
    """Whether an operation that MONAI noted is linear resampling that continues the borders."""
    extra = operation.get("extra_info", {})
    settings = (str(extra.get("mode")), str(extra.get("padding_mode")), extra.get("align_corners"))
    return settings[0] == "bilinear" and settings[1] == "border" and settings[2] in (False, "none", None)


def regridded(preprocessing: Compose, key: str, given: MetaTensor) -> tuple[dict[str, Any], Compose] | None:
    """The item as the two transforms leave it, and the transforms after them; None where they do not come first, or do
    more than this.

    given: what `volume.seen` makes of a volume: (X, Y, Z) or (channels, X, Y, Z) of any type.
    """
    transforms = list(preprocessing.transforms)
    place = next((n for n, each in enumerate(transforms) if isinstance(each, Orientationd)), len(transforms))
    if not all(_only_types(each) for each in transforms[:place]) or place + 1 >= len(transforms):
        return None
    turning, spacing = transforms[place : place + 2]
    if not isinstance(spacing, Spacingd) or any(tuple(each.keys) != (key,) for each in (turning, spacing)):
        return None
    if spacing.spacing_transform.recompute_affine:
        return None
    traced = spacing(turning({key: _outline(given)}, lazy=True), lazy=True)[key]
    affine, size = traced.peek_pending_affine(), traced.peek_pending_shape()
    lattice = lattice_of(given.affine, affine, given.shape[-3:], size)
    *_, resampling = traced.pending_operations
    if lattice is None or not is_linear(resampling) or not _moves(resampling):
        return None
    voxels = given.as_tensor() if given.ndim == 4 else given.as_tensor()[None]
    image: Any = MetaTensor(_resampled(voxels, lattice), affine=affine, meta=dict(given.meta))
    for operation in traced.pending_operations:
        image.push_applied_operation(_applied(operation))
    return {key: image}, Compose(transforms[place + 2 :])


def _only_types(transform: Any) -> bool:
    """Whether it only says of what type the voxels are, and that is what they become anyway."""
    if isinstance(transform, EnsureTyped):
        return transform.converter.data_type == "tensor" and all(
            each in (None, torch.float32) for each in transform.dtype
        )
    return isinstance(transform, EnsureChannelFirstd)


def _outline(given: MetaTensor) -> MetaTensor:
    """Its size and place, with voxels that nobody ever looks at: memory that is not touched takes none."""
    shape = given.shape if given.ndim == 4 else (1, *given.shape)
    return MetaTensor(
        torch.empty(tuple(shape), dtype=torch.uint8), affine=given.affine, meta=dict(given.meta)
    )


def _moves(resampling: Mapping[str, Any]) -> bool:
    same_size = tuple(resampling[LazyAttr.SHAPE]) == tuple(
        int(each) for each in resampling[TraceKeys.ORIG_SIZE]
    )
    step = resampling[LazyAttr.AFFINE]
    return not (same_size and torch.allclose(step, torch.eye(4, dtype=step.dtype), atol=_UNCHANGED))


def _applied(operation: Mapping[str, Any]) -> dict[str, Any]:
    """A pending operation as MONAI notes it once it is done."""
    done = {name: value for name, value in operation.items() if name not in (LazyAttr.SHAPE, LazyAttr.AFFINE)}
    return {**done, TraceKeys.LAZY: False}


def _resampled(voxels: torch.Tensor, lattice: Lattice) -> torch.Tensor:
    """float32 (channels, x, y, z) on the other grid. Computed in double precision, as MONAI does, piece by piece.

    voxels: (channels, X, Y, Z), which lie in memory as (channels, Z, Y, X) do.
    """
    device = voxels.device
    stored = voxels.transpose(1, 3)  # (channels, Z, Y, X)
    lower, weight = (
        [each.to(device) for each in reversed(values)] for values in (lattice.lower, lattice.weight)
    )  # of Z, Y, X
    made = torch.empty((len(stored), *map(len, lower)), dtype=torch.float32, device=device)
    plane_bytes = 8 * len(lower[1]) * stored.shape[3] * len(stored)
    for places in torch.split(
        torch.arange(len(lower[0]), device=device), max(1, _PIECE_BYTES // plane_bytes)
    ):
        below = lower[0][places]
        first, last = int(below.min()), min(int(below.max()) + 1, stored.shape[1] - 1)
        piece = stored[:, first : last + 1]
        for axis in (2, 3):
            piece = _between(piece, axis, lower[axis - 1], weight[axis - 1])
        made[:, places] = _between(piece, 1, below - first, weight[0][places]).float()
    # Its axes are those of the volume still, in the order of memory: (z, y, x) of the other grid is another order.
    order = [1 + 2 - lattice.axes.index(axis) for axis in range(3)]
    return made.permute(0, *order).contiguous()


def _between(values: torch.Tensor, axis: int, lower: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Linear interpolation along one axis, float64; of an axis of one voxel there is no other."""
    below = values.index_select(axis, lower).double()
    if values.shape[axis] == 1:
        return below
    above = values.index_select(axis, lower + 1).double()
    shape = [1] * values.ndim
    shape[axis] = -1
    return torch.lerp(below, above, weight.view(shape))
