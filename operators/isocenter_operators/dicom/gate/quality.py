"""Whether an image is good enough to be looked at by a machine: plain figures, each with its definition.

A model answers whatever it is given: also an image of nothing but noise, one in which a hip prosthesis has burnt out
half the pelvis, or one that was saved after windowing, so that all bone has the same value. These figures find the
extremes; they do not grade images that a radiologist would read without remark.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.dicom.gate.overview import Overview

__all__ = ["Quality", "quality_of"]

_METAL_HU = 3000  # enamel, the densest there is in a body, reaches 3000; 12 bits end at 3071
_AIR_IS_BELOW_HU = -900
_SOFT_HU = (-200, 200)  # of a neighbourhood's mean: fat, water, muscle, blood with and without contrast
_NOISE_PLANES = 16
_FEWEST_SOFT = 500  # points, for a figure of noise that means something
_MAD_TO_SD = 1.4826


@dataclass(frozen=True)
class Quality:
    """What was measured. Of anything but CT only the first three, as other values have no fixed scale.

    constant: every voxel has the same value.
    blank_slices_percent: slices in which every voxel has the same value, of all slices.
    clipped_percent: voxels with the highest value there is, or with the lowest where that is no air's (above -900 HU);
        the larger of the two, of all voxels. Measured: 0.00 in four real scans; 68 and 73 in two of them clipped to a
        window of -160 to 240 HU; at most 1.7 where only the bones were clipped, at 400 HU.
    air_only: no piece of tissue of 50 mL or more.
    noise_hu: standard deviation of the noise in soft tissue, as the median deviation of single voxels from the mean of
        four voxels two pixels away, in up to 16 slices: what varies from pixel to pixel, edges left aside. None where
        there is too little soft tissue to tell. Measured: 15 HU in an abdomen with 5 mm slices, 34 in a chest with
        1 mm; with 100 and 200 HU of noise added to the abdomen, 104 and 198.
    metal_percent: voxels of 3000 HU and more, wherever they lie in the image, of the body's volume.
    cut_percent: of the body's outline, in all axial sections: how much lies at the edge of the field of view. The ends
        of the scan at the head and at the feet do not count. Measured: 0 in an abdomen, 4 in a chest whose arms and
        shoulders are cut, 51 and 62 where only the middle 20 cm of these were kept. A field of view that ends in a
        circle of -1024 HU is not seen as one, only values below -1100 HU are.
    """

    constant: bool
    blank_slices_percent: float
    clipped_percent: float
    air_only: bool = False
    noise_hu: float | None = None
    metal_percent: float = 0.0
    cut_percent: float = 0.0


def quality_of(voxels: NDArray[Any], affine: NDArray[np.float64], overview: Overview | None) -> Quality:
    """The figures of a volume (Z, Y, X); `affine`: index (x, y, z, 1) to LPS mm; `overview`: of a CT."""
    lows, highs = voxels.min(axis=(1, 2)), voxels.max(axis=(1, 2))
    low, high = lows.min(), highs.max()
    blank_percent = 100 * float(np.mean(lows == highs))
    if low == high:
        return Quality(constant=True, blank_slices_percent=blank_percent, clipped_percent=100.0)
    ends = [high] if overview is None or low < _AIR_IS_BELOW_HU else [low, high]
    clipped_percent = max(100 * float(np.count_nonzero(voxels == end)) / voxels.size for end in ends)
    if overview is None:
        return Quality(False, blank_percent, clipped_percent)
    body_ml = overview.millilitres(np.count_nonzero(overview.inside))
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    metal_ml = float(np.count_nonzero(voxels >= _METAL_HU)) * voxel_ml if high >= _METAL_HU else 0.0
    outline = float(overview.outline.sum())
    return Quality(
        constant=False,
        blank_slices_percent=blank_percent,
        clipped_percent=clipped_percent,
        air_only=overview.holds_nothing,
        noise_hu=_noise_hu(voxels),
        metal_percent=100 * metal_ml / body_ml if body_ml else 0.0,
        cut_percent=100 * float((overview.cut_share * overview.outline).sum()) / outline if outline else 0.0,
    )


def _noise_hu(voxels: NDArray[Any]) -> float | None:
    """The pixel noise in soft tissue; see `Quality.noise_hu`."""
    if min(voxels.shape[1:]) < 5:
        return None
    deviations = []
    step = max(1, len(voxels) // _NOISE_PLANES)
    for plane in voxels[step // 2 :: step].astype(np.float32):
        around = (plane[:-4, 2:-2] + plane[4:, 2:-2] + plane[2:-2, :-4] + plane[2:-2, 4:]) / 4
        soft = (around > _SOFT_HU[0]) & (around < _SOFT_HU[1])
        deviations.append((plane[2:-2, 2:-2] - around)[soft])
    values = np.concatenate(deviations)
    if values.size < _FEWEST_SOFT:
        return None
    # The mean of four has a quarter of the variance itself.
    return float(np.median(np.abs(values))) * _MAD_TO_SD / float(np.sqrt(1.25))
