"""What is seen of a region on each image: places and outlines in the patient as points and lines on frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.dicom.findings import Box, Contour, Points, Region
from isocenter_operators.dicom.results.region import Planes, closed_polygon, points_mm
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.errors import InvalidResult

__all__ = ["FrameStack", "Trace"]

_ROUNDING = 1.001  # of half the distance between slices: a point halfway belongs to one of them
_BESIDE = 1.0  # pixels that a detection may reach over the edge of the image; it is drawn at the edge


@dataclass(frozen=True, eq=False)
class Trace:
    """One graphic on one frame.

    `points`: (N, 2) as (column, row), where 0, 0 is the upper left corner of the first pixel and 1, 1 its lower right
    one (PS3.3, C.10.5, units PIXEL), so that its centre is 0.5, 0.5. A closed outline repeats its first point.
    """

    frame: Frame
    kind: Literal["POINT", "POLYLINE"]
    points: NDArray[np.float64]


class FrameStack:
    """The frames of one volume, in the order of Z, to find what of a region lies on each."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = tuple(frames)
        self._row, self._column = frames[0].directions
        self._normal = np.cross(self._row, self._column)
        self._origins_mm = np.array([frame.position_mm for frame in frames])
        self._along_mm = self._origins_mm @ self._normal
        steps = np.abs(np.diff(self._along_mm))
        # The usual distance: where a slice is missing, what lies in the gap lies on no image.
        distance_mm = float(np.median(steps)) if len(steps) else float(frames[0].get("SliceThickness") or 1.0)
        self._reach_mm = distance_mm / 2 * _ROUNDING

    def traces(self, region: Region, what: str) -> list[Trace]:
        """What is seen of the region: a place as a point on the frame nearest to it; an outline on the frame that it
        lies on, or beside within half the distance between slices, as it projects along the slices' normal; one that
        crosses the slices as the lines in which it cuts each of them; and a box as its outline on each that it reaches.

        what: the region as messages name it. Raises InvalidResult where a part of it is farther from every image, or
        beside all of them, or the region is none.
        """
        match region:
            case Points():
                points = points_mm(region, what)
                return [
                    self._trace(place, "POINT", point[None], what)
                    for place, point in zip(self._places(points, what), points, strict=True)
                ]
            case Contour():
                return list(self._outline(region, what))
            case Box() as box:
                outlines = Planes.of(self._frames).outlines(box, what)
                return [trace for outline in outlines for trace in self._outline(outline, what)]
            case contours:
                return [trace for contour in contours for trace in self._outline(contour, what)]

    def _places(self, points: NDArray[np.float64], what: str) -> list[int]:
        distances = np.abs((points @ self._normal)[:, None] - self._along_mm[None, :])
        farthest_mm = float(distances.min(axis=1).max())
        if farthest_mm > self._reach_mm:
            raise self._refusal(
                what,
                f"{farthest_mm:.1f} mm from the nearest image, more than half the distance between slices",
            )
        return [int(place) for place in distances.argmin(axis=1)]

    def _outline(self, contour: Contour, what: str) -> Iterator[Trace]:
        polygon = closed_polygon(contour, what)
        heights = polygon @ self._normal
        place = int(np.abs(self._along_mm - (heights.min() + heights.max()) / 2).argmin())
        if np.abs(heights - self._along_mm[place]).max() <= self._reach_mm:
            yield self._trace(place, "POLYLINE", polygon, what)
            return
        self._places(polygon, what)
        cuts = [
            (place, line)
            for place, along in enumerate(self._along_mm)
            for line in _cut(polygon, heights - along, self._normal)
        ]
        if not cuts:
            yield self._trace(place, "POLYLINE", polygon, what)
        for place, line in cuts:
            yield self._trace(place, "POLYLINE", line, what)

    def _trace(
        self, place: int, kind: Literal["POINT", "POLYLINE"], points: NDArray[np.float64], what: str
    ) -> Trace:
        frame = self._frames[place]
        row_mm, column_mm = frame.spacing_mm
        beside = points - self._origins_mm[place]
        drawn = np.column_stack([beside @ self._row / column_mm, beside @ self._column / row_mm]) + 0.5
        rows, columns = frame.shape
        inside = np.clip(drawn, 0, (columns, rows))
        if np.abs(inside - drawn).max() > _BESIDE:
            raise self._refusal(what, "beside the images")
        return Trace(frame, kind, inside)

    def _refusal(self, what: str, where: str) -> InvalidResult:
        uid = self._frames[0].series_uid
        return InvalidResult(
            f"{what} lies {where} of series {uid}, so it can not be shown on one; its coordinates have to be LPS "
            "millimetres in the images' frame of reference",
            series_uid=uid,
        )


def _cut(
    polygon: NDArray[np.float64], heights: NDArray[np.float64], normal: NDArray[np.float64]
) -> Iterator[NDArray[np.float64]]:
    """The lines (2, 3) in which a plane cuts a closed flat polygon (N + 1, 3); `heights` of its points above the plane.

    A point in the plane counts as above it, so that a polygon crosses an even number of times.
    """
    above = heights >= 0
    edges = np.flatnonzero(above[:-1] != above[1:])
    share = heights[edges] / (heights[edges] - heights[edges + 1])
    crossings = polygon[edges] + share[:, None] * (polygon[edges + 1] - polygon[edges])
    if len(edges):
        # All of them lie on the one line in which the two planes meet.
        direction = np.cross(np.linalg.svd(polygon - polygon.mean(axis=0))[2][2], normal)
        crossings = crossings[np.argsort(crossings @ direction, kind="stable")]
    for first in range(0, len(edges), 2):
        yield crossings[first : first + 2]
