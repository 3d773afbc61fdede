"""From a series of slices to one volume with an exact affine.

Index order of every affine here is (column, row, slice) = (x, y, z), and its result is millimetres in the
patient's Left-Posterior-Superior axes (PS3.3, C.7.6.2.1.1). Arrays are (Z, Y, X).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

__all__ = ["Volume"]


@dataclass(frozen=True)
class Volume:
    """Voxels, where they lie in the patient, and the instances they came from.

    `voxels`: int16 (Z, Y, X), rescaled: Hounsfield units for CT.
    `affine`: float64 (4, 4), index (x, y, z, 1) to LPS millimetres.
    `sources`: one instance per slice, in the order of Z.
    """

    voxels: NDArray[np.int16]  # (Z, Y, X)
    affine: NDArray[np.float64]  # (x, y, z, 1) -> LPS, mm
    sources: tuple[Dataset, ...]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along (x, y, z) in millimetres."""
        x, y, z = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z
