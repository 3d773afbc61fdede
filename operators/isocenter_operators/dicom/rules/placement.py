"""Do the frames of a SEG or parametric map lie on the images that they say they are from?

A result may lie on a grid of its own. One that has the grid of its source image, as many rows and columns with the
same spacing in a parallel plane, is shown on top of it by every viewer: so it has to lie where that image does.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from isocenter_operators.dicom.rules.multiframe import only_item, source_items
from isocenter_operators.dicom.rules.problem import Problem, error, warning
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.value import value_of
from isocenter_operators.errors import IsocenterError

__all__ = ["placement_problems"]

_TOLERANCE_MM = 0.05  # more than the rounding of Decimal Strings makes of a direction over half a metre
_SAME_SPACING = 1e-3
# What says where a frame lies and what it is from.
_PLACING = ("DerivationImageSequence", "PlanePositionSequence", "PlaneOrientationSequence")


def placement_problems(result: Dataset, sources: Mapping[str, Dataset]) -> Iterator[Problem]:
    """Each frame against the frames that it was derived from, as far as `sources` (by SOP Instance UID) holds them."""
    frames = result.get("PerFrameFunctionalGroupsSequence")
    shared = (result.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    if not frames:
        return
    told: set[Problem] = set()
    seen: set[Hashable] = set()  # the frames of several segments at one place are compared once
    read: set[tuple[int, ...]] = set()  # groups that frames share, see `with_groups_read`
    converted: dict[Any, Any] = {}  # values that the sources share, see `Frame`
    for number, item in enumerate(frames, 1):
        groups = tuple(id(value_of(item, keyword)) for keyword in _PLACING)
        if groups in read:
            continue
        read.add(groups)
        items = list(source_items(item, shared))
        place = _place(item, items)
        if place in seen:
            continue
        seen.add(place)
        origins, complete = _origins(items, sources, converted)
        for problem in _frame_problems(Frame(result, number), origins, complete):
            if problem not in told:
                told.add(problem)
                yield problem


def _place(frame: Dataset, items: Sequence[Dataset]) -> Hashable:
    """Where a frame says it lies and what it says it is from."""
    position = (only_item(frame, "PlanePositionSequence") or Dataset()).get("ImagePositionPatient")
    orientation = (only_item(frame, "PlaneOrientationSequence") or Dataset()).get("ImageOrientationPatient")
    origins = [
        (str(each.get("ReferencedSOPInstanceUID")), str(each.get("ReferencedFrameNumber"))) for each in items
    ]
    return str(position), str(orientation), tuple(origins)


def _origins(
    items: Sequence[Dataset], sources: Mapping[str, Dataset], converted: dict[Any, Any]
) -> tuple[list[Frame], bool]:
    """The source frames that are here, and whether they are all."""
    origins: list[Frame] = []
    complete = True
    for item in items:
        source = sources.get(str(item.get("ReferencedSOPInstanceUID")))
        if source is None:
            complete = False
        elif "PerFrameFunctionalGroupsSequence" not in source:
            origins.append(Frame(source, shared=converted))
        else:
            every = range(1, len(source.PerFrameFunctionalGroupsSequence) + 1)
            numbers = item.get("ReferencedFrameNumber")
            named = every if numbers is None else np.atleast_1d(numbers).tolist()
            origins.extend(Frame(source, number, converted) for number in named if number in every)
    return origins, complete


def _frame_problems(frame: Frame, origins: Sequence[Frame], complete: bool) -> Iterator[Problem]:
    where = f"frame {frame.number}: "
    reference = frame.instance.get("FrameOfReferenceUID")
    if any(origin.instance.get("FrameOfReferenceUID") not in (reference, None) for origin in origins):
        yield error("FrameOfReferenceUID", "is not that of the images that frames were derived from")
        return
    try:
        corners = _corners(frame)
        same_grid = [origin for origin in origins if _same_grid(frame, origin)]
        offsets = [_offset_mm(corners, _corners(origin)) for origin in same_grid]
    except (IsocenterError, TypeError, ValueError):
        yield warning(
            "ImagePositionPatient", "can not be compared with that of the source images: a value is missing"
        )
        return
    if not offsets or not complete or len(offsets) != len(origins):
        return
    nearest_mm = min(offsets)
    if nearest_mm <= _TOLERANCE_MM:
        return
    text = f"lies {nearest_mm:.2f} mm from where the image that it was derived from lies"
    if len(origins) == 1:
        yield error(f"{where}ImagePositionPatient", text)
    elif not _between(corners, [_corners(origin) for origin in origins]):
        yield warning(f"{where}ImagePositionPatient", "is not among the images that it was derived from")


def _corners(frame: Frame) -> NDArray[np.float64]:
    """The centres of the pixels in the four corners, in LPS millimetres (4, 3)."""
    rows, columns = frame.shape
    row_mm, column_mm = frame.spacing_mm
    along_row, along_column = frame.directions
    across = along_row * column_mm * (columns - 1)
    down = along_column * row_mm * (rows - 1)
    corners: NDArray[np.float64] = frame.position_mm + np.array([0 * across, across, down, across + down])
    return corners


def _same_grid(frame: Frame, origin: Frame) -> bool:
    """Whether one would be shown on top of the other: parallel planes with as many pixels of the same size."""
    if frame.shape != origin.shape or not all(
        math.isclose(one, other, rel_tol=_SAME_SPACING)
        for one, other in zip(frame.spacing_mm, origin.spacing_mm, strict=True)
    ):
        return False
    if np.array_equal(frame.directions, origin.directions):
        return True
    return abs(float(np.cross(*frame.directions) @ np.cross(*origin.directions))) > 1 - 1e-4


def _offset_mm(corners: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """How far the corners lie from the others, each from the one nearest to it: a flipped frame lies in its place."""
    distances = np.linalg.norm(corners[:, None] - others[None], axis=-1)
    return float(distances.min(axis=1).max())


def _between(corners: NDArray[np.float64], several: Sequence[NDArray[np.float64]]) -> bool:
    centres = np.array([each.mean(axis=0) for each in several])
    centre = corners.mean(axis=0)
    return bool(
        (centres.min(axis=0) - _TOLERANCE_MM <= centre).all()
        and (centre <= centres.max(axis=0) + _TOLERANCE_MM).all()
    )
