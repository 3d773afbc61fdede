"""What a perfect application would measure in a phantom's lungs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.testing.thorax import LEFT, RIGHT

__all__ = ["LungTruth", "ThoraxTruth", "measure"]


@dataclass(frozen=True)
class LungTruth:
    """Of one lung, or of both. All NaN but the volume where there is no lung."""

    volume_mL: float  # noqa: N815 - the unit's own spelling
    mean_hu: float
    laa_950_percent: float  # voxels strictly below -950 HU
    p15_hu: float  # the smallest whole HU that at least 15 % of the voxels do not exceed


@dataclass(frozen=True)
class ThoraxTruth:
    """Exact numbers, from the written integer voxels inside the true labels."""

    right: LungTruth
    left: LungTruth
    both: LungTruth


def measure(hu: NDArray[np.int16], labels: NDArray[np.uint8], voxel_mm3: float) -> ThoraxTruth:
    """hu and labels: (Z, Y, X)."""
    return ThoraxTruth(
        right=_lung(hu[labels == RIGHT], voxel_mm3),
        left=_lung(hu[labels == LEFT], voxel_mm3),
        both=_lung(hu[labels > 0], voxel_mm3),
    )


def _lung(hu: NDArray[np.int16], voxel_mm3: float) -> LungTruth:
    if not hu.size:
        return LungTruth(0.0, math.nan, math.nan, math.nan)
    lowest = int(hu.min())
    up_to = np.cumsum(np.bincount(hu.astype(np.int32) - lowest))  # voxels of at most lowest + index
    # In whole numbers: 0.15 * n in floating point may lie just above a count that is exactly 15 %.
    p15 = lowest + int(np.argmax(up_to * 100 >= 15 * hu.size))
    return LungTruth(
        volume_mL=hu.size * voxel_mm3 / 1000,
        mean_hu=float(hu.mean(dtype=np.float64)),
        laa_950_percent=100 * int(np.count_nonzero(hu < -950)) / hu.size,
        p15_hu=float(p15),
    )
