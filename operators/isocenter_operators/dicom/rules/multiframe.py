"""What the frames of a SEG or parametric map have to say of themselves (PS3.3, C.7.6.16)."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from isocenter_operators.dicom.rules.problem import Problem, error, warning
from isocenter_operators.dicom.value import value_of

__all__ = [
    "derivations_of",
    "frame_problems",
    "is_encapsulated",
    "listed_instances",
    "only_item",
    "source_items",
]

# Which frame lies where: two with the same answer are one too many.
_Place = Callable[[int, tuple[float, ...]], Hashable]


def frame_problems(image: Dataset, place: _Place) -> Iterator[Problem]:
    """Number, geometry, dimension indices and references of the frames.

    place: given a frame's index from 0 and its position in millimetres, what no other frame may be at.
    """
    shared = image.SharedFunctionalGroupsSequence[0]
    frames = image.PerFrameFunctionalGroupsSequence
    if int(image.NumberOfFrames) != len(frames):
        yield error(
            "NumberOfFrames", f"says {int(image.NumberOfFrames)}, but {len(frames)} frames are described"
        )
    yield from _geometry_problems(image, shared)
    listed = listed_instances(image)
    indices = len(image.get("DimensionIndexSequence") or [])
    seen: dict[Hashable, int] = {}
    # Frames that say the same share their items (see `with_groups_read`): each of these is read once.
    positions: dict[int, tuple[float, ...] | None] = {}
    strays: dict[int, int] = {}
    unlisted = 0
    for index, frame in enumerate(frames):
        where = f"frame {index + 1}: "
        plane = only_item(frame, "PlanePositionSequence") or only_item(shared, "PlanePositionSequence")
        if id(plane) not in positions:
            positions[id(plane)] = _position_of(plane)
        position = positions[id(plane)]
        if position is None:
            yield error(f"{where}ImagePositionPatient", "is missing or is not three numbers")
        elif (first := seen.setdefault(place(index, position), index)) != index:
            text = f"is where frame {first + 1} of the same segment already lies"
            yield error(f"{where}ImagePositionPatient", text)
        content = only_item(frame, "FrameContentSequence")
        if content is not None and len(_values(value_of(content, "DimensionIndexValues"))) != indices:
            text = f"are not {indices}, as the Dimension Index Sequence has"
            yield error(f"{where}DimensionIndexValues", text)
        derivations = derivations_of(frame, shared)
        if id(derivations) not in strays:
            strays[id(derivations)] = sum(
                str(item.get("ReferencedSOPInstanceUID")) not in listed for item in _sources(derivations)
            )
        unlisted += strays[id(derivations)]
    yield from _reference_problems(listed, unlisted)


def _geometry_problems(image: Dataset, shared: Dataset) -> Iterator[Problem]:
    first = image.PerFrameFunctionalGroupsSequence[0]
    for group in (shared, first):
        orientation = only_item(group, "PlaneOrientationSequence")
        if orientation is not None and not _orthonormal(orientation.get("ImageOrientationPatient")):
            yield error("ImageOrientationPatient", "is not two unit vectors at right angles")
        measures = only_item(group, "PixelMeasuresSequence")
        if measures is not None and not all(
            v > 0 for v in _numbers(measures.get("PixelSpacing"), 2) or (0.0,)
        ):
            yield error("PixelSpacing", "is not two positive numbers")
    for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if keyword not in shared and keyword not in first:
            yield error(keyword, "is missing, both shared and per frame")


def _reference_problems(listed: set[str], unlisted: int) -> Iterator[Problem]:
    keyword = "ReferencedSeriesSequence"
    if not listed:
        text = "is missing: viewers can not find the images that belong to it"
        yield error(keyword, text) if unlisted else warning(keyword, text)
    elif unlisted:
        yield error(keyword, f"does not list {unlisted} images that frames were derived from")


def listed_instances(image: Dataset) -> set[str]:
    """The instances that the Common Instance Reference Module lists of this study and of others (PS3.3, C.12.2)."""
    series = list(image.get("ReferencedSeriesSequence") or [])
    for study in image.get("StudiesContainingOtherReferencedInstancesSequence") or []:
        series.extend(study.get("ReferencedSeriesSequence") or [])
    return {
        str(item.get("ReferencedSOPInstanceUID"))
        for one in series
        if one.get("SeriesInstanceUID")
        for item in one.get("ReferencedInstanceSequence") or []
    }


def derivations_of(frame: Dataset, shared: Dataset) -> Sequence[Dataset]:
    """The items of the frame's Derivation Image Sequence, or of that which all frames share."""
    keyword = "DerivationImageSequence"
    items: Sequence[Dataset] = value_of(frame, keyword) or value_of(shared, keyword) or ()
    return items


def source_items(frame: Dataset, shared: Dataset) -> Iterator[Dataset]:
    """The references to the images that a frame was derived from (PS3.3, C.7.6.16.2.6)."""
    yield from _sources(derivations_of(frame, shared))


def only_item(group: Dataset, keyword: str) -> Dataset | None:
    """The item of a sequence that holds one; None where it holds none."""
    items: Sequence[Dataset] = value_of(group, keyword) or []
    return items[0] if items else None


def is_encapsulated(image: Dataset) -> bool:
    """Whether its pixels are compressed."""
    meta = getattr(image, "file_meta", None)
    return bool(meta and "TransferSyntaxUID" in meta and meta.TransferSyntaxUID.is_encapsulated)


def _position_of(plane: Dataset | None) -> tuple[float, ...] | None:
    return None if plane is None else _numbers(plane.get("ImagePositionPatient"), 3)


def _sources(derivations: Sequence[Dataset]) -> Iterator[Dataset]:
    for derivation in derivations:
        yield from derivation.get("SourceImageSequence") or []


def _values(value: Any) -> Sequence[Any]:
    if value is None:
        return []
    return value if hasattr(value, "__len__") and not isinstance(value, str) else [value]


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(v) for v in _values(value))
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and all(math.isfinite(v) for v in numbers) else None


def _orthonormal(value: Any) -> bool:
    numbers = _numbers(value, 6)
    if numbers is None:
        return False
    rows = np.array(numbers).reshape(2, 3)
    return bool(np.allclose(rows @ rows.T, np.eye(2), atol=1e-3))
