"""What an SR document has to fulfil (PS3.3, A.35, C.17.3), whatever its template; TID 1500 in detail is `tid_rules`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.uid import UID

from isocenter_operators.dicom.meanings import code_value
from isocenter_operators.dicom.rules.code import in_context_group
from isocenter_operators.dicom.rules.problem import Problem, absent, error, incomplete_code, warning
from isocenter_operators.dicom.rules.tid import measurement_report_problems
from isocenter_operators.dicom.value import value_of

__all__ = ["document_problems", "report_problems", "tree_problems"]

_BASIC_TEXT = "1.2.840.10008.5.1.4.1.1.88.11"
_COMPREHENSIVE_3D = "1.2.840.10008.5.1.4.1.1.88.34"
_BY_VALUE = {"CONTAINS", "HAS OBS CONTEXT", "HAS ACQ CONTEXT", "HAS CONCEPT MOD", "HAS PROPERTIES"}
_RELATIONSHIPS = {*_BY_VALUE, "INFERRED FROM", "SELECTED FROM"}
_TEXT_TYPES = {"TEXT", "CODE", "DATETIME", "DATE", "TIME", "UIDREF", "PNAME", "CONTAINER"}
_VALUE_TYPES = {
    *_TEXT_TYPES,
    "NUM",
    "COMPOSITE",
    "IMAGE",
    "WAVEFORM",
    "SCOORD",
    "SCOORD3D",
    "TCOORD",
    "TABLE",
}
_INSTANCES = {"IMAGE", "COMPOSITE", "WAVEFORM"}
_VALUES = {  # where an item of this type has its value (Table C.17-5)
    "TEXT": "TextValue",
    "DATE": "Date",
    "TIME": "Time",
    "DATETIME": "DateTime",
    "PNAME": "PersonName",
}
_COORDINATES = {"POINT", "MULTIPOINT", "POLYLINE", "POLYGON", "CIRCLE", "ELLIPSE", "ELLIPSOID"}
_UCUM = re.compile(r"[!-~]+")  # printable ASCII without blanks (UCUM, 2.1)
_LATERALITY = ("SCT", "272741003")


def document_problems(document: Dataset) -> Iterator[Problem]:
    """Every problem of one SR document as such: completion, the tree of its content, and its evidence."""
    yield from absent(document, ("CompletionFlag", "VerificationFlag"))
    yield from tree_problems(document)


def tree_problems(document: Dataset) -> Iterator[Problem]:
    """The tree of content items and the evidence of what it refers to; also of a key object selection."""
    missing = list(absent(document, ("ValueType", "ConceptNameCodeSequence", "ContentSequence")))
    yield from missing
    if missing:
        return
    if document.ValueType != "CONTAINER":
        yield error("ValueType", "of the document's root is not CONTAINER")
    yield from incomplete_code(document, "ConceptNameCodeSequence")
    for path, item in _walk(document):
        yield from _item_problems(document, item, f"content item {path}: ")
    yield from _evidence_problems(document)


def report_problems(report: Dataset) -> Iterator[Problem]:
    """Every problem of an Enhanced or Comprehensive SR: in detail where it is a measurement report of TID 1500."""
    found = list(document_problems(report))
    yield from found
    if any(problem.where in ("ValueType", "ConceptNameCodeSequence", "ContentSequence") for problem in found):
        return
    template = (report.get("ContentTemplateSequence") or [Dataset()])[0]
    is_1500 = template.get("TemplateIdentifier") == "1500" and template.get("MappingResource") == "DCMR"
    titled = in_context_group(report.ConceptNameCodeSequence[0], 7021)
    if titled and not is_1500:
        yield error("ContentTemplateSequence", "does not name TID 1500 of DCMR, to which the title belongs")
    elif is_1500 and not titled:
        yield error("ConceptNameCodeSequence", "is not a title of CID 7021, Imaging Measurement Report")
    elif not is_1500:
        yield warning(
            "ContentTemplateSequence", "is not TID 1500; only the tree was checked, not its meaning"
        )
        return
    yield from measurement_report_problems(report)


def _item_problems(document: Dataset, item: Dataset, where: str) -> Iterator[Problem]:
    lacking = list(absent(item, ("RelationshipType",), where))
    if "ReferencedContentItemIdentifier" in item:
        yield from lacking
        return
    lacking += absent(item, ("ValueType",), where)
    yield from lacking
    if lacking:
        return
    kind, relationship = item.ValueType, item.RelationshipType
    if relationship not in _RELATIONSHIPS:
        yield error(f"{where}RelationshipType", "is none of PS3.3, C.17.3.2.4")
    if kind not in _VALUE_TYPES:
        yield error(f"{where}ValueType", "is none of PS3.3, C.17.3.2.1")
        return
    yield from _iod_problems(document, kind, where)
    if kind not in _INSTANCES or "ConceptNameCodeSequence" in item:
        yield from incomplete_code(item, "ConceptNameCodeSequence", where)
    yield from _value_problems(item, where)


def _iod_problems(document: Dataset, kind: str, where: str) -> Iterator[Problem]:
    """What the document's own kind does not allow (PS3.3, A.35.1.3, A.35.3.3, A.35.13.3)."""
    sop_class = document.get("SOPClassUID")
    if sop_class == _BASIC_TEXT and kind not in {*_TEXT_TYPES, *_INSTANCES}:
        yield error(f"{where}ValueType", f"is {kind}, which a Basic Text SR can not hold")
    if kind == "SCOORD3D" and sop_class != _COMPREHENSIVE_3D:
        yield error(f"{where}ValueType", "is SCOORD3D, which only a Comprehensive 3D SR can hold")


def _value_problems(item: Dataset, where: str) -> Iterator[Problem]:
    kind = item.ValueType
    if kind == "CODE":
        lacking = list(incomplete_code(item, "ConceptCodeSequence", where))
        yield from lacking
        if (
            not lacking
            and _concept(item) == _LATERALITY
            and not in_context_group(item.ConceptCodeSequence[0], 244)
        ):
            yield error(f"{where}ConceptCodeSequence", "is not a laterality of CID 244")
    elif kind == "NUM":
        yield from _number_problems(item, where)
    elif kind in _VALUES:
        yield from absent(item, (_VALUES[kind],), where)
    elif kind == "UIDREF":
        if not UID(str(item.get("UID", ""))).is_valid:
            yield error(f"{where}UID", "is not a valid UID")
    elif kind in _INSTANCES:
        yield from _instance_problems(item, where)
    elif kind in ("SCOORD", "SCOORD3D"):
        yield from _coordinate_problems(item, where)


def _instance_problems(item: Dataset, where: str) -> Iterator[Problem]:
    references = item.get("ReferencedSOPSequence") or []
    if len(references) != 1:
        yield error(f"{where}ReferencedSOPSequence", f"holds {len(references)} references, not one")
    for reference in references:
        yield from absent(reference, ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID"), where)


def _coordinate_problems(item: Dataset, where: str) -> Iterator[Problem]:
    """Spatial Coordinates (C.18.6) and 3D Spatial Coordinates (C.18.9)."""
    lacking = list(absent(item, ("GraphicType", "GraphicData"), where))
    yield from lacking
    if item.ValueType == "SCOORD3D":
        yield from absent(item, ("ReferencedFrameOfReferenceUID",), where)
    elif not any(
        child.get("RelationshipType") == "SELECTED FROM" for child in item.get("ContentSequence") or []
    ):
        yield error(f"{where}ContentSequence", "does not say which image the coordinates were selected from")
    if lacking:
        return
    size = 3 if item.ValueType == "SCOORD3D" else 2
    values = item.GraphicData
    count = len(values) if hasattr(values, "__len__") else 1
    if item.GraphicType not in _COORDINATES:
        yield error(f"{where}GraphicType", "is none of PS3.3, C.18.6.1.2 and C.18.9.1.2")
    if count % size or (item.GraphicType == "POINT" and count != size):
        yield error(f"{where}GraphicData", f"has {count} numbers, which are no points of {size} each")
    elif item.GraphicType == "POLYGON" and list(values[:size]) != list(values[-size:]):
        yield error(f"{where}GraphicData", "is not closed: the last point of a polygon is its first")


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
        str(value_of(instance, "ReferencedSOPInstanceUID"))
        for keyword in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in report.get(keyword) or []
        for series in study.get("ReferencedSeriesSequence") or []
        for instance in series.get("ReferencedSOPSequence") or []
    }
    for path, item in _walk(report):
        for reference in value_of(item, "ReferencedSOPSequence") or []:
            if str(value_of(reference, "ReferencedSOPInstanceUID")) not in evidence:
                yield error(f"content item {path}", "refers to an instance that is not in the evidence")


def _walk(item: Dataset, path: str = "1") -> Iterator[tuple[str, Dataset]]:
    """Every content item below `item`, with its place in the tree as in "1.3.2"."""
    for number, child in enumerate(value_of(item, "ContentSequence") or [], 1):
        yield f"{path}.{number}", child
        yield from _walk(child, f"{path}.{number}")


def _concept(item: Dataset) -> tuple[str, str]:
    names = value_of(item, "ConceptNameCodeSequence") or [Dataset()]
    return code_value(names[0])
