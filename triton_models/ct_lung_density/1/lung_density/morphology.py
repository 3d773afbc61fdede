"""Erosion, dilation and filling of masks, with structuring elements in millimetres.

Masks are torch.bool (S, P, L) or numpy bool of the same order. What is outside the array is background.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

__all__ = [
    "ball_close",
    "ball_dilate",
    "components",
    "cross_dilate",
    "cross_erode",
    "fill_holes",
    "line_open",
]

_Mask = NDArray[np.bool_]
_AXIS_PLANES = tuple(
    np.array([plane if axis == 1 else np.zeros((3, 3), bool) for axis in range(3)])
    for plane in (ndimage.generate_binary_structure(2, 1),)
)


def _shifted_or(into: Tensor, mask: Tensor, offset: Sequence[int]) -> None:
    """into |= mask moved by `offset` voxels along each axis."""
    to, source = [], []
    for step, length in zip(offset, mask.shape, strict=True):
        if abs(step) >= length:
            return
        to.append(slice(max(step, 0), length + min(step, 0)))
        source.append(slice(max(-step, 0), length + min(-step, 0)))
    into[tuple(to)] |= mask[tuple(source)]


def cross_dilate(mask: Tensor, reach: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
    """By the face neighbours, as many voxels along each axis as `reach` says."""
    grown = mask.clone()
    for axis, count in enumerate(reach):
        for step in range(1, count + 1):
            offset = [0, 0, 0]
            offset[axis] = step
            _shifted_or(grown, mask, offset)
            offset[axis] = -step
            _shifted_or(grown, mask, offset)
    return grown


def cross_erode(mask: Tensor, reach: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
    """The reverse of `cross_dilate`; here what is outside the array does not erode."""
    return ~cross_dilate(~mask, reach)


def line_open(mask: Tensor, axis: int, half: int) -> Tensor:
    """Keeps what is at least 2 * half + 1 voxels long along an axis."""
    reach = (half if axis == 0 else 0, half if axis == 1 else 0, half if axis == 2 else 0)
    return cross_dilate(cross_erode(mask, reach), reach)


def ball_dilate(mask: Tensor, radius_mm: float, spacing_mm: Sequence[float]) -> Tensor:
    """By a ball: the union of the mask's shifts, row by row of the ball."""
    s_mm, p_mm, l_mm = spacing_mm
    runs: dict[int, list[tuple[int, int]]] = {}  # half length along L -> offsets (S, P) of that length
    for s in range(-int(radius_mm / s_mm), int(radius_mm / s_mm) + 1):
        for p in range(-int(radius_mm / p_mm), int(radius_mm / p_mm) + 1):
            rest = radius_mm**2 - (s * s_mm) ** 2 - (p * p_mm) ** 2
            if rest >= 0:
                runs.setdefault(int(rest**0.5 / l_mm), []).append((s, p))
    grown = torch.zeros_like(mask)
    row = mask.clone()
    for half in range(max(runs) + 1):
        if half:
            _shifted_or(row, mask, (0, 0, half))
            _shifted_or(row, mask, (0, 0, -half))
        for s, p in runs.get(half, ()):
            _shifted_or(grown, row, (s, p, 0))
    return grown


def ball_close(mask: Tensor, radius_mm: float, spacing_mm: Sequence[float]) -> Tensor:
    """Fills what a ball outside the mask can not reach. The mask needs `radius_mm` of free margin."""
    return ~ball_dilate(~ball_dilate(mask, radius_mm, spacing_mm), radius_mm, spacing_mm) | mask


def components(mask: _Mask, *, planes_of: int | None = None) -> tuple[NDArray[np.int32], int]:
    """Labels from 1 of the face-connected components; with `planes_of`, of each plane across that axis alone."""
    structure = ndimage.generate_binary_structure(3, 1)
    if planes_of is not None:
        structure = np.moveaxis(_AXIS_PLANES[0], 0, planes_of)
    labels = np.empty(mask.shape, np.int32)
    count = int(ndimage.label(mask, structure, output=labels))
    return labels, count


def _border_labels(labels: NDArray[np.int32], axes: Sequence[int]) -> NDArray[np.int32]:
    """The labels that touch the array's ends along these axes."""
    ends = [labels.take(end, axis).ravel() for axis in axes for end in (0, -1)]
    return np.unique(np.concatenate(ends))


def fill_holes(mask: _Mask, *, planes_of: int | None = None, largest_voxels: int | None = None) -> _Mask:
    """With what the mask encloses, in space or in each plane across an axis, up to a size in voxels."""
    labels, count = components(~mask, planes_of=planes_of)
    axes = [axis for axis in range(3) if axis != planes_of]
    hole = np.ones(count + 1, np.bool_)
    hole[0] = False
    hole[_border_labels(labels, axes)] = False
    if largest_voxels is not None:
        hole &= np.bincount(labels.ravel(), minlength=count + 1) <= largest_voxels
    return mask | hole[labels]
