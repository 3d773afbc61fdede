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
from .body import Body, body_of
from .density import histograms, measures
from .grid import Grid, UnusableGeometry, grid_of
from .lungs import LEFT, LUNG_HU, RIGHT, NoLungs, aerated, check_plausible, find_lungs
from .morphology import cross_dilate, cross_erode
from .trachea import find_trachea

__all__ = ["Analysis", "analyse"]

_CUT_OFF_SHARE = 0.25  # of a lung's largest cross-section, at an end of the scan: too much is missing
_TOUCHING_SHARE = 0.01  # less than this may be noise
_SHORTEST_MM = 80.0  # of the scan, along each axis of the patient
_FEWEST_PLANES = 12
_OPEN_SIDE_MM2 = 200.0


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
        _refuse_small(grid)
        return _measured(volume, grid)
    except (NoLungs, UnusableGeometry) as reason:
        nothing = torch.zeros(volume.shape, dtype=torch.uint8, device=volume.device)
        return Analysis(nothing, ((math.nan,) * 4,) * 3, False, str(reason), ())


def _refuse_small(grid: Grid) -> None:
    extent_mm = [grid.shape[axis] * grid.spacing_mm[axis] for axis in grid.axes]
    if min(extent_mm) < _SHORTEST_MM or min(grid.shape) < _FEWEST_PLANES:
        shown = " x ".join(f"{value:.0f}" for value in reversed(extent_mm))
        raise NoLungs(
            f"this series is too small to hold lungs ({shown} mm from side to side, front to back and head to foot, "
            f"{min(grid.shape)} planes in the shortest direction)"
        )


def _measured(volume: Tensor, grid: Grid) -> Analysis:
    hu = grid.small(volume)
    body = body_of(hu, grid.small_spacing_mm)
    if body is None:
        raise NoLungs("no lungs found in this series (no body in it)")
    trachea = find_trachea(hu.cpu().numpy(), body.inside.cpu().numpy(), grid.small_spacing_mm)
    airways = None if trachea is None else follow_airways(volume, grid, trachea, hu.shape)
    air = aerated(hu, body.inside, _airway_blocks(airways, grid, hu))
    lungs = find_lungs(hu, air, None if trachea is None else trachea.bottom[2], grid.small_spacing_mm)
    notes = _cut_off(lungs, body, grid)
    if airways is None:
        raise NoLungs("no trachea was found above the lungs, so airways could not be told from lung")
    labels = _refined(volume, grid, lungs, air, airways)
    right, left = histograms(_labelled(volume, labels, grid, lungs), volume.device)
    rows = tuple(measures(counts, grid.voxel_mm3) for counts in (right, left, right + left))
    check_plausible(rows[0][0], rows[1][0])
    return Analysis(labels, rows, True, "", tuple(notes))


def _airway_blocks(airways: Airways | None, grid: Grid, hu: Tensor) -> Tensor:
    """The blocks of the small grid that hold any airway: torch.bool (S, P, L)."""
    blocks = torch.zeros(hu.shape, dtype=torch.bool, device=hu.device)
    if airways is not None:
        mask = airways.mask
        for axis, count in enumerate(grid.block_shape):
            mask = np.logical_or.reduceat(mask, np.arange(0, mask.shape[axis], count), axis=axis)
        blocks[tuple(slice(*ends) for ends in airways.box)] = torch.from_numpy(mask).to(hu.device)
    return blocks


def _cut_off(lungs: NDArray[np.uint8], body: Body, grid: Grid) -> list[str]:
    """Notes on what of the lungs is missing; raises NoLungs where it is too much."""
    notes = []
    for end, place, rest in ((-1, "top", "the bases are"), (0, "bottom", "the apices are")):
        share = max(_share_at(lungs == side, end) for side in (RIGHT, LEFT))
        if share > _CUT_OFF_SHARE:
            raise NoLungs(f"the lungs are cut off at the {place} of the scan: only {rest} in it")
        if share > _TOUCHING_SHARE:
            notes.append(f"cut off at the {'upper' if end else 'lower'} end of the scan")
    open_side = body.outside.cpu().numpy()
    beside = np.count_nonzero((lungs[1:] > 0) & open_side[:-1]) + np.count_nonzero(
        (lungs[:-1] > 0) & open_side[1:]
    )
    if beside * grid.small_spacing_mm[1] * grid.small_spacing_mm[2] > _OPEN_SIDE_MM2:
        raise NoLungs("the lungs reach out of the image at its side: the field of view is too small")
    return notes


def _share_at(lung: NDArray[np.bool_], end: int) -> float:
    areas = np.count_nonzero(lung, axis=(1, 2))
    return float(areas[end] / areas.max())


def _refined(volume: Tensor, grid: Grid, lungs: NDArray[np.uint8], air: Tensor, airways: Airways) -> Tensor:
    """The labels on the volume's own voxels: in a lung's core all of them, in its surface those with air."""
    labels = torch.zeros(volume.shape, dtype=torch.uint8, device=volume.device)
    plan = grid.from_patient(_plan(torch.from_numpy(lungs).to(volume.device), grid))
    for slices in grid.slabs(plan):
        what = grid.spread(plan, slices)
        in_surface = what > LEFT
        labels[slices] = torch.where(in_surface, (what - LEFT) * (volume[slices] < LUNG_HU), what)
    where = grid.part_slices(airways.box)
    labels[where][grid.from_patient(torch.from_numpy(airways.mask).to(volume.device))] = 0
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
