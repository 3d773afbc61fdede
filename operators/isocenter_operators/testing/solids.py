"""Analytic shapes as signed distances in millimetres: negative inside, positive outside.

The distances are near enough to true ones to make walls and rounded edges of a wanted thickness.
"""

from __future__ import annotations

import numpy as np

from isocenter_operators.testing.grid import Field, Points

__all__ = ["Triple", "coverage", "ellipsoid", "elliptic_cylinder", "smooth_max", "smooth_step"]

Triple = tuple[float, float, float]


def ellipsoid(points: Points, centre_mm: Triple, semi_axes_mm: Triple) -> Field:
    """An ellipsoid along the patient's axes."""
    squares = [
        ((along - centre) * np.float32(1 / semi)) ** 2
        for along, centre, semi in zip(points, centre_mm, semi_axes_mm, strict=True)
    ]
    return _scaled(squares[0] + squares[1] + squares[2], min(semi_axes_mm))


def elliptic_cylinder(
    points: Points, centre_mm: tuple[float, Field | float], semi_axes_mm: tuple[Field | float, Field | float]
) -> Field:
    """An ellipse in the axial plane, as long as the patient; centre and semi-axes may change with z."""
    across = ((points.x - centre_mm[0]) / semi_axes_mm[0]) ** 2
    depth = ((points.y - centre_mm[1]) / semi_axes_mm[1]) ** 2
    return _scaled(across + depth, np.minimum(*semi_axes_mm))


def _scaled(squares: Field, length_mm: Field | float) -> Field:
    distance: Field = ((np.sqrt(squares) - 1) * length_mm).astype(np.float32, copy=False)
    return distance


def smooth_max(first: Field, second: Field, rounding_mm: float) -> Field:
    """The intersection of two shapes with its edge rounded (the polynomial smooth maximum)."""
    overlap = np.maximum(np.float32(rounding_mm) - np.abs(first - second), 0)
    rounded: Field = np.maximum(first, second) + overlap * overlap * np.float32(0.25 / rounding_mm)
    return rounded


def smooth_step(values: Field, start: float, end: float) -> Field:
    """0 before `start`, 1 after `end`, with no corner between."""
    t = np.clip((values - np.float32(start)) * np.float32(1 / (end - start)), 0, 1)
    step: Field = t * t * (3 - 2 * t)
    return step


def coverage(distance_mm: Field, width_mm: Field | float) -> Field:
    """How much of a voxel of this width lies inside: 1 well inside, 0 well outside, 0.5 on the surface."""
    covered: Field = np.clip(0.5 - distance_mm / width_mm, 0, 1)
    return covered
