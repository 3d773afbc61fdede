"""Where lung is destroyed: a random field in patient coordinates, high in clustered patches near the apices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.testing.grid import Field, Grid

__all__ = ["emphysema"]

_PATCHES = (24, 9.0, 16.0, 1.0)  # waves, shortest and longest wavelength in mm, weight
_CLUSTERS = (10, 45.0, 90.0, 0.7)
_APICAL_PER_MM = 0.006


def emphysema(grid: Grid, parenchyma: NDArray[np.bool_], fraction: float, seed: int) -> NDArray[np.bool_]:
    """The given fraction of the parenchyma's voxels: those where the field is highest. (Z, Y, X)."""
    diseased = np.zeros_like(parenchyma)
    wanted = round(fraction * np.count_nonzero(parenchyma))
    if wanted:
        field = _field(grid, parenchyma, seed)
        threshold = np.partition(field, field.size - wanted)[field.size - wanted]
        diseased[parenchyma] = field >= threshold
    return diseased


def _field(grid: Grid, where: NDArray[np.bool_], seed: int) -> Field:
    """A sum of plane waves at the voxels of `where`: smooth, isotropic, and the same on every grid."""
    columns, rows, slices = (slice(0, count) for count in grid.size)
    x, y, z = (np.broadcast_to(along, where.shape)[where] for along in grid.block(columns, rows, slices))
    rng = np.random.default_rng((seed, 2))
    field: Field = z * np.float32(_APICAL_PER_MM)
    for count, shortest, longest, weight in (_PATCHES, _CLUSTERS):
        amplitude = np.float32(weight * np.sqrt(2 / count))
        for _ in range(count):
            direction = rng.normal(size=3)
            wave = direction / np.linalg.norm(direction) * 2 * np.pi / rng.uniform(shortest, longest)
            kx, ky, kz = (np.float32(part) for part in wave)
            phase = np.float32(rng.uniform(0, 2 * np.pi))
            field += amplitude * np.cos(kx * x + ky * y + kz * z + phase)
    return field
