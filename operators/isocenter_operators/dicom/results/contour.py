"""The outlines of what a label map marks, plane by plane.

An outline runs along the edges of the pixels, a trace inside of them, so that it holds the centres of its own pixels
and of no others, and encloses their area: whoever fills it gets the label map back, and the same volume. The trace is
also what makes it come out right where a reader rounds corners to whole pixels and fills these included.

A hole is joined to what surrounds it by a cut that runs there and back (the keyhole of PS3.3, C.8.8.6.3): readers that
unite the outlines of a plane and readers that let one exclude the other then see the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.dicom.series.frame import Frame

__all__ = ["in_patient", "outlines"]

_INSET = 1 / 512  # of a pixel: far more than what is lost where a coordinate is written as text
_CUT = 1 / 4  # of a pixel below the upper edge of a hole's first row: no centre lies there, and no corner

# A corner by which of the four pixels around it are inside: north-west 1, north-east 2, south-west 4, south-east 8.
# Three of them, or one; where two opposite ones are, these are two corners: pixels that touch at a corner only are
# apart. Index: which pixels are inside; value: which corner that is, or 0.
_CORNER = np.array([0, 1, 2, 0, 4, 0, 2, 7, 8, 1, 0, 11, 0, 13, 14, 0])
_SECOND_CORNER = np.array([0, 0, 0, 0, 0, 0, 4, 0, 0, 8, 0, 0, 0, 0, 0, 0])
# Where the inside is, seen from the corner; and whether an outline leaves it along the row. The inside is on the right
# hand, as seen on a screen.
_EAST, _SOUTH = np.isin(np.arange(16), [2, 8, 11, 14]), np.isin(np.arange(16), [4, 8, 13, 14])
_LEAVES_ALONG_ROW = np.isin(np.arange(16), [1, 8, 11, 13])
_OF_HOLE = 7  # the first corner, the upper left one, of a hole's outline; of any other it is 8


def outlines(plane: NDArray[Any]) -> dict[int, list[NDArray[np.float64]]]:
    """Closed polygons around the pixels of each value but 0, in order of the values.

    plane: whole numbers (Y, X), 0 for background.

    Each polygon is (N, 2), as (x, y) = (column, row) with the centre of the first pixel at 0, 0; its first point is not
    repeated. Polygons of one plane do not touch.
    """
    rows, columns = (np.flatnonzero(plane.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return {}
    corners = _Corners(plane[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    following = corners.following
    loops = _loops(following)
    points = corners.points
    holes = [loop[0] for loop in loops if corners.kind[loop[0]] == _OF_HOLE]
    if holes:
        points = _join(corners, holes, following, points)
        loops = _loops(following)
    points += columns[0], rows[0]
    found: dict[int, list[NDArray[np.float64]]] = {}
    for loop in loops:
        found.setdefault(int(corners.value[loop[0]]), []).append(points[loop])
    return found


def in_patient(points: NDArray[np.float64], frame: Frame) -> NDArray[np.float64]:
    """Points (N, 2) of a frame, as (x, y) with the centre of its first pixel at 0, 0, in LPS millimetres (N, 3).

    PS3.3, C.7.6.2.1.1.
    """
    row_mm, column_mm = frame.spacing_mm
    step_mm = frame.directions * np.array([[column_mm], [row_mm]])
    placed: NDArray[np.float64] = points @ step_mm + frame.position_mm
    return placed


class _Corners:
    """Every corner of every outline, in order of its value, its y and its x: the two ends of a run along a row follow
    each other.

    `y`, `x`: on the lattice of the pixels' corners, 0, 0 above and left of the first pixel. Of each one's index, `^ 1`
    is the index of the other end of its run along the row.
    """

    def __init__(self, plane: NDArray[Any]) -> None:
        y, x, value, pattern = _patterns(plane)
        kinds = np.concatenate([_CORNER[pattern], _SECOND_CORNER[pattern]])
        chosen = np.flatnonzero(kinds)
        y, x, value = (np.concatenate([each, each])[chosen] for each in (y, x, value))
        kind = kinds[chosen]
        east, south = _EAST[kind], _SOUTH[kind]
        self._height, self._width = plane.shape[0] + 1, plane.shape[1] + 1
        order = np.argsort(((value * self._height + y) * self._width + x) * 2 + east)
        self.y, self.x, self.value = y[order], x[order], value[order]
        self.kind, self._east, self._south = kind[order], east[order], south[order]

    @property
    def points(self) -> NDArray[np.float64]:
        x = self.x - 0.5 + np.where(self._east, _INSET, -_INSET)
        y = self.y - 0.5 + np.where(self._south, _INSET, -_INSET)
        return np.column_stack([x, y])

    @property
    def following(self) -> list[int]:
        """Of each corner the one that follows it on its outline, which runs clockwise as seen on a screen."""
        by_column = np.argsort(
            ((self.value * self._width + self.x) * self._height + self.y) * 2 + self._south
        )
        along_column = np.empty_like(by_column)
        along_column[by_column[0::2]], along_column[by_column[1::2]] = by_column[1::2], by_column[0::2]
        along_row = np.arange(len(self.x)) ^ 1
        following: list[int] = np.where(_LEAVES_ALONG_ROW[self.kind], along_row, along_column).tolist()
        return following

    def left_of(self, holes: NDArray[np.intp], following: NDArray[np.intp]) -> NDArray[np.intp]:
        """Of each hole's first corner, the corner below the nearest upright edge on its left in the same row.

        An edge with its inside on the right runs upwards.
        """
        rise = self.y - self.y[following]
        edges = np.flatnonzero((rise > 0) & np.isin(self.value, self.value[holes]))
        each = np.repeat(edges, rise[edges])  # once for every row that it passes
        row = self.y[each] - 1 - _counted(rise[edges])
        key = (self.value[each] * self._height + row) * self._width + self.x[each]
        order = np.argsort(key)
        wanted = (self.value[holes] * self._height + self.y[holes]) * self._width + self.x[holes]
        nearest: NDArray[np.intp] = each[order][np.searchsorted(key[order], wanted) - 1]
        return nearest


def _patterns(plane: NDArray[Any]) -> tuple[NDArray[np.int64], ...]:
    """(y, x, value, pattern) for every point of the lattice where pixels of more than one value meet."""
    padded = np.pad(plane, 1)
    around = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    mixed = (around[0] != around[1]) | (around[2] != around[3]) | (around[0] != around[2])
    y, x = np.nonzero(mixed)
    values = np.stack([pixels[y, x] for pixels in around]).astype(np.int64)
    found = []
    for place in range(4):
        same = values == values[place]
        # Once per value: where it is met first.
        new = np.flatnonzero((values[place] > 0) & ~same[:place].any(axis=0))
        pattern = np.array([1, 2, 4, 8]) @ same[:, new]
        found.append((y[new], x[new], values[place, new], pattern))
    return tuple(np.concatenate(each) for each in zip(*found, strict=True))


def _counted(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2 ... for each of the lengths."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _loops(following: list[int]) -> list[list[int]]:
    """The corners of each outline, from its first one on."""
    seen = bytearray(len(following))
    loops = []
    for start in range(len(following)):
        loop = []
        at = start
        while not seen[at]:
            seen[at] = 1
            loop.append(at)
            at = following[at]
        if loop:
            loops.append(loop)
    return loops


def _join(
    corners: _Corners, holes: list[int], following: list[int], points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Make each hole part of the outline on its left; returns the points with those of the cuts.

    On its way up that outline turns right to the hole, goes around it, and comes back.
    """
    edges = corners.left_of(np.array(holes), np.array(following))
    added: list[tuple[float, float]] = []
    # From above to below, so that of two cuts from the same edge the lower one comes first on the way up.
    for hole, edge in zip(holes, edges.tolist(), strict=True):
        y = corners.y[hole] - 0.5 + _CUT
        here, there = (points[edge, 0], y), (points[hole, 0], y)
        first = len(points) + len(added)
        added += [here, there, there, here]
        following += [first + 1, following[hole], first + 3, following[edge]]
        following[edge], following[hole] = first, first + 2
    return np.vstack([points, added])
