"""Airways and vessels: trees of tapering tubes, and how much of each voxel they fill."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.testing.grid import Field, Grid, Points
from isocenter_operators.testing.solids import coverage
from isocenter_operators.testing.thorax import lung_distance

__all__ = ["AIRWAYS", "WALL_MM", "Tube", "fill", "vessel_trees"]

WALL_MM = 1.5  # of trachea and bronchi


class Tube(NamedTuple):
    """A round tube from one point to another, its radius changing evenly."""

    start_mm: tuple[float, float, float]
    end_mm: tuple[float, float, float]
    start_radius_mm: float
    end_radius_mm: float


_CARINA = (0.0, 15.0, 38.0)
_RIGHT_MAIN_END = (-40.0, 20.0, 10.0)
_RIGHT_UPPER_START = (-27.0, 18.4, 19.1)
_LEFT_MAIN_END = (45.0, 22.0, 13.0)

AIRWAYS: tuple[Tube, ...] = (  # radius of the lumen
    Tube((0.0, -22.0, 170.0), _CARINA, 8.5, 8.5),
    Tube((0.0, -22.0, 500.0), (0.0, -22.0, 170.0), 8.5, 8.5),
    Tube(_CARINA, _RIGHT_MAIN_END, 7.0, 6.0),
    Tube(_CARINA, _LEFT_MAIN_END, 6.5, 5.5),
    Tube(_RIGHT_UPPER_START, (-52.0, 14.0, 40.0), 4.5, 3.5),
    Tube(_RIGHT_MAIN_END, (-60.0, -4.0, -6.0), 4.5, 3.0),
    Tube(_RIGHT_MAIN_END, (-52.0, 38.0, -18.0), 5.0, 3.5),
    Tube(_LEFT_MAIN_END, (62.0, 4.0, 36.0), 4.5, 3.5),
    Tube(_LEFT_MAIN_END, (56.0, 40.0, -16.0), 5.0, 3.5),
)

_TRUNKS = (  # directions from the hilum into a right lung: (lateral, posterior, superior)
    (0.45, -0.15, 0.85),
    (0.75, 0.35, 0.50),
    (0.70, -0.60, 0.30),
    (0.95, 0.10, -0.10),
    (0.70, -0.50, -0.45),
    (0.55, 0.65, -0.30),
    (0.45, 0.35, -0.80),
)
_HILA = (((-36.0, 14.0, 14.0), -1.0), ((38.0, 14.0, 14.0), 1.0))  # (x, y, z) mm, and where lateral is


def vessel_trees(seed: int) -> list[Tube]:
    """Branching vessels of both lungs, from the hila outwards; branches end where the lung ends."""
    rng = np.random.default_rng((seed, 1))
    tubes: list[Tube] = []
    for hilum, lateral in _HILA:
        for trunk in _TRUNKS:
            direction = np.array(trunk) * (lateral, 1.0, 1.0)
            direction /= np.linalg.norm(direction)
            tubes.extend(_branches(rng, _Bud(np.array(hilum), direction, 26.0, 4.6), generations=6))
    return tubes


class _Bud(NamedTuple):
    """Where a branch starts, where to, and how large it is."""

    start_mm: NDArray[np.float64]
    direction: NDArray[np.float64]  # a unit vector
    length_mm: float
    radius_mm: float


def _branches(rng: np.random.Generator, bud: _Bud, generations: int) -> Iterator[Tube]:
    end = bud.start_mm + bud.direction * bud.length_mm
    thinner = bud.radius_mm * 0.88
    yield Tube(_triple(bud.start_mm), _triple(end), bud.radius_mm, thinner)
    if generations == 1 or lung_distance(_point(end)).item() > 3.0:
        return
    sideways = np.cross(bud.direction, rng.normal(size=3))
    sideways /= np.linalg.norm(sideways)
    for sign in (1.0, -1.0):
        angle = np.radians(rng.uniform(20, 45))
        turned = np.cos(angle) * bud.direction + sign * np.sin(angle) * sideways
        shorter = bud.length_mm * rng.uniform(0.75, 0.92)
        child = _Bud(end, turned, shorter, thinner * rng.uniform(0.76, 0.9))
        yield from _branches(rng, child, generations - 1)


def _triple(point: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = point.tolist()
    return x, y, z


def _point(point: NDArray[np.float64]) -> Points:
    return Points(*point.astype(np.float32).reshape(3, 1))


def fill(grid: Grid, tubes: Iterable[Tube], wall_mm: float = 0.0) -> Field:
    """How much of each voxel the tubes fill, 0 to 1: float32 (Z, Y, X).

    Over 0.5 the voxel's centre lies inside, in tubes wider than a voxel.
    """
    filled = np.zeros(grid.size[::-1], np.float32)
    for tube in tubes:
        ends = np.array([tube.start_mm, tube.end_mm])
        margin = max(tube.start_radius_mm, tube.end_radius_mm) + wall_mm + max(grid.spacing_mm)
        columns, rows, slices = grid.box_around(ends, margin)
        block = filled[slices, rows, columns]
        if block.size:
            np.maximum(block, _covered(grid, tube, grid.block(columns, rows, slices), wall_mm), out=block)
    return filled


def _covered(grid: Grid, tube: Tube, points: Points, wall_mm: float) -> Field:
    axis = np.subtract(tube.end_mm, tube.start_mm)
    x, y, z = (along - np.float32(start) for along, start in zip(points, tube.start_mm, strict=True))
    ax, ay, az = (np.float32(part / (axis @ axis)) for part in axis)
    along = np.clip(x * ax + y * ay + z * az, 0, 1)
    x, y, z = (part - along * np.float32(length) for part, length in zip((x, y, z), axis, strict=True))
    distance = np.sqrt(x * x + y * y + z * z)
    radius = tube.start_radius_mm + wall_mm + along * np.float32(tube.end_radius_mm - tube.start_radius_mm)
    # A voxel's extent along the surface's normal: a wall thinner than a slice must still be seen.
    extent = np.zeros_like(distance)
    for direction, spacing in zip(grid.directions, grid.spacing_mm, strict=True):
        dx, dy, dz = (np.float32(part) for part in direction)
        extent += np.abs(x * dx + y * dy + z * dz) * np.float32(spacing)
    smallest = np.float32(min(grid.spacing_mm))
    width = np.maximum(extent / np.maximum(distance, np.float32(1e-3)), smallest)
    # A tube thinner than a voxel fills no voxel: without this, vessels would gain volume on coarse grids.
    fullest = np.minimum(2 * radius / width, 1)
    filled: Field = fullest * coverage(distance - radius, width)
    return filled
