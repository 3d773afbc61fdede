"""Does a measurement report have the structure of TID 1500 and the templates in it (PS3.16, Annex A)?

Checked are the rows that are mandatory, and of the rows that are there the value type, the relationship and how often.
The templates may be extended (PS3.16, 6.1): what they do not have is not judged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pydicom.dataset import Dataset

from isocenter_operators.dicom.meanings import code_value
from isocenter_operators.dicom.rules.problem import Problem, error, warning
from isocenter_operators.dicom.value import value_of

__all__ = ["measurement_report_problems"]

_Concept = tuple[str, str]  # (scheme, value)


class _Row(NamedTuple):
    """A row of a template: what an item with this concept name has to be."""

    concept: _Concept
    name: str
    value_types: tuple[str, ...]
    relationship: str
    several: bool = False


def _dcm(value: str) -> _Concept:
    return "DCM", value


_LIBRARY, _LIBRARY_GROUP = _dcm("111028"), _dcm("126200")
_MEASUREMENTS, _DERIVED, _EVALUATIONS = _dcm("126010"), _dcm("126011"), ("UMLS", "C0034375")
_GROUP = _dcm("125007")
_TRACKING_ID, _TRACKING_UID = _dcm("112039"), _dcm("112040")
_REGION, _SEGMENT, _SEGMENTATION_FRAME = _dcm("111030"), _dcm("121191"), _dcm("121214")
_SURFACE, _SOURCE_SERIES, _SOURCE_IMAGE = _dcm("121231"), _dcm("121232"), _dcm("121233")
_IN_SPACE = _dcm("130488")  # Region in Space
_ALGORITHM_NAME, _ALGORITHM_PARAMETERS, _ALGORITHM_VERSION = _dcm("111001"), _dcm("111002"), _dcm("111003")
_FINDING_SITE, _LATERALITY = ("SCT", "363698007"), ("SCT", "272741003")
_SOURCES = {*map(_dcm, ("121112", "121113")), ("SCT", "260753009")}

_ROOT = (  # TID 1500
    _Row(_dcm("121049"), "Language of Content Item and Descendants", ("CODE",), "HAS CONCEPT MOD"),
    _Row(_dcm("121058"), "Procedure reported", ("CODE",), "HAS CONCEPT MOD", several=True),
    _Row(_LIBRARY, "Image Library", ("CONTAINER",), "CONTAINS"),
    _Row(_MEASUREMENTS, "Imaging Measurements", ("CONTAINER",), "CONTAINS"),
    _Row(_DERIVED, "Derived Imaging Measurements", ("CONTAINER",), "CONTAINS"),
    _Row(_EVALUATIONS, "Qualitative Evaluations", ("CONTAINER",), "CONTAINS"),
)
_GROUP_ROWS = (  # TID 1410, 1411 and 1501, and TID 4108, 1419 and 4019 in them
    _Row(_TRACKING_ID, "Tracking Identifier", ("TEXT",), "HAS OBS CONTEXT"),
    _Row(_TRACKING_UID, "Tracking Unique Identifier", ("UIDREF",), "HAS OBS CONTEXT"),
    _Row(_dcm("121071"), "Finding", ("CODE",), "CONTAINS"),
    _Row(_FINDING_SITE, "Finding Site", ("CODE",), "HAS CONCEPT MOD", several=True),
    _Row(_REGION, "Image Region", ("SCOORD", "SCOORD3D"), "CONTAINS", several=True),
    _Row(_SEGMENT, "Referenced Segment", ("IMAGE",), "CONTAINS", several=True),
    _Row(_SEGMENTATION_FRAME, "Referenced Segmentation Frame", ("IMAGE",), "CONTAINS", several=True),
    _Row(_SURFACE, "Volume Surface", ("SCOORD3D",), "CONTAINS", several=True),  # one outline each
    _Row(_SOURCE_SERIES, "Source series for segmentation", ("UIDREF",), "CONTAINS"),
    _Row(_SOURCE_IMAGE, "Source image for segmentation", ("IMAGE",), "CONTAINS", several=True),
    _Row(_ALGORITHM_NAME, "Algorithm Name", ("TEXT",), "HAS CONCEPT MOD"),
    _Row(_ALGORITHM_VERSION, "Algorithm Version", ("TEXT",), "HAS CONCEPT MOD"),
    _Row(_ALGORITHM_PARAMETERS, "Algorithm Parameters", ("TEXT",), "HAS CONCEPT MOD", several=True),
)
_SITE_ROWS = (_Row(_LATERALITY, "Laterality", ("CODE",), "HAS CONCEPT MOD"),)


def measurement_report_problems(report: Dataset) -> Iterator[Problem]:
    """What a document that names TID 1500 does not have as TID 1500 asks for."""
    items = _children(report)
    concepts = {_concept(item) for item in items}
    yield from _row_problems(items, _ROOT, "")
    if not any(item.get("RelationshipType") == "HAS OBS CONTEXT" for item in items):
        yield error("Observation Context", "does not say who or what observed (TID 1500 row 3, TID 1001)")
    if _dcm("121058") not in concepts:
        yield error("Procedure reported", "is missing (TID 1500 row 4)")
    if not concepts & {_MEASUREMENTS, _DERIVED, _EVALUATIONS}:
        yield error("Imaging Measurements", "are missing, as are Qualitative Evaluations (TID 1500 row 6)")
    for item in items:
        if _concept(item) == _LIBRARY:
            yield from _library_problems(item)
    yield from _groups_problems(items)


def _library_problems(library: Dataset) -> Iterator[Problem]:
    """TID 1600."""
    groups = [item for item in _children(library) if _concept(item) == _LIBRARY_GROUP]
    if not groups:
        # Earlier editions of TID 1600 had the images in the library itself.
        yield warning("Image Library", "holds no Image Library Group (TID 1600 row 2)")
    for number, group in enumerate(groups, 1):
        where = f"image library group {number}: "
        if (group.get("ValueType"), group.get("RelationshipType")) != ("CONTAINER", "CONTAINS"):
            yield error(f"{where}ValueType", "or Relationship Type are not CONTAINER and CONTAINS")
        entries = [item for item in _children(group) if item.get("RelationshipType") == "CONTAINS"]
        if not any(entry.get("ValueType") == "IMAGE" for entry in entries):
            yield error(f"{where}images", "are missing (TID 1600 row 4, TID 1601)")
        for item in _children(group):
            if (
                item.get("ValueType") not in ("IMAGE", "CONTAINER")
                and item.get("RelationshipType") == "CONTAINS"
            ):
                text = "holds a description of its images that is not HAS ACQ CONTEXT (TID 1602)"
                yield error(f"{where}RelationshipType", text)


def _groups_problems(items: Sequence[Dataset]) -> Iterator[Problem]:
    groups = [
        (f"measurement group {number}: ", group)
        for container in items
        if _concept(container) == _MEASUREMENTS
        for number, group in enumerate(_children(container), 1)
        if _concept(group) == _GROUP
    ]
    if not groups and not any(_concept(item) == _EVALUATIONS for item in items):
        yield warning("ContentSequence", "holds no measurement group")
    for where, group in groups:
        yield from _group_problems(group, where)


def _group_problems(group: Dataset, where: str) -> Iterator[Problem]:
    items = _children(group)
    concepts = {_concept(item) for item in items}
    if (group.get("ValueType"), group.get("RelationshipType")) != ("CONTAINER", "CONTAINS"):
        yield error(f"{where}ValueType", "or Relationship Type are not CONTAINER and CONTAINS")
    yield from _row_problems(items, _GROUP_ROWS, where)
    if not {_TRACKING_ID, _TRACKING_UID} <= concepts:
        yield error(f"{where}tracking", "has no Tracking Identifier or Tracking Unique Identifier (TID 4108)")
    algorithm = concepts & {_ALGORITHM_NAME, _ALGORITHM_VERSION, _ALGORITHM_PARAMETERS}
    if algorithm and not {_ALGORITHM_NAME, _ALGORITHM_VERSION} <= concepts:
        yield error(f"{where}algorithm", "is not identified by both a name and a version (TID 4019)")
    regions = {_REGION, _SEGMENT, _SEGMENTATION_FRAME, _SURFACE, _IN_SPACE, _SOURCE_IMAGE, _SOURCE_SERIES}
    numbers = [item for item in items if item.get("ValueType") == "NUM"]
    if numbers and not concepts & (regions | _SOURCES) and not _has_sources(numbers):
        yield warning(f"{where}region", "has numbers, but refers to no segment, region or image")
    for item in items:
        if _concept(item) == _FINDING_SITE:
            yield from _row_problems(_children(item), _SITE_ROWS, f"{where}Finding Site: ")
    yield from _template_problems(group, items, where)


def _template_problems(group: Dataset, items: Sequence[Dataset], where: str) -> Iterator[Problem]:
    """What the template that a group names asks for beyond that."""
    template = (group.get("ContentTemplateSequence") or [Dataset()])[0].get("TemplateIdentifier")
    counts = Counter(_concept(item) for item in items)
    for item in items:
        reference = (item.get("ReferencedSOPSequence") or [Dataset()])[0]
        if _concept(item) in (_SEGMENT, _SEGMENTATION_FRAME) and not reference.get("ReferencedSegmentNumber"):
            yield error(f"{where}Referenced Segment", "names no segment number")
    if template == "1410":
        yield from _planar_problems(items, counts, where)
    elif template == "1411":
        yield from _volumetric_problems(counts, where)


def _planar_problems(items: Sequence[Dataset], counts: Counter[_Concept], where: str) -> Iterator[Problem]:
    regions = counts[_REGION] + counts[_SEGMENTATION_FRAME] + counts[_IN_SPACE]
    if regions != 1:
        yield error(f"{where}region", f"stands {regions} times; TID 1410 asks for one planar region")
    for item in items:
        if _concept(item) != _SEGMENTATION_FRAME:
            continue
        reference = (item.get("ReferencedSOPSequence") or [Dataset()])[0]
        if not reference.get("ReferencedFrameNumber"):
            yield error(f"{where}Referenced Segmentation Frame", "names no frame number")
        if not counts[_SOURCE_IMAGE]:
            yield error(f"{where}Source image for segmentation", "is missing (TID 1410)")


def _volumetric_problems(counts: Counter[_Concept], where: str) -> Iterator[Problem]:
    if counts[_SEGMENT] > 1:
        yield error(f"{where}Referenced Segment", f"stands {counts[_SEGMENT]} times; TID 1411 allows one")
    if not counts[_SEGMENT] + counts[_REGION] + counts[_SURFACE] + counts[_IN_SPACE]:
        yield error(f"{where}region", "is missing; TID 1411 asks for a segment, a surface or contours")
    if counts[_SEGMENT] and not counts[_SOURCE_SERIES] + counts[_SOURCE_IMAGE]:
        yield error(f"{where}Source series for segmentation", "is missing, as are source images (TID 1411)")


def _row_problems(items: Sequence[Dataset], rows: Sequence[_Row], where: str) -> Iterator[Problem]:
    counts = Counter(_concept(item) for item in items)
    for row in rows:
        if counts[row.concept] > 1 and not row.several:
            yield error(f"{where}{row.name}", f"stands {counts[row.concept]} times, and may stand once")
        for item in items:
            if _concept(item) != row.concept or "ReferencedContentItemIdentifier" in item:
                continue
            if item.get("ValueType") not in row.value_types:
                yield error(f"{where}{row.name}", f"is not of value type {' or '.join(row.value_types)}")
            if item.get("RelationshipType") != row.relationship:
                yield error(f"{where}{row.name}", f"is not in the relationship {row.relationship}")


def _has_sources(numbers: Sequence[Dataset]) -> bool:
    """Whether each number says itself what it was measured in (TID 320, TID 321)."""
    return all(
        any(
            child.get("RelationshipType") in ("INFERRED FROM", "SELECTED FROM") for child in _children(number)
        )
        for number in numbers
    )


def _children(item: Dataset) -> Sequence[Dataset]:
    return list(value_of(item, "ContentSequence") or [])


def _concept(item: Dataset) -> _Concept:
    names = value_of(item, "ConceptNameCodeSequence") or [Dataset()]
    return code_value(names[0])
