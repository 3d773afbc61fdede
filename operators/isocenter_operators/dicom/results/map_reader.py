"""Parametric maps read back, whoever wrote them: real values, and where they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array

from isocenter_operators.dicom.series.frame import Frame, frames_of
from isocenter_operators.dicom.series.frame_grid import FrameGrid, grid_of
from isocenter_operators.errors import InputError, UnreadableInput

__all__ = ["read_parametric_map"]

_PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"


def read_parametric_map(pm: Dataset) -> tuple[NDArray[np.float64], FrameGrid]:
    """The values (Z, Y, X) in the unit that the map says, NaN where it has no frame, and their grid (PS3.3, A.75).

    Raises UnreadableInput where it is no parametric map, InputError where its values are looked up in a table or two
    frames lie in one place, GeometryError where its frames lie on no regular grid.
    """
    if pm.get("SOPClassUID") != _PARAMETRIC_MAP:
        raise UnreadableInput(f"{pm.get('SOPInstanceUID')} is no parametric map")
    frames = frames_of([pm])
    grid = grid_of(frames)
    if len(set(grid.places)) < len(frames):
        raise InputError(f"{pm.SOPInstanceUID}: two of its frames lie in one place")
    values = np.full(grid.shape, np.nan)
    for frame, place in zip(frames, grid.places, strict=True):
        slope, intercept = _mapping(frame)
        values[place] = _stored(frame) * slope + intercept
    return values, grid


def _stored(frame: Frame) -> NDArray[Any]:
    values: NDArray[Any] = pixel_array(frame.instance, index=(frame.number or 1) - 1)
    return values.astype(np.float64)


def _mapping(frame: Frame) -> tuple[float, float]:
    """Real World Value Slope and Intercept (PS3.3, C.7.6.16.2.11)."""
    slope, intercept = frame.get("RealWorldValueSlope"), frame.get("RealWorldValueIntercept")
    if slope is None or intercept is None:
        raise InputError(f"{frame.name}: no slope and intercept say what its values are")
    return float(slope), float(intercept)
