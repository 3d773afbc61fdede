"""What segmentations and parametric maps say alike of the planes that their frames lie on (PS3.3, C.7.6.16)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom import PixelMeasuresSequence
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from isocenter_operators.dicom.header import plane_of
from isocenter_operators.dicom.series.frame import Frame

__all__ = ["EVEN", "along_mm", "fix_dimension_uid", "is_even", "pixel_measures"]

EVEN = 0.1  # of the distance between slices: how far it may vary and still be stated


def along_mm(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """Where each plane lies along the normal of the first."""
    along: NDArray[np.float64] = np.array([frame.position_mm for frame in frames]) @ np.cross(
        *frames[0].directions
    )
    return along


def is_even(steps_mm: NDArray[np.float64]) -> bool:
    """Whether these distances between neighbours are one distance."""
    mean_mm = float(steps_mm.mean()) if len(steps_mm) else 0.0
    return mean_mm > 0 and bool((np.abs(steps_mm - mean_mm) <= EVEN * mean_mm).all())


def pixel_measures(frames: Sequence[Frame]) -> PixelMeasuresSequence:
    """In-plane spacing, and the distance between slices along their normal where it is the same between all.

    highdicom takes the first image's own measures, which may lack the thickness and the distance. PS3.3, C.7.6.16.2.1.
    """
    steps_mm = np.diff(np.sort(along_mm(frames)))
    mean_mm = float(steps_mm.mean()) if len(steps_mm) else 0.0
    return PixelMeasuresSequence(
        pixel_spacing=frames[0].spacing_mm,
        slice_thickness=float(plane_of(frames[0]).SliceThickness or mean_mm),
        spacing_between_slices=round(mean_mm, 6) if is_even(steps_mm) else None,
    )


def fix_dimension_uid(result: Dataset, uid: str) -> None:
    """highdicom draws this UID at random; the same job has to give the same bytes."""
    result.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for index in result.DimensionIndexSequence:
        index.DimensionOrganizationUID = uid
