"""Do the references of an object lead where it says, as far as the other objects are here?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from isocenter_operators.dicom.person_name import same_name
from isocenter_operators.dicom.rules.problem import Problem, error, warning
from isocenter_operators.dicom.series.part10 import tag_of
from isocenter_operators.dicom.value import value_of

__all__ = ["link_problems"]

_SAID = tuple(
    tag_of(keyword)
    for keyword in (
        *("StudyInstanceUID", "SeriesInstanceUID", "ReferencedSOPInstanceUID", "ReferencedSOPClassUID"),
        *("ReferencedFrameNumber", "ReferencedSegmentNumber"),
    )
)
_STUDY, _SERIES, _REFERENCED, _CLASS, _FRAMES, _SEGMENTS = _SAID
# Two tags that are not one object are compared by pydicom's own code: in a set only once.
_SAYING = frozenset(_SAID)
_REFERENCED_SEGMENT, _TRACKING_UID = "121191", "112040"


@dataclass(frozen=True)
class _Reference:
    """What an item says of the instance that it refers to; `study` and `series` where the items around it name them."""

    uid: str
    study: str | None
    series: str | None
    sop_class: str | None
    frames: tuple[int, ...]
    segments: tuple[int, ...]


def link_problems(result: Dataset, others: Mapping[str, Dataset]) -> Iterator[Problem]:
    """Each reference of `result` against the other objects (by SOP Instance UID).

    What is not among them is told only where other instances of its series are.
    """
    references = dict.fromkeys(_references(result))
    missing = _missing(result, references, others)
    if missing:
        text = f"are made to {len(missing)} instances that are not among the given ones of their series"
        yield warning("references", text)
    told = dict.fromkeys(
        _name_problems(result, [others[each.uid] for each in references if each.uid in others])
    )
    for each in references:
        if each.uid in others:
            told |= dict.fromkeys(_reference_problems(result, each, others[each.uid]))
    yield from told
    yield from _tracking_problems(result, others)


def _missing(result: Dataset, references: Iterable[_Reference], others: Mapping[str, Dataset]) -> set[str]:
    """What is referred to and not here, although other instances of its series are."""
    series_of = {each.uid: each.series for each in references if each.series}
    away = {
        each.uid: series_of[each.uid]
        for each in references
        if each.uid in series_of and each.uid not in others and each.uid != result.get("SOPInstanceUID")
    }
    if not away:
        return set()
    series_here = {str(other.get("SeriesInstanceUID")) for other in others.values() if other is not result}
    return {uid for uid, series in away.items() if series in series_here}


def _reference_problems(result: Dataset, reference: _Reference, other: Dataset) -> Iterator[Problem]:
    if reference.sop_class != value_of(other, "SOPClassUID"):
        yield error("ReferencedSOPClassUID", "is not what the instance is that is referred to")
    if reference.series not in (None, str(value_of(other, "SeriesInstanceUID"))):
        yield error("SeriesInstanceUID", "is not that of the instance that is referred to")
    if reference.study not in (None, str(value_of(other, "StudyInstanceUID"))):
        yield error("StudyInstanceUID", "is not that of the instance that is referred to")
    if value_of(result, "PatientID") != value_of(other, "PatientID"):
        yield error("PatientID", "is not that of the instance that is referred to")
    frames = int(value_of(other, "NumberOfFrames") or 1)
    if any(not 1 <= number <= frames for number in reference.frames):
        yield error("ReferencedFrameNumber", "names a frame that the instance does not have")
    described = value_of(other, "SegmentSequence")
    if described is not None:
        segments = {int(segment.get("SegmentNumber", -1)) for segment in described}
        if not segments.issuperset(reference.segments):
            yield error("ReferencedSegmentNumber", "names a segment that the instance does not have")


def _name_problems(result: Dataset, referred: Sequence[Dataset]) -> Iterator[Problem]:
    """Systems of one study may write one patient's name in two ways; that of none of them is another's."""
    said = (value_of(other, "PatientName") for other in referred)
    names = dict.fromkeys(None if name is None else str(name) for name in said)
    same = [same_name(result.get("PatientName"), name) for name in names]
    if same and not any(same):
        yield error("PatientName", "is not that of the instance that is referred to")
    elif not all(same):
        yield warning("PatientName", "is not that of all the instances that are referred to")


def _tracking_problems(report: Dataset, others: Mapping[str, Dataset]) -> Iterator[Problem]:
    """What is measured of one segment is tracked under the segment's own UID (PS3.16, TID 1411)."""
    for group in _groups(report):
        items = list(group.get("ContentSequence") or [])
        referenced = [
            reference
            for item in items
            if _concept(item) == _REFERENCED_SEGMENT
            for reference in item.get("ReferencedSOPSequence") or []
        ]
        tracked = [str(item.get("UID")) for item in items if _concept(item) == _TRACKING_UID]
        if len(referenced) != 1 or not tracked:
            continue
        seg = others.get(str(referenced[0].get("ReferencedSOPInstanceUID")))
        numbers = _numbers(referenced[0].get("ReferencedSegmentNumber"))
        if seg is None or len(numbers) != 1:
            continue
        for segment in seg.get("SegmentSequence") or []:
            if segment.get("SegmentNumber") == numbers[0] and segment.get("TrackingUID") not in (
                None,
                *tracked,
            ):
                text = f"is not that of segment {numbers[0]}, which the group is about"
                yield warning("Tracking Unique Identifier", text)


def _groups(item: Dataset) -> Iterator[Dataset]:
    for child in item.get("ContentSequence") or []:
        if _concept(child) == "125007":
            yield child
        yield from _groups(child)


def _references(result: Dataset) -> Iterator[_Reference]:
    """All of an object, in no meaningful order; once of the items that many frames share, see `with_groups_read`."""
    left: list[tuple[Dataset, str | None, str | None]] = [(result, None, None)]
    read: set[tuple[int, str | None, str | None]] = set()
    while left:
        dataset, study, series = left.pop()
        said: dict[int, Any] = {}
        sequences: list[Any] = []
        for tag, element in list(dataset.items()):
            if element.VR == "SQ":
                sequences.append(dataset[tag].value if isinstance(element, RawDataElement) else element.value)
            elif tag in _SAYING:
                said[tag] = dataset[tag].value
        if dataset is not result:  # of the object itself these say where it is, not what it refers to
            study = str(said[_STUDY]) if _STUDY in said else study
            series = str(said[_SERIES]) if _SERIES in said else series
        if _REFERENCED in said:
            numbers = [tuple(_numbers(said.get(tag))) for tag in (_FRAMES, _SEGMENTS)]
            yield _Reference(str(said[_REFERENCED]), study, series, said.get(_CLASS), *numbers)
        for items in sequences:
            if (id(items), study, series) not in read:
                read.add((id(items), study, series))
                left.extend((item, study, series) for item in items)


def _numbers(value: Any) -> list[int]:
    return [] if value is None else [int(number) for number in np.atleast_1d(value)]


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence") or [Dataset()]
    return str(names[0].get("CodeValue", ""))
