"""From a CT volume to the labels and the density of its lungs, or to the reason why not."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .airways import Airways, follow_airways
from .body import body_of
from .density import histograms, measures
from .extent import cut_off_notes, refuse_cut_off, refuse_open_side, refuse_small
from .grid import Grid, grid_of
from .lungs import LEFT, RIGHT, aerated, check_plausible, find_lungs
from .morphology import cross_dilate, cross_erode
from .refusal import Refusal
from .trachea import LUNG_HU, find_trachea

__all__ = ["Analysis", "analyse"]


@dataclass(frozen=True)
class Analysis:
    """labels: uint8 (Z, Y, X), 0 background, 1 right lung, 2 left lung; on the volume's device.

    measurements: rows right, left, both; columns volume in mL, mean HU, % below -950 HU, 15th percentile in HU.
    reason: why not, in one sentence, where `applicable` is False; then labels are all 0 and measurements NaN.
    """

    labels: Tensor
    measurements: tuple[tuple[float, float, float, float], ...]
    applicable: bool
    reason: str
    notes: tuple[str, ...]


def analyse(volume: Tensor, affine: NDArray[np.float64]) -> Analysis:
    """Measure the lungs in int16 HU (Z, Y, X), whose affine takes (x, y, z, 1) to LPS millimetres."""
    try:
        grid = grid_of(volume.shape, affine)
        refuse_small(grid)
        return _measured(volume, grid)
    except Refusal as reason:
        nothing = torch.zeros(volume.shape, dtype=torch.uint8, device=volume.device)
        return Analysis(nothing, ((math.nan,) * 4,) * 3, False, str(reason), ())


def _measured(volume: Tensor, grid: Grid) -> Analysis:
    hu = grid.small(volume)
    body = body_of(hu, grid.small_spacing_mm)
    if body is None:
        raise Refusal("no lungs found in this series (no body in it)")
    trachea = find_trachea(hu.cpu().numpy(), body.inside.cpu().numpy(), grid.small_spacing_mm)
    airways = None if trachea is None else follow_airways(volume, grid, trachea, hu.shape)
    air = aerated(hu, body.inside, _airway_blocks(airways, grid, hu))
    lungs = find_lungs(hu, air, None if trachea is None else trachea.middle[2], grid.small_spacing_mm)
    each = (lungs == RIGHT, lungs == LEFT)
    for lung in each:
        refuse_cut_off(lung)
    spacing_mm = grid.small_spacing_mm
    refuse_open_side(lungs > 0, body.outside.cpu().numpy(), spacing_mm[1] * spacing_mm[2])
    labels = _refined(volume, grid, lungs, airways)
    right, left = histograms(_labelled(volume, labels, grid, lungs), volume.device)
    rows = tuple(measures(counts, grid.voxel_mm3) for counts in (right, left, right + left))
    check_plausible(rows[0][0], rows[1][0])
    return Analysis(labels, rows, True, "", tuple(cut_off_notes(each)))


def _airway_blocks(airways: Airways | None, grid: Grid, hu: Tensor) -> Tensor:
    """The blocks of the small grid that hold any airway: torch.bool (S, P, L)."""
    blocks = torch.zeros(hu.shape, dtype=torch.bool, device=hu.device)
    if airways is not None:
        mask = airways.mask
        for axis, count in enumerate(grid.block_shape):
            mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], count), axis=axis)
        blocks[tuple(slice(*ends) for ends in airways.box)] = torch.from_numpy(mask).to(hu.device)
    return blocks


def _refined(volume: Tensor, grid: Grid, lungs: NDArray[np.uint8], airways: Airways | None) -> Tensor:
    """The labels on the volume's own voxels: in a lung's core all of them, in its surface those with air."""
    labels = torch.zeros(volume.shape, dtype=torch.uint8, device=volume.device)
    plan = grid.from_patient(_plan(torch.from_numpy(lungs).to(volume.device), grid))
    for slices in grid.slabs(plan):
        what = grid.spread(plan, slices)
        in_surface = what > LEFT
        labels[slices] = torch.where(in_surface, (what - LEFT) * (volume[slices] < LUNG_HU), what)
    if airways is not None:
        mask = torch.from_numpy(airways.mask).to(volume.device)
        labels[grid.part_slices(airways.box)][grid.from_patient(mask)] = 0
    return labels


def _plan(lungs: Tensor, grid: Grid) -> Tensor:
    """0 nothing, 1 and 2 all of it right and left lung, 3 and 4 only what holds air: uint8 (S, P, L)."""
    s, p, l = (int(count > 1) for count in grid.block_shape)  # noqa: E741 - the standard's
    plan = torch.zeros_like(lungs)
    for side in (RIGHT, LEFT):
        lung = lungs == side
        plan[lung] = side + LEFT
        plan[cross_erode(lung)] = side
        plan[cross_dilate(lung, (s, p, l)) & (lungs == 0) & (plan == 0)] = side + LEFT
    return plan


def _labelled(
    volume: Tensor, labels: Tensor, grid: Grid, lungs: NDArray[np.uint8]
) -> Iterator[tuple[Tensor, Tensor]]:
    for slices in grid.slabs(grid.from_patient(cross_dilate(torch.from_numpy(lungs > 0)))):
        yield volume[slices], labels[slices]
