"""Places, outlines and volumes given by coordinates: whether they can be, and on which images they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.dicom.findings import Contour, Points
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.errors import InvalidResult

__all__ = ["Planes", "closed_polygon", "points_mm"]

_FLAT_MM = 0.01  # as far as the vertices of one contour may lie from their plane


@dataclass(frozen=True)
class Planes:
    """The planes of the images that a result is about, of one orientation and size, to find coordinates on them.

    frames: in the order of Z. origins_mm: (Z, 3), where each one's first voxel lies; spacing_mm: the largest distance
    of two neighbours, of a single image its thickness.
    """

    frames: tuple[Frame, ...]
    origins_mm: NDArray[np.float64]
    spacing_mm: float

    @classmethod
    def of(cls, frames: Sequence[Frame]) -> Planes:
        origins = np.array([frame.position_mm for frame in frames])
        along = origins @ _normal(frames[0])
        steps = np.abs(np.diff(along))
        spacing_mm = float(steps.max()) if steps.size else float(frames[0].get("SliceThickness") or 1.0)
        return cls(tuple(frames), origins, spacing_mm)

    def nearest(self, points_mm: NDArray[np.float64], what: str) -> tuple[Frame, ...]:
        """The frames nearest to these points (N, 3), each once, in the order of Z.

        Raises InvalidResult where a point lies more than one voxel outside of the images: then it is in other
        coordinates than LPS mm, or of another series.
        """
        first = self.frames[0]
        normal = _normal(first)
        distances = np.abs((points_mm @ normal)[:, None] - (self.origins_mm @ normal)[None, :])  # (N, Z)
        places = distances.argmin(axis=1)
        row_mm, column_mm = first.spacing_mm
        rows, columns = first.shape
        across = (points_mm - self.origins_mm[places]) @ first.directions.T  # along a row, along a column
        index = across / (column_mm, row_mm)
        outside = (index < -1.5) | (index > (columns + 0.5, rows + 0.5))
        if outside.any() or (distances.min(axis=1) > 1.5 * self.spacing_mm).any():
            raise InvalidResult(
                f"{what} lies outside of the images of series {first.series_uid}; its coordinates have to be LPS "
                "millimetres in the images' frame of reference",
                series_uid=first.series_uid,
            )
        return tuple(self.frames[place] for place in np.unique(places))


def points_mm(shape: Points | Contour, what: str) -> NDArray[np.float64]:
    """The points as (N, 3) LPS mm. Raises InvalidResult where there is none, or one that is no three numbers."""
    try:
        points = np.array(shape.points_mm, np.float64)
    except (TypeError, ValueError):
        points = np.empty(0)
    if points.ndim != 2 or points.shape[1] != 3 or not len(points) or not np.isfinite(points).all():
        raise InvalidResult(f"{what} is not made of points of three coordinates each")
    return points


def closed_polygon(contour: Contour, what: str) -> NDArray[np.float64]:
    """The vertices (N + 1, 3) in one plane, the last the same as the first (PS3.3, C.18.9.1.2, POLYGON).

    Raises InvalidResult where they are fewer than three, or do not lie in one plane.
    """
    points = points_mm(contour, what)
    if len(points) < 3:
        raise InvalidResult(f"{what} has {len(points)} points; an outline has at least three")
    middle = points.mean(axis=0)
    normal = np.linalg.svd(points - middle, full_matrices=False)[2][2]
    above = (points - middle) @ normal
    if np.abs(above).max() > _FLAT_MM:
        raise InvalidResult(
            f"{what} is not flat: its points lie up to {np.abs(above).max():.2g} mm beside its plane"
        )
    flat = points - np.outer(above, normal)
    return np.concatenate([flat, flat[:1]])


def _normal(frame: Frame) -> NDArray[np.float64]:
    row, column = frame.directions
    normal: NDArray[np.float64] = np.cross(row, column)
    return normal
