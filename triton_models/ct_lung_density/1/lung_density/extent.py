"""Does the scan hold the lungs whole? A measure of half a lung looks like one of a small lung."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .grid import Grid
from .refusal import Refusal

__all__ = ["cut_off_notes", "refuse_cut_off", "refuse_open_side", "refuse_small"]

_CUT_OFF_SHARE = 0.25  # of the largest cross-section, at an end of the scan: too much is missing
_TOUCHING_SHARE = 0.005  # less than this may be noise
_SHORTEST_MM = 80.0  # of the scan, along each axis of the patient
_FEWEST_PLANES = 12
_OPEN_SIDE_MM2 = 200.0

_Mask = NDArray[np.bool_]
_ENDS = (("top", "upper", -1), ("bottom", "lower", 0))


def refuse_small(grid: Grid) -> None:
    """Raises Refusal for too few slices or too small a field of view."""
    extent_mm = [grid.shape[axis] * grid.spacing_mm[axis] for axis in grid.axes]
    if min(extent_mm) < _SHORTEST_MM or min(grid.shape) < _FEWEST_PLANES:
        shown = " x ".join(f"{value:.0f}" for value in reversed(extent_mm))
        raise Refusal(
            f"no lungs fit into this series ({shown} mm from side to side, front to back and head to foot; "
            f"{min(grid.shape)} voxels along the shortest direction)"
        )


def refuse_cut_off(lung: _Mask) -> None:
    """Raises Refusal where too much of a lung, or of both in one mask (S, P, L), lies beyond an end of the scan."""
    for place, _, end in _ENDS:
        share = _share_at(lung, end)
        if share > _CUT_OFF_SHARE:
            raise Refusal(
                f"the lungs are cut off at the {place} of the scan: its end cuts them at {100 * share:.0f} % of their "
                "largest cross-section, so too much of them is missing"
            )


def cut_off_notes(lungs: tuple[_Mask, _Mask]) -> list[str]:
    """What to tell of lungs (S, P, L) that reach an end of the scan."""
    return [
        f"cut off at the {name} end of the scan"
        for _, name, end in _ENDS
        if max(_share_at(lung, end) for lung in lungs) > _TOUCHING_SHARE
    ]


def _share_at(lung: _Mask, end: int) -> float:
    areas = np.count_nonzero(lung, axis=(1, 2))
    return float(areas[end] / areas.max())


def refuse_open_side(lungs: _Mask, outside: _Mask, plane_voxel_mm2: float) -> None:
    """Raises Refusal where a lung goes on, in the next plane, in what is open to the side of the image.

    There a plane has cut the wall of the chest away, and lung with it.
    """
    beside = np.count_nonzero(lungs[1:] & outside[:-1]) + np.count_nonzero(lungs[:-1] & outside[1:])
    if beside * plane_voxel_mm2 > _OPEN_SIDE_MM2:
        raise Refusal("the lungs reach out of the image at its side: the field of view is too small")
