"""What a Segmentation has to fulfil (PS3.3, A.51, C.8.20.2) for archives and viewers to place it on its images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from isocenter_operators.dicom.problem import Problem, absent, error, incomplete_code, warning

__all__ = ["segmentation_problems"]

_LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"


def segmentation_problems(seg: Dataset) -> Iterator[Problem]:
    """Every problem of one Segmentation, of the BINARY, FRACTIONAL or LABELMAP kind."""
    required = (
        "SegmentationType",
        "SegmentSequence",
        "FrameOfReferenceUID",
        "Rows",
        "Columns",
        "NumberOfFrames",
    )
    missing = list(
        absent(seg, (*required, "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"))
    )
    yield from missing
    if missing:
        return
    yield from _pixel_problems(seg)
    yield from _segment_problems(seg)
    yield from _frame_problems(seg)


def _pixel_problems(seg: Dataset) -> Iterator[Problem]:
    frames, described = int(seg.NumberOfFrames), len(seg.PerFrameFunctionalGroupsSequence)
    if frames != described:
        yield error("NumberOfFrames", f"says {frames}, but {described} frames are described")
    bits = int(seg.get("BitsAllocated", 0))
    if seg.SegmentationType == "BINARY" and bits != 1:
        yield error("BitsAllocated", f"is {bits}; a BINARY segmentation has 1")
    if "PixelData" not in seg:
        yield error("PixelData", "is missing")
    elif not _encapsulated(seg):
        expected = (frames * int(seg.Rows) * int(seg.Columns) * bits + 7) // 8
        if len(seg.PixelData) != expected + expected % 2:
            yield error("PixelData", f"has {len(seg.PixelData)} bytes; {frames} frames need {expected}")


def _encapsulated(seg: Dataset) -> bool:
    meta = getattr(seg, "file_meta", None)
    return bool(meta and "TransferSyntaxUID" in meta and meta.TransferSyntaxUID.is_encapsulated)


def _segment_problems(seg: Dataset) -> Iterator[Problem]:
    numbers = [int(item.get("SegmentNumber", 0)) for item in seg.SegmentSequence]
    if len(set(numbers)) != len(numbers):
        yield error("SegmentSequence", f"numbers a segment twice: {numbers}")
    elif seg.SOPClassUID != _LABELMAP and numbers != list(range(1, len(numbers) + 1)):
        yield error("SegmentSequence", f"is numbered {numbers}, not 1, 2, 3 ... (C.8.20.2.4)")
    for number, item in zip(numbers, seg.SegmentSequence, strict=True):
        where = f"segment {number}: "
        yield from absent(item, ("SegmentLabel", "SegmentAlgorithmType"), where)
        yield from incomplete_code(item, "SegmentedPropertyCategoryCodeSequence", where)
        yield from incomplete_code(item, "SegmentedPropertyTypeCodeSequence", where)
        if item.get("SegmentAlgorithmType") in ("AUTOMATIC", "SEMIAUTOMATIC"):
            yield from absent(item, ("SegmentAlgorithmName",), where)
        tracked = [keyword for keyword in ("TrackingID", "TrackingUID") if item.get(keyword)]
        if len(tracked) == 1:
            yield error(
                f"{where}{tracked[0]}", "comes without its other half: Tracking ID and UID belong together"
            )
        elif not tracked:
            yield warning(f"{where}TrackingUID", "is missing: measurements can not be linked to the segment")


def _frame_problems(seg: Dataset) -> Iterator[Problem]:
    shared = seg.SharedFunctionalGroupsSequence[0]
    yield from _geometry_problems(seg, shared)
    numbers = {int(item.get("SegmentNumber", 0)) for item in seg.SegmentSequence}
    listed = _listed_instances(seg)
    indices = len(seg.get("DimensionIndexSequence") or [])
    seen: dict[tuple[int, tuple[float, ...]], int] = {}
    unlisted = 0
    for index, frame in enumerate(seg.PerFrameFunctionalGroupsSequence, 1):
        where = f"frame {index}: "
        number = _segment_of(frame, shared)
        if seg.SOPClassUID == _LABELMAP:
            number = 0
        elif number not in numbers:
            yield error(f"{where}ReferencedSegmentNumber", f"is {number}, which no segment has")
        position = _position_of(frame, shared)
        if position is None:
            yield error(f"{where}ImagePositionPatient", "is missing or is not three numbers")
        elif (first := seen.setdefault((number or 0, position), index)) != index:
            yield error(
                f"{where}ImagePositionPatient", f"is where frame {first} of the same segment already lies"
            )
        content = _item(frame, "FrameContentSequence")
        if content is not None and len(_values(content.get("DimensionIndexValues"))) != indices:
            yield error(
                f"{where}DimensionIndexValues", f"are not {indices}, as the Dimension Index Sequence has"
            )
        unlisted += sum(uid not in listed for uid in _source_uids(frame))
    yield from _reference_problems(seg, listed, unlisted)
    if seg.SOPClassUID != _LABELMAP:
        for number in sorted(numbers - {number for number, _ in seen}):
            yield warning(f"segment {number}", "has no frame: nothing of it was found")


def _geometry_problems(seg: Dataset, shared: Dataset) -> Iterator[Problem]:
    for group in {id(g): g for g in (shared, seg.PerFrameFunctionalGroupsSequence[0])}.values():
        orientation = _item(group, "PlaneOrientationSequence")
        if orientation is not None and not _orthonormal(orientation.get("ImageOrientationPatient")):
            yield error("ImageOrientationPatient", "is not two unit vectors at right angles")
        measures = _item(group, "PixelMeasuresSequence")
        if measures is not None and not all(
            v > 0 for v in _numbers(measures.get("PixelSpacing"), 2) or (0.0,)
        ):
            yield error("PixelSpacing", "is not two positive numbers")
    for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence"):
        if keyword not in shared and keyword not in seg.PerFrameFunctionalGroupsSequence[0]:
            yield error(keyword, "is missing, both shared and per frame")


def _reference_problems(seg: Dataset, listed: set[str], unlisted: int) -> Iterator[Problem]:
    if not listed:
        text = "is missing: viewers can not find the images that belong to it"
        yield (
            error("ReferencedSeriesSequence", text) if unlisted else warning("ReferencedSeriesSequence", text)
        )
    elif unlisted:
        yield error(
            "ReferencedSeriesSequence", f"does not list {unlisted} images that frames were derived from"
        )


def _listed_instances(seg: Dataset) -> set[str]:
    return {
        str(item.get("ReferencedSOPInstanceUID"))
        for series in seg.get("ReferencedSeriesSequence") or []
        if series.get("SeriesInstanceUID")
        for item in series.get("ReferencedInstanceSequence") or []
    }


def _item(group: Dataset, keyword: str) -> Dataset | None:
    items: Sequence[Dataset] = group.get(keyword) or []
    return items[0] if items else None


def _segment_of(frame: Dataset, shared: Dataset) -> int | None:
    keyword = "SegmentIdentificationSequence"
    item = _item(frame, keyword) or _item(shared, keyword)
    return None if item is None else int(item.get("ReferencedSegmentNumber") or 0)


def _position_of(frame: Dataset, shared: Dataset) -> tuple[float, ...] | None:
    item = _item(frame, "PlanePositionSequence") or _item(shared, "PlanePositionSequence")
    return None if item is None else _numbers(item.get("ImagePositionPatient"), 3)


def _source_uids(frame: Dataset) -> Iterator[str]:
    for derivation in frame.get("DerivationImageSequence") or []:
        for source in derivation.get("SourceImageSequence") or []:
            yield str(source.get("ReferencedSOPInstanceUID"))


def _values(value: Any) -> Sequence[Any]:
    return (
        []
        if value is None
        else value
        if hasattr(value, "__len__") and not isinstance(value, str)
        else [value]
    )


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
