"""Measures of a lung from the exact histogram of its voxels: the same on every device.

Low attenuation area and 15th percentile as in Parr et al. (Respir Res 2008;9:21) and the Fleischner Society's
statement on emphysema (Lynch et al., Radiology 2015;277:192).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["HU_OFFSET", "histograms", "measures"]

HU_OFFSET = 32768  # bin 0 holds the lowest int16
_BINS = 65536
_LOW_ATTENUATION_HU = -950
_PERCENTILE = 15


def histograms(parts: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Of the right and the left lung, int64 [65536], from pairs of int16 HU and uint8 labels of one shape."""
    counts = [torch.zeros(_BINS, dtype=torch.int64, device=device) for _ in range(2)]
    for hu, labels in parts:
        for index in range(2):
            values = hu[labels == index + 1].int() + HU_OFFSET
            counts[index] += torch.bincount(values, minlength=_BINS)
    return counts[0].cpu(), counts[1].cpu()


def measures(histogram: Tensor, voxel_mm3: float) -> tuple[float, float, float, float]:
    """Volume in mL, mean HU, % of the volume strictly below -950 HU, and the 15th percentile in HU.

    The percentile is the smallest whole HU that at least 15 % of the voxels do not exceed. All NaN but the volume
    where there are no voxels.
    """
    voxels = int(histogram.sum())
    if not voxels:
        return 0.0, math.nan, math.nan, math.nan
    hu = torch.arange(_BINS, dtype=torch.int64) - HU_OFFSET
    low = int(histogram[: _LOW_ATTENUATION_HU + HU_OFFSET].sum())
    reached = histogram.cumsum(0) * 100 >= _PERCENTILE * voxels
    percentile_hu = int(reached.to(torch.uint8).argmax()) - HU_OFFSET
    return (
        voxels * voxel_mm3 / 1000,
        int((histogram * hu).sum()) / voxels,
        100 * low / voxels,
        float(percentile_hu),
    )
