"""The findings in plain sentences: a Basic Text SR (PS3.3, A.35.1) after TID 2000 Basic Diagnostic Imaging Report.

It says what the numbers are, of which images, made by what, and what limits them. It judges nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from highdicom import SOPClass
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Code, Findings, MeasurementGroup
from isocenter_operators.dicom.header import DISCLAIMER, coded, referenced, stamp
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.key_frames import Planes
from isocenter_operators.dicom.results.observer import device_observer
from isocenter_operators.dicom.results.wording import (
    conclusion,
    described_images,
    group_heading,
    group_sentences,
    image_number,
    made_by,
)
from isocenter_operators.dicom.series.frame import Frame, instances_of
from isocenter_operators.errors import InvalidResult

__all__ = ["report_title", "text_report"]

_BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
_TITLES = {  # CID 7000
    "CT": Code("25045-6", "LN", "CT Report"),
    "MR": Code("25056-3", "LN", "MRI Report"),
    "PT": Code("44136-0", "LN", "PET Scan Report"),
}
_TITLE = Code("18748-4", "LN", "Diagnostic Imaging Report")  # CID 7000
_LANGUAGE = Code("121049", "DCM", "Language of Content Item and Descendants")  # TID 1204
_ENGLISH = Code("en", "RFC5646", "English")  # CID 5000
# Headings: CID 7001. Elements: CID 7002, which TID 2002 has as a baseline; a comment is none of its elements.
_PROCEDURE = Code("55111-9", "LN", "Current Procedure Descriptions")
_FINDINGS = Code("59776-5", "LN", "Findings")
_CONCLUSIONS = Code("55110-1", "LN", "Conclusions")
_DESCRIPTION = Code("121065", "DCM", "Procedure Description")
_FINDING = Code("121071", "DCM", "Finding")
_CONCLUSION = Code("121077", "DCM", "Conclusion")
_SOURCE = Code("121112", "DCM", "Source of Measurement")  # CID 7003


def text_report(
    *,
    findings: Findings,
    frames: Sequence[Frame],
    algorithm: Algorithm,
    identity: JobIdentity,
    series_number: int = 9004,
    series_description: str | None = None,
    disclaimer: str = DISCLAIMER,
) -> SOPClass:
    """The report in English: three headings, under each of them whole sentences.

    Where there are no findings, it says that nothing was found. A group with a region points at the image nearest to
    it.

    Raises InvalidResult where there are no frames, GeometryError where a region lies outside of them.
    """
    if not frames:
        raise InvalidResult("a report has to be about images")
    header = frames[0].instance
    description = (series_description or f"{algorithm.name} report")[:64]
    report = SOPClass(
        study_instance_uid=str(header.StudyInstanceUID),
        series_instance_uid=identity.uid("text.series"),
        series_number=series_number,
        sop_instance_uid=identity.uid("text"),
        sop_class_uid=_BASIC_TEXT_SR,
        instance_number=1,
        modality="SR",
        manufacturer=algorithm.manufacturer,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=description,
    )
    # SR Document General (PS3.3, C.17.2)
    report.CompletionFlag, report.VerificationFlag = "COMPLETE", "UNVERIFIED"
    report.PerformedProcedureCodeSequence = []
    report.ReferencedPerformedProcedureStepSequence = []
    report.CurrentRequestedProcedureEvidenceSequence = [_evidence(frames)]
    # SR Document Content (C.17.3)
    report.ValueType, report.ContinuityOfContent = "CONTAINER", "SEPARATE"
    report.ConceptNameCodeSequence = [coded(report_title(frames))]
    report.ContentTemplateSequence = [_template("2000")]
    sections = list(_sections(findings, frames, algorithm, disclaimer))
    report.ContentSequence = [_language(), *device_observer(algorithm), *sections]
    stamp(
        report,
        source=header,
        algorithm=algorithm,
        identity=identity,
        disclaimer=disclaimer,
        texts=[description, *(item.TextValue for each in sections for item in _texts(each))],
    )
    return report


def report_title(frames: Sequence[Frame]) -> Code:
    """The title of a report on images of this modality (PS3.16, CID 7000)."""
    return _TITLES.get(str(frames[0].instance.get("Modality", "")), _TITLE)


def _sections(
    findings: Findings, frames: Sequence[Frame], algorithm: Algorithm, disclaimer: str
) -> Iterator[Dataset]:
    """TID 2000, row 8, each with a narrative of TID 2002."""
    first = {frame.series_uid: Frame(frame.instance) for frame in reversed(frames)}  # the evidence names all
    yield _section(
        _PROCEDURE,
        [
            _text(_DESCRIPTION, made_by(algorithm)),
            _text(_DESCRIPTION, f"Images: {described_images(frames)}."),
            *(_image(frame, "CONTAINS") for frame in reversed(first.values())),
        ],
    )
    planes = Planes(frames) if any(group.region is not None for group in findings.groups) else None
    found = [_finding(group, planes) for group in findings.groups]
    yield _section(_FINDINGS, found or [_text(_FINDING, "Nothing was found.")])
    notes = (f"{note[:1].upper()}{note[1:]}".rstrip(".") + "." for note in findings.notes)
    yield _section(
        _CONCLUSIONS,
        [
            _text(_CONCLUSION, conclusion(findings, algorithm)),
            *(_text(codes.COMMENT, text) for text in (*notes, f"{disclaimer.rstrip('.')}.")),
        ],
    )


def _finding(group: MeasurementGroup, planes: Planes | None) -> Dataset:
    sentences = list(group_sentences(group))
    where = planes.nearest(group.region) if planes is not None and group.region is not None else None
    if where is not None:
        sentences.append(f"It lies at {image_number(where)}.")
    item = _text(_FINDING, f"{group_heading(group)}: {' '.join(sentences)}")
    if where is not None:
        item.ContentSequence = [_image(where, "INFERRED FROM")]
    return item


def _section(heading: Code, items: Iterable[Dataset]) -> Dataset:
    section = _item("CONTAINER", heading)
    section.ContinuityOfContent = "SEPARATE"
    section.ContentSequence = list(items)
    return section


def _text(concept: Code, value: str) -> Dataset:
    item = _item("TEXT", concept)
    item.TextValue = value
    return item


def _image(frame: Frame, relationship: str) -> Dataset:
    item = _item("IMAGE", _SOURCE, relationship)
    item.ReferencedSOPSequence = referenced([frame])
    return item


def _language() -> Dataset:
    item = _item("CODE", _LANGUAGE, "HAS CONCEPT MOD")
    item.ConceptCodeSequence = [coded(_ENGLISH)]
    return item


def _item(value_type: str, concept: Code, relationship: str = "CONTAINS") -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType = relationship, value_type
    item.ConceptNameCodeSequence = [coded(concept)]
    return item


def _template(identifier: str) -> Dataset:
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", identifier
    return template


def _evidence(frames: Sequence[Frame]) -> Dataset:
    """Hierarchical SOP Instance Reference Macro (C.17.2.1): every image."""
    by_series: dict[str, list[Dataset]] = {}
    for instance in instances_of(frames):
        reference = Dataset()
        reference.ReferencedSOPClassUID = str(instance.SOPClassUID)
        reference.ReferencedSOPInstanceUID = str(instance.SOPInstanceUID)
        by_series.setdefault(str(instance.SeriesInstanceUID), []).append(reference)
    study = Dataset()
    study.StudyInstanceUID = str(frames[0].instance.StudyInstanceUID)
    study.ReferencedSeriesSequence = []
    for series_uid, references in by_series.items():
        series = Dataset()
        series.ReferencedSOPSequence, series.SeriesInstanceUID = references, series_uid
        study.ReferencedSeriesSequence.append(series)
    return study


def _texts(section: Dataset) -> Iterator[Dataset]:
    return (item for item in section.ContentSequence if item.ValueType == "TEXT")
