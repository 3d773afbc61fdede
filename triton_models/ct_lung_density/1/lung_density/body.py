"""Where the patient's body is, without the table and what lies on it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .morphology import components, cross_dilate, cross_erode, line_open

__all__ = ["Body", "body_of"]

_TISSUE_HU = -400
_TABLE_SHELL_MM = 8.0  # thicker than any table's shell, thinner than the wall of a chest
_COARSE_MM = 2.6  # a finer grid than this is halved


class Body:
    """inside: torch.bool (S, P, L), the body filled in each axial plane, a skin's thickness taken off.
    outside: torch.bool (S, P, L), what is connected to the sides of the image in its axial plane.
    """

    def __init__(self, inside: Tensor, outside: Tensor) -> None:
        self.inside = inside
        self.outside = outside


def body_of(hu: Tensor, spacing_mm: tuple[float, float, float]) -> Body | None:
    """The body in int16 (S, P, L); None where there is no tissue."""
    tissue = hu > _TISSUE_HU
    half = max(1, round(_TABLE_SHELL_MM / 2 / spacing_mm[1]))
    solid = cross_dilate(cross_erode(tissue)) & line_open(tissue, 1, half)
    steps = tuple(
        2 if spacing < _COARSE_MM and length > 8 else 1
        for spacing, length in zip(spacing_mm, hu.shape, strict=True)
    )
    coarse = solid[:: steps[0], :: steps[1], :: steps[2]].cpu().numpy()
    body = _largest(coarse)
    if body is None:
        return None
    outside = _open_to_the_sides(~body)
    skinned = cross_dilate(torch.from_numpy(outside), (0, 1, 1))
    return Body(*(_spread(mask, steps, hu) for mask in (~skinned, torch.from_numpy(outside))))


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    labels, count = components(mask)
    if not count:
        return None
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest: NDArray[np.bool_] = labels == int(sizes.argmax())
    return largest


def _open_to_the_sides(air: NDArray[np.bool_]) -> NDArray[np.bool_]:
    labels, count = components(air, planes_of=0)
    open_ = np.zeros(count + 1, np.bool_)
    for axis in (1, 2):
        for end in (0, -1):
            open_[labels.take(end, axis)] = True
    open_[0] = False
    return open_[labels]


def _spread(mask: Tensor, steps: tuple[int, ...], like: Tensor) -> Tensor:
    for axis, step in enumerate(steps):
        index = (torch.arange(like.shape[axis]) // step).clamp(max=mask.shape[axis] - 1)
        mask = mask.index_select(axis, index)
    return mask.to(like.device)
