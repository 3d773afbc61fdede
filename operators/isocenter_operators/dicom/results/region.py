"""Places, outlines and volumes given by coordinates: whether they can be, and on which images they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.dicom.findings import Box, Contour, Points
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.errors import InvalidResult

__all__ = ["Planes", "closed_polygon", "corners_mm", "points_mm"]

_THIN = 1e-3  # of a voxel: a box that shows less of itself on an image shows nothing
_FLAT_MM = 0.01  # as far as the vertices of one contour may lie from their plane
# The edges of a box: between two of `corners_mm` that differ in one digit.
_EDGES = [(one, one | bit) for one in range(8) for bit in (1, 2, 4) if not one & bit]


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
            raise self._outside(what)
        return tuple(self.frames[place] for place in np.unique(places))

    def outlines(self, box: Box, what: str) -> tuple[Contour, ...]:
        """The outlines of a box on the images that it reaches; of one between two images, on the nearer one.

        They end where the images do. Raises InvalidResult where the box lies outside of them.
        """
        normal, (middle, reach) = _normal(self.frames[0]), self._extent(box)
        along = self.origins_mm @ normal
        met = np.flatnonzero(np.abs(along - middle) <= reach)
        if len(met):
            return tuple(self._outline(box, along[place], what) for place in met)
        self.nearest(np.array([box.centre_mm]), what)
        nearest = along[np.abs(along - middle).argmin()]
        flat = self._outline(box, middle, what)
        moved = np.array(flat.points_mm) + (nearest - middle) * normal
        return (Contour(tuple((float(x), float(y), float(z)) for x, y, z in moved)),)

    def surface(self, box: Box, what: str) -> tuple[Contour, ...]:
        """A box as its outlines, from its one end to the other along the images' normal, and on each image in between.

        It ends where the images do. Raises InvalidResult where the box lies outside of them.
        """
        along = self.origins_mm @ _normal(self.frames[0])
        middle, reach = self._extent(box)
        low = max(middle - reach, along.min() - self.spacing_mm / 2)
        high = min(middle + reach, along.max() + self.spacing_mm / 2)
        if high - low <= _THIN * self.spacing_mm:
            raise self._outside(what)
        between = [float(each) for each in np.sort(along) if low < each < high]
        return tuple(self._outline(box, each, what) for each in (low, *between, high))

    def _extent(self, box: Box) -> tuple[float, float]:
        """Where the middle of a box lies along the images' normal, mm, and how far it reaches from there.

        That is to the middle of its faces: where the images lie askew, a plane beyond cuts off a mere corner.
        """
        normal = _normal(self.frames[0])
        return float(normal @ box.centre_mm), float(
            (np.abs(normal) * box.size_mm)[np.abs(normal).argmax()]
        ) / 2

    def _outline(self, box: Box, height_mm: float, what: str) -> Contour:
        """Where a plane at this height along the normal cuts the box, as far as the images go."""
        first = self.frames[0]
        normal, (middle, reach) = _normal(first), self._extent(box)
        # A plane through a whole face cuts nothing that could be put in order: one just inside does.
        within = np.clip(height_mm - middle, -reach * (1 - 1e-9), reach * (1 - 1e-9))
        cut = _cut(box, normal, middle + within)
        place = int(np.abs(self.origins_mm @ normal - height_mm).argmin())
        row_mm, column_mm = first.spacing_mm
        rows, columns = first.shape
        across = (cut - self.origins_mm[place]) @ first.directions.T / (column_mm, row_mm)
        kept = np.clip(across, -0.5, (columns - 0.5, rows - 0.5))
        if (np.ptp(kept, axis=0) <= _THIN).any():
            raise self._outside(what)
        origin = self.origins_mm[place] + (height_mm - float(self.origins_mm[place] @ normal)) * normal
        points = origin + (kept * (column_mm, row_mm)) @ first.directions
        return Contour(tuple((float(x), float(y), float(z)) for x, y, z in points))

    def _outside(self, what: str) -> InvalidResult:
        uid = self.frames[0].series_uid
        return InvalidResult(
            f"{what} lies outside of the images of series {uid}; its coordinates have to be LPS millimetres in the "
            "images' frame of reference",
            series_uid=uid,
        )


def corners_mm(box: Box) -> NDArray[np.float64]:
    """The corners (8, 3) of a box, LPS mm: numbered by whether x, y and z are high, as digits of a binary number."""
    signs = np.array(np.meshgrid((-1, 1), (-1, 1), (-1, 1), indexing="ij")).reshape(3, -1).T
    corners: NDArray[np.float64] = np.array(box.centre_mm) + signs * np.array(box.size_mm) / 2
    return corners


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


def _cut(box: Box, normal: NDArray[np.float64], height_mm: float) -> NDArray[np.float64]:
    """The corners (3 to 6, 3), in order, of what a plane cuts out of a box; it has to cut it."""
    corners = corners_mm(box)
    above = corners @ normal - height_mm
    found = []
    for one, other in _EDGES:
        if (above[one] < 0) != (above[other] < 0):
            share = above[one] / (above[one] - above[other])
            found.append(corners[one] + share * (corners[other] - corners[one]))
    points = np.array(found)
    across = np.linalg.svd(normal[None])[2][1:]  # two directions in the plane
    beside = (points - points.mean(axis=0)) @ across.T
    cut: NDArray[np.float64] = points[np.argsort(np.arctan2(beside[:, 1], beside[:, 0]))]
    return cut


def _normal(frame: Frame) -> NDArray[np.float64]:
    row, column = frame.directions
    normal: NDArray[np.float64] = np.cross(row, column)
    return normal
