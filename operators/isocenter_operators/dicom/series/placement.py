"""Whether a frame has a plane at all, and the order of frames along their normal (PS3.3, C.7.6.2.1.1)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.errors import GeometryError

__all__ = ["PLANE_TOLERANCE", "SAME_PLACE_MM", "in_order", "require_plane"]

_PLANE_KEYWORDS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_VALUES = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
# Direction cosines are written with few digits. Half a millimetre over the width of a patient, for spacings too.
PLANE_TOLERANCE = 1e-3
SAME_PLACE_MM = 0.01
_FARTHEST_MM = 1e6  # no scanner is a kilometre long; numbers far beyond it overflow


def require_plane(frame: Frame) -> None:
    """Raise GeometryError where the frame does not say where its pixels lie in the patient, or holds colours."""
    uid = frame.series_uid
    if frame.whole_number("SamplesPerPixel", 1) != 1:
        raise GeometryError(f"series {uid} holds colour images, not a volume", series_uid=uid)
    missing = [keyword for keyword in _PLANE_KEYWORDS if frame.get(keyword) in (None, "", [])]
    missing += [k for k in ("Rows", "Columns") if not frame.get(k)]
    if missing:
        raise GeometryError(
            f"{frame.name}: no {', '.join(missing)}, so its place in the patient is not known", series_uid=uid
        )
    for keyword in ("Rows", "Columns"):
        frame.whole_number(keyword)
    for keyword, count in _VALUES.items():
        _refuse_no_numbers(frame, keyword, count)
    cosines = frame.directions
    if np.abs(cosines @ cosines.T - np.eye(2)).max() > PLANE_TOLERANCE:
        raise GeometryError(
            f"series {uid}: ImageOrientationPatient {cosines.ravel().tolist()} is not two unit vectors at right angles",
            series_uid=uid,
        )


def _refuse_no_numbers(frame: Frame, keyword: str, count: int) -> None:
    try:
        values = np.atleast_1d(np.array(frame.get(keyword), np.float64))
    except (TypeError, ValueError):  # an empty component
        values = np.empty(0)
    sound = values.shape == (count,) and bool((np.abs(values) <= _FARTHEST_MM).all())  # which NaN is not
    if not sound or (count == 2 and (values <= 0).any()):
        shown = values.tolist() if sound else "something else"
        raise GeometryError(
            f"{frame.name}: {keyword} is {shown}, not {count} {'positive ' if count == 2 else ''}numbers that can be",
            series_uid=frame.series_uid,
        )


def in_order(frames: Sequence[Frame]) -> tuple[list[Frame], NDArray[np.float64]]:
    """The frames in order along their normal, and their distances along it in mm."""
    cosines = frames[0].directions
    normal = np.cross(cosines[0], cosines[1])
    along = np.array([frame.position_mm for frame in frames]) @ (normal / np.linalg.norm(normal))
    order = np.argsort(along, kind="stable")
    return [frames[i] for i in order], along[order]
