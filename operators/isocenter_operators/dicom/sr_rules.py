"""What a measurement report has to fulfil: the SR Document Content (PS3.3, C.17.3) and TID 1500 (PS3.16)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.uid import UID

from isocenter_operators.dicom.problem import Problem, absent, error, incomplete_code, warning

__all__ = ["report_problems"]

_TITLES = {"126000", "126001", "126002", "126003"}  # CID 7021
_GROUP, _MEASUREMENTS = "125007", "126010"
_TRACKING_ID, _TRACKING_UID = "112039", "112040"
_REFERENCED_SEGMENT = "121191"
_REGIONS = {_REFERENCED_SEGMENT, "111030", "121214", "121231", "121112", "121113", "260753009"}
_UCUM = re.compile(r"[!-~]+")  # printable ASCII without blanks (UCUM, 2.1)


def report_problems(report: Dataset) -> Iterator[Problem]:
    """Every problem of one TID 1500 report."""
    missing = list(absent(report, ("ValueType", "ConceptNameCodeSequence", "ContentSequence")))
    yield from missing
    yield from absent(report, ("CompletionFlag", "VerificationFlag"))
    if missing:
        return
    template = (report.get("ContentTemplateSequence") or [Dataset()])[0]
    if template.get("TemplateIdentifier") != "1500" or template.get("MappingResource") != "DCMR":
        yield error("ContentTemplateSequence", "does not name TID 1500 of DCMR")
    if report.ValueType != "CONTAINER" or _concept(report) not in _TITLES:
        yield error("ConceptNameCodeSequence", "is not a title of CID 7021, Imaging Measurement Report")
    yield from _tree_problems(report)
    yield from _evidence_problems(report)
    yield from _measurement_problems(report)


def _tree_problems(report: Dataset) -> Iterator[Problem]:
    for path, item in _walk(report):
        where = f"content item {path}: "
        lacking = list(absent(item, ("ValueType", "RelationshipType"), where))
        yield from lacking
        if lacking or "ReferencedContentItemIdentifier" in item:
            continue
        if item.ValueType not in ("IMAGE", "COMPOSITE", "WAVEFORM"):
            yield from incomplete_code(item, "ConceptNameCodeSequence", where)
        if item.ValueType == "CODE":
            yield from incomplete_code(item, "ConceptCodeSequence", where)
        elif item.ValueType == "NUM":
            yield from _number_problems(item, where)
        elif item.ValueType == "TEXT":
            yield from absent(item, ("TextValue",), where)
        elif item.ValueType == "UIDREF" and not UID(item.get("UID", "")).is_valid:
            yield error(f"{where}UID", "is not a valid UID")


def _number_problems(item: Dataset, where: str) -> Iterator[Problem]:
    values = item.get("MeasuredValueSequence")
    if values is None:
        yield error(f"{where}MeasuredValueSequence", "is missing")
    elif not values:
        if not item.get("NumericValueQualifierCodeSequence"):
            yield error(f"{where}NumericValueQualifierCodeSequence", "does not say why there is no number")
    else:
        try:
            finite = math.isfinite(float(values[0].get("NumericValue")))
        except (TypeError, ValueError):
            finite = False
        if not finite:
            yield error(f"{where}NumericValue", "is not a finite number")
        yield from _unit_problems(values[0], where)


def _unit_problems(value: Dataset, where: str) -> Iterator[Problem]:
    lacking = list(incomplete_code(value, "MeasurementUnitsCodeSequence", where))
    yield from lacking
    if lacking:
        return
    unit = value.MeasurementUnitsCodeSequence[0]
    if unit.get("CodingSchemeDesignator") != "UCUM" or not _UCUM.fullmatch(str(unit.get("CodeValue", ""))):
        yield error(f"{where}MeasurementUnitsCodeSequence", "is not a unit of UCUM")


def _evidence_problems(report: Dataset) -> Iterator[Problem]:
    evidence = {
        str(instance.get("ReferencedSOPInstanceUID"))
        for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in report.get(keyword) or []
        for series in study.get("ReferencedSeriesSequence") or []
        for instance in series.get("ReferencedSOPSequence") or []
    }
    for path, item in _walk(report):
        for reference in item.get("ReferencedSOPSequence") or []:
            if str(reference.get("ReferencedSOPInstanceUID")) not in evidence:
                yield error(f"content item {path}", "refers to an instance that is not in the evidence")


def _measurement_problems(report: Dataset) -> Iterator[Problem]:
    groups = [
        (f"measurement group {number}: ", group)
        for container in report.ContentSequence
        if _concept(container) == _MEASUREMENTS
        for number, group in enumerate(container.get("ContentSequence") or [], 1)
        if _concept(group) == _GROUP
    ]
    if not groups:
        yield warning("ContentSequence", "holds no measurement group")
    for where, group in groups:
        items = list(group.get("ContentSequence") or [])
        concepts = {_concept(item) for item in items}
        if _TRACKING_ID not in concepts or _TRACKING_UID not in concepts:
            yield error(
                f"{where}tracking",
                "has no Tracking Identifier or Tracking Unique Identifier (TID 4108)",
            )
        if not concepts & _REGIONS and any(item.get("ValueType") == "NUM" for item in items):
            yield warning(f"{where}region", "has numbers, but refers to no segment, region or image")
        yield from _segment_reference_problems(group, items, where)


def _segment_reference_problems(group: Dataset, items: list[Dataset], where: str) -> Iterator[Problem]:
    references = [item for item in items if _concept(item) == _REFERENCED_SEGMENT]
    template = (group.get("ContentTemplateSequence") or [Dataset()])[0].get("TemplateIdentifier")
    if template == "1411" and len(references) > 1:
        yield error(f"{where}Referenced Segment", f"stands {len(references)} times; TID 1411 allows one")
    for item in references:
        reference = (item.get("ReferencedSOPSequence") or [Dataset()])[0]
        if not reference.get("ReferencedSegmentNumber"):
            yield error(f"{where}Referenced Segment", "names no segment number")


def _walk(item: Dataset, path: str = "1") -> Iterator[tuple[str, Dataset]]:
    """Every content item below `item`, with its place in the tree as in "1.3.2"."""
    for number, child in enumerate(item.get("ContentSequence") or [], 1):
        yield f"{path}.{number}", child
        yield from _walk(child, f"{path}.{number}")


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence") or [Dataset()]
    return str(names[0].get("CodeValue", ""))
