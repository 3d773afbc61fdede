"""The grid on which the frames of a stored result lie, of which some, the empty ones, may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.series.placement import PLANE_TOLERANCE, SAME_PLACE_MM, require_plane
from isocenter_operators.errors import GeometryError

__all__ = ["FrameGrid", "grid_of"]

_OFF_GRID = 0.05  # of a step: how far a frame may lie from its place


@dataclass(frozen=True)
class FrameGrid:
    """`shape`: (Z, Y, X). `affine`: float64 (4, 4), index (x, y, z, 1) to LPS mm. `places`: the slice of each frame."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    places: tuple[int, ...]


def grid_of(frames: Sequence[Frame]) -> FrameGrid:
    """The regular grid of these frames of one instance, from the first position along their normal to the last.

    Its step is the smallest distance between two of them, or Spacing Between Slices where that is said and fits.
    Raises GeometryError where they lie on no regular grid.
    """
    for frame in frames:
        require_plane(frame)
    first = frames[0]
    directions = np.array([frame.directions for frame in frames])
    spacing = np.array([frame.spacing_mm for frame in frames])
    if max(np.ptp(directions, axis=0).max(), np.ptp(spacing, axis=0).max()) > PLANE_TOLERANCE:
        raise GeometryError(
            f"{first.name}: its frames differ in orientation or spacing", series_uid=first.series_uid
        )
    normal = np.cross(*first.directions)
    positions = np.array([frame.position_mm for frame in frames])
    along = positions @ (normal / np.linalg.norm(normal))
    start, end = int(np.argmin(along)), int(np.argmax(along))
    step_mm = _step_mm(first, np.unique(np.round((along - along[start]) / SAME_PLACE_MM)) * SAME_PLACE_MM)
    places = (along - along[start]) / step_mm
    whole = np.rint(places)
    if np.abs(places - whole).max() > _OFF_GRID:
        raise GeometryError(
            f"{first.name}: its frames do not lie on a regular grid", series_uid=first.series_uid
        )
    depth = int(whole[end]) + 1
    affine = np.eye(4)
    row_mm, column_mm = first.spacing_mm
    affine[:3, 0] = first.directions[0] * column_mm
    affine[:3, 1] = first.directions[1] * row_mm
    if depth > 1:  # with a tilted gantry the slices are shifted sideways
        affine[:3, 2] = (positions[end] - positions[start]) / (depth - 1)
    else:
        affine[:3, 2] = normal / np.linalg.norm(normal) * step_mm
    affine[:3, 3] = positions[start]
    return FrameGrid((depth, *first.shape), affine, tuple(int(place) for place in whole))


def _step_mm(frame: Frame, distances_mm: NDArray[np.float64]) -> float:
    """`distances_mm`: of every position from the first, each once."""
    said = float(frame.get("SpacingBetweenSlices") or 0)
    steps = np.diff(distances_mm)
    if not steps.size:
        return said or float(frame.get("SliceThickness") or 1)
    smallest = float(steps.min())
    if said and abs(smallest / said - round(smallest / said)) < _OFF_GRID and smallest > said / 2:
        return said
    # Differences between neighbours carry the rounding of one position each; the whole length hardly any.
    return float(distances_mm[-1]) / round(float(distances_mm[-1]) / smallest)
