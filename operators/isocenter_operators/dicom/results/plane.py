"""Flat sections through a volume in the patient's own axes, whichever way the slices were acquired.

Sections are cut through the affine, so the proportions are millimetres and left is left for axial, coronal, oblique
and tilted acquisitions alike. The viewer faces the patient's feet (axial) or face (coronal): the patient's right is on
the viewer's left, anterior or head is up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Sampling", "Section", "View", "largest_sections", "section_at"]

View = Literal["axial", "coronal"]
_TOUCH = 1e-6  # of a voxel: what rounding may take from a point that lies on the grid
# Patient axes in LPS: the one across the section, the one down the picture, and its sign.
_ACROSS = {"axial": 2, "coronal": 1}
_DOWN = {"axial": (1, 1.0), "coronal": (2, -1.0)}


@dataclass(frozen=True)
class Section:
    """A rectangle in the patient: `origin_mm` is its upper left corner in LPS, `size_mm` its (width, height).

    `markers`: the letters at the (left, right, top, bottom) edge. `of`: what it goes through, for people.
    """

    view: View
    origin_mm: tuple[float, float, float]
    size_mm: tuple[float, float]
    of: str = "largest segmented area"

    @property
    def markers(self) -> tuple[str, str, str, str]:
        return ("R", "L", "A", "P") if self.view == "axial" else ("R", "L", "H", "F")

    @property
    def patient_orientation(self) -> tuple[str, str]:
        """Patient Orientation (0020,0020): where rows and columns run to."""
        return ("L", "P") if self.view == "axial" else ("L", "F")

    def points(self, width: int, height: int) -> NDArray[np.float64]:
        """LPS mm of the pixel centres: (height, width, 3)."""
        down_axis, sign = _DOWN[self.view]
        points = np.empty((height, width, 3))
        points[:] = self.origin_mm
        points[..., 0] += ((np.arange(width) + 0.5) * self.size_mm[0] / width)[None, :]
        points[..., down_axis] += sign * ((np.arange(height) + 0.5) * self.size_mm[1] / height)[:, None]
        return points


def largest_sections(
    labels: NDArray[np.uint8], affine: NDArray[np.float64], views: Sequence[View], *, margin_mm: float = 40.0
) -> list[Section]:
    """For each view the section through the largest labelled area, cut to all that is labelled and a margin.

    `labels`: uint8 (Z, Y, X), not empty; `affine`: index (x, y, z, 1) to LPS mm. Where the acquisition is oblique to
    the patient, the area is that of its own nearest planes.
    """
    profiles = _profiles(labels)
    corners = _corners(profiles, affine, labels.shape)
    sections = []
    for view in views:
        across, (down, sign) = _ACROSS[view], _DOWN[view]
        axis = int(np.argmax(np.abs(affine[across, :3]) / np.linalg.norm(affine[:3, :3], axis=0)))
        middle = _centre_of(labels, affine, axis, int(np.argmax(profiles[axis])))
        (left, right), (low, high) = (_extent(corners, a, margin_mm) for a in (0, down))
        origin = {0: left, across: float(middle[across]), down: low if sign > 0 else high}
        sections.append(Section(view, (origin[0], origin[1], origin[2]), (right - left, high - low)))
    return sections


def section_at(
    point_mm: tuple[float, float, float],
    shape: tuple[int, int, int],
    affine: NDArray[np.float64],
    view: View,
    of: str,
) -> Section:
    """The section through a place, LPS mm, as large as the volume, whose shape is (Z, Y, X)."""
    whole = _box([(-0.5, size - 0.5) for size in shape[::-1]], affine)
    across, (down, sign) = _ACROSS[view], _DOWN[view]
    (left, right), (low, high) = ((whole[:, axis].min(), whole[:, axis].max()) for axis in (0, down))
    origin = {0: float(left), across: point_mm[across], down: float(low if sign > 0 else high)}
    return Section(view, (origin[0], origin[1], origin[2]), (float(right - left), float(high - low)), of=of)


class Sampling:
    """Trilinear interpolation of a volume's grid at points in LPS mm (..., 3).

    The neighbours and their weights are found once, for all arrays on that grid. Neighbours that no point needs, as
    those beside a section that lies on a plane of voxels, are not read at all.
    """

    def __init__(
        self, affine: NDArray[np.float64], shape: tuple[int, int, int], points: NDArray[np.float64]
    ) -> None:
        inverse = np.linalg.inv(affine)
        self._outside = np.zeros(points.shape[:-1], bool)
        ends: list[list[tuple[NDArray[np.intp], NDArray[np.float32]]]] = []
        for axis, count in zip((2, 1, 0), shape, strict=True):  # z, y, x
            index = points @ inverse[axis, :3] + inverse[axis, 3]
            self._outside |= (index < -0.5 - _TOUCH) | (index > count - 0.5 + _TOUCH)
            ends.append(_neighbours(index, count))
        _, height, width = shape
        self._corners = [
            ((z * height + y) * width + x, wz * wy * wx) for (z, wz), (y, wy), (x, wx) in product(*ends)
        ]

    def __call__(
        self,
        array: NDArray[Any],
        *,
        of: Callable[[NDArray[Any]], NDArray[Any]] = lambda values: values,
        outside: float = 0.0,
    ) -> NDArray[np.float32]:
        """Values of `of(array)` (Z, Y, X) at the points: float32 (...). Only the neighbours are read and converted."""
        flat = array.reshape(-1)
        total = np.zeros(self._outside.shape, np.float32)
        for index, weight in self._corners:
            total += weight * of(flat[index])
        total[self._outside] = outside
        return total


def _neighbours(index: NDArray[np.float64], count: int) -> list[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """The grid indices below and above, each with its weight; the one alone where it is always met exactly."""
    low = np.floor(index + _TOUCH)
    weight = np.clip(index - low, 0.0, 1.0).astype(np.float32)
    below = np.clip(low, 0, count - 1).astype(np.intp)
    if float(weight.max(initial=0.0)) <= _TOUCH:
        return [(below, np.ones_like(weight))]
    above = np.clip(low + 1, 0, count - 1).astype(np.intp)
    return [(below, 1 - weight), (above, weight)]


def _profiles(labels: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """How many voxels are labelled at each x, y and z index."""
    depth, height, width = labels.shape
    x, y, z = np.zeros(width, np.intp), np.zeros(height, np.intp), np.zeros(depth, np.intp)
    for index, plane in enumerate(labels):
        if plane.any():
            mask = plane != 0
            rows = np.count_nonzero(mask, axis=1)
            x += np.count_nonzero(mask, axis=0)
            y += rows
            z[index] = rows.sum()
    return x, y, z


def _corners(
    profiles: tuple[NDArray[np.intp], ...], affine: NDArray[np.float64], shape: tuple[int, ...]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """LPS mm of the corners of the labelled box, and of the whole volume: twice (8, 3)."""
    label_ends = [(int(p.nonzero()[0][0]) - 0.5, int(p.nonzero()[0][-1]) + 0.5) for p in profiles]
    volume_ends = [(-0.5, size - 0.5) for size in shape[::-1]]
    return _box(label_ends, affine), _box(volume_ends, affine)


def _box(ends: list[tuple[float, float]], affine: NDArray[np.float64]) -> NDArray[np.float64]:
    index = np.array(np.meshgrid(*ends, indexing="ij")).reshape(3, -1).T
    corners: NDArray[np.float64] = index @ affine[:3, :3].T + affine[:3, 3]
    return corners


def _extent(
    corners: tuple[NDArray[np.float64], NDArray[np.float64]], axis: int, margin_mm: float
) -> tuple[float, float]:
    labelled, whole = corners
    low = max(float(labelled[:, axis].min()) - margin_mm, float(whole[:, axis].min()))
    high = min(float(labelled[:, axis].max()) + margin_mm, float(whole[:, axis].max()))
    return low, high


def _centre_of(
    labels: NDArray[np.uint8], affine: NDArray[np.float64], axis: int, index: int
) -> NDArray[np.float64]:
    """LPS mm of the middle of what is labelled in one index plane."""
    plane = np.take(labels, index, axis=2 - axis)
    others = [a for a in (2, 1, 0) if a != axis]  # index axes of the plane's (rows, columns)
    point = np.empty(3)
    point[axis] = index
    for where, a in zip(plane.nonzero(), others, strict=True):
        point[a] = where.mean()
    centre: NDArray[np.float64] = affine[:3, :3] @ point + affine[:3, 3]
    return centre
