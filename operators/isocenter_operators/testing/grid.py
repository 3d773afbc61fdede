"""Where the voxels of a phantom lie: size, spacing and direction of an image in the patient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.errors import GeometryError

__all__ = ["Field", "Grid", "Points"]

Field = NDArray[np.float32]

_DIRECTIONS = {
    "L": (1.0, 0.0, 0.0),
    "R": (-1.0, 0.0, 0.0),
    "P": (0.0, 1.0, 0.0),
    "A": (0.0, -1.0, 0.0),
    "S": (0.0, 0.0, 1.0),
    "I": (0.0, 0.0, -1.0),
}
_OBLIQUE_AXIS = (0.6, 0.64, 0.48)  # a unit vector off every axis, so that no direction cosine stays 0


class Points(NamedTuple):
    """Patient coordinates in LPS millimetres, as three arrays that broadcast against each other."""

    x: Field
    y: Field
    z: Field


@dataclass(frozen=True)
class Grid:
    """A regular grid of voxels whose middle lies at `centre_mm` in the patient.

    size: voxels along (x, y, z) = (column, row, slice) index.
    spacing_mm: voxel size along the same axes.
    orientation: where each of the three indices runs to, one letter of L/R, P/A and S/I each. "LPS" is the
        usual axial image; "LIP" a coronal one, feet down.
    oblique_deg: turns all three axes about a direction that is none of the patient's axes.

    Raises GeometryError for an orientation, size or spacing that makes no volume.
    """

    size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    orientation: str = "LPS"
    oblique_deg: float = 0.0
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        pairs = sorted("LPS"["RAI".find(c)] if c in "RAI" else c for c in self.orientation)
        if pairs != ["L", "P", "S"]:
            raise GeometryError(
                f"orientation {self.orientation!r}: give one letter of L/R, one of P/A and one of S/I"
            )
        if min(self.size) < 1 or min(self.spacing_mm) <= 0:
            raise GeometryError(f"size {self.size} and spacing {self.spacing_mm} mm must be positive")

    @cached_property
    def directions(self) -> NDArray[np.float64]:
        """Unit vectors in LPS, one row for each of the column, row and slice index: float64 (3, 3)."""
        aligned = np.array([_DIRECTIONS[letter] for letter in self.orientation])
        return aligned @ _rotation(self.oblique_deg).T if self.oblique_deg else aligned

    @cached_property
    def affine(self) -> NDArray[np.float64]:
        """float64 (4, 4): index (x, y, z, 1) to LPS millimetres."""
        affine = np.eye(4)
        affine[:3, :3] = self.directions.T * self.spacing_mm
        middle = (np.array(self.size) - 1) / 2
        affine[:3, 3] = np.array(self.centre_mm) - affine[:3, :3] @ middle
        return affine

    def block(self, columns: slice, rows: slice, slices: slice) -> Points:
        """Patient coordinates of a block's voxel centres, broadcasting to (Z, Y, X)."""
        # Counted from the middle and not from the first voxel: a flipped grid then has bit for bit the same
        # coordinates. Axes that do not contribute stay out, so that an aligned grid costs one row, not a cube.
        shapes = ((1, 1, -1), (1, -1, 1), (-1, 1, 1))
        offsets: list[NDArray[np.floating]] = [
            ((np.arange(count)[part] - (count - 1) / 2) * spacing).reshape(shape)
            for count, part, spacing, shape in zip(
                self.size, (columns, rows, slices), self.spacing_mm, shapes, strict=True
            )
        ]
        return Points(*(self._coordinate(axis, offsets) for axis in range(3)))

    def _coordinate(self, axis: int, offsets: list[NDArray[np.floating]]) -> Field:
        total: NDArray[np.float64] = np.full((1, 1, 1), self.centre_mm[axis])
        for direction, offset in zip(self.directions[:, axis], offsets, strict=True):
            if direction:
                total = total + direction * offset
        return total.astype(np.float32)

    def box_around(self, points_mm: NDArray[np.float64], margin_mm: float) -> tuple[slice, slice, slice]:
        """The (columns, rows, slices) that hold these points (N, 3) and a margin, cut to the grid."""
        relative = (points_mm - np.array(self.centre_mm)) @ self.directions.T  # (N, 3), mm along the indices
        middle = (np.array(self.size) - 1) / 2
        low = np.floor((relative.min(0) - margin_mm) / self.spacing_mm + middle).astype(int)
        high = np.ceil((relative.max(0) + margin_mm) / self.spacing_mm + middle).astype(int)
        columns, rows, slices = (
            slice(max(int(first), 0), max(min(int(last) + 1, count), 0))
            for first, last, count in zip(low, high, self.size, strict=True)
        )
        return columns, rows, slices


def _rotation(angle_deg: float) -> NDArray[np.float64]:
    """Rodrigues' formula about the oblique axis."""
    x, y, z = _OBLIQUE_AXIS
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    angle = math.radians(angle_deg)
    turned: NDArray[np.float64] = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return turned
