"""Measurements as a Comprehensive 3D SR (PS3.3, A.35.13) after TID 1500 Measurement Report (PS3.16)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from highdicom.sr import (
    AlgorithmIdentification,
    CodeContentItem,
    CodedConcept,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    ImageContentItem,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    NumContentItem,
    ObservationContext,
    ObserverContext,
    ReferencedSegment,
    RelationshipTypeValues,
    SourceSeriesForSegmentation,
    TextContentItem,
    TrackingIdentifier,
    UIDRefContentItem,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from highdicom.sr import Measurement as NumericMeasurement
from pydicom.dataset import Dataset

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Code, Findings, Measurement, MeasurementGroup, Segment
from isocenter_operators.dicom.frame import Frame, instances_of
from isocenter_operators.dicom.header import DISCLAIMER, plane_of, stamp
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.tracking import group_tracking
from isocenter_operators.errors import InvalidResult

__all__ = ["measurement_report"]

_SEG_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}
_PROCEDURES = {  # CID 100 Quantitative Diagnostic Imaging Procedures
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    "MR": Code("25056-3", "LN", "MRI unspecified body region"),
}
_MODALITIES = {  # CID 29 Acquisition Modality
    "CT": Code("CT", "DCM", "Computed Tomography"),
    "MR": Code("MR", "DCM", "Magnetic Resonance"),
    "PT": Code("PT", "DCM", "Positron emission tomography"),
}


def measurement_report(
    *,
    findings: Findings,
    seg: Dataset,
    frames: Sequence[Frame],
    segments: Sequence[Segment],
    algorithm: Algorithm,
    identity: JobIdentity,
    series_number: int = 9002,
    series_description: str | None = None,
    disclaimer: str = DISCLAIMER,
) -> Comprehensive3DSR:
    """A TID 1500 report: one measurement group for each region, each pointing at its segments in `seg`.

    A region of one segment is a TID 1411 group, which points at exactly one. A region of several is a TID 1501 group
    that carries one Referenced Segment (121191) for each of them: TID 1411 allows a single one, TID 1501 is extensible.

    A number that is not one (NaN) is left out and a comment of its group says so: PS3.3 has an empty value with a
    qualifier for it (CID 42), at which readers such as highdicom fail for the whole report.

    Raises InvalidResult where there is nothing to report, or a group names a segment that `seg` does not have.
    """
    _refuse_unreportable(findings, seg, segments)
    plane, sources = plane_of(frames[0]), instances_of(frames)
    description = series_description or f"{algorithm.name} measurements"
    groups = [
        _group(group, seg, plane, algorithm, group_tracking(group, place, algorithm, identity))
        for place, group in enumerate(findings.groups)
    ]
    report = MeasurementReport(
        observation_context=_observer(algorithm),
        procedure_reported=_concept(_PROCEDURES.get(plane.Modality, codes.IMAGING_PROCEDURE)),
        imaging_measurements=groups,
        title=CodedConcept("126000", "DCM", "Imaging Measurement Report"),
    )
    content = report[0].ContentSequence
    content.insert(
        len(content) - 1, _image_library(plane, sources)
    )  # TID 1500: row 5, before the measurements
    content.extend(_comment(text) for text in (*findings.notes, disclaimer))
    result = Comprehensive3DSR(
        evidence=[plane, *(_reference(each) for each in (*sources[1:], seg))],
        content=report[0],
        series_instance_uid=identity.uid("sr.series"),
        series_number=series_number,
        sop_instance_uid=identity.uid("sr"),
        instance_number=1,
        manufacturer=algorithm.manufacturer,
        is_complete=True,
        series_description=description[:64],
    )
    _declare_private_scheme(result, findings)
    stamp(
        result,
        source=sources[0],
        algorithm=algorithm,
        identity=identity,
        disclaimer=disclaimer,
        texts=[description, *_texts(findings)],
    )
    return result


def _refuse_unreportable(findings: Findings, seg: Dataset, segments: Sequence[Segment]) -> None:
    if not findings.groups:
        raise InvalidResult("there are no measurements to report")
    if seg.SOPClassUID not in _SEG_CLASSES:
        raise InvalidResult(f"{seg.SOPInstanceUID} is not a segmentation but {seg.SOPClassUID}")
    known = {int(item.SegmentNumber) for item in seg.SegmentSequence} & {
        segment.number for segment in segments
    }
    for group in findings.groups:
        unknown = set(group.segment_numbers) - known
        if unknown or not group.segment_numbers:
            named = f"segment {min(unknown)}" if unknown else "no segment at all"
            raise InvalidResult(
                f'the measurements of "{group.label}" name {named}; the segmentation has {sorted(known)}'
            )


def _observer(algorithm: Algorithm) -> ObservationContext:
    """TID 1004 Device Observer."""
    device = DeviceObserverIdentifyingAttributes(
        uid=algorithm.device_uid,
        name=algorithm.name,
        manufacturer_name=algorithm.manufacturer,
        model_name=algorithm.name,
        serial_number=algorithm.device_uid,
    )
    device_type = CodedConcept("121007", "DCM", "Device")
    return ObservationContext(observer_device_context=ObserverContext(device_type, device))


def _group(
    group: MeasurementGroup, seg: Dataset, plane: Dataset, algorithm: Algorithm, tracking: tuple[str, str]
) -> MeasurementsAndQualitativeEvaluations | VolumetricROIMeasurementsAndQualitativeEvaluations:
    shared = {
        "tracking_identifier": TrackingIdentifier(identifier=tracking[0], uid=tracking[1]),
        "finding_type": _concept(group.finding),
        "finding_sites": [
            FindingSite(_concept(group.finding), _concept(group.laterality) if group.laterality else None)
        ],
        "algorithm_id": _algorithm_identification(algorithm),
        "measurements": [_measurement(m) for m in group.measurements if math.isfinite(m.value)],
    }
    references = [_referenced_segment(number, seg, plane) for number in group.segment_numbers]
    if len(references) == 1:
        template = VolumetricROIMeasurementsAndQualitativeEvaluations(
            referenced_segment=references[0], **shared
        )
    else:
        template = MeasurementsAndQualitativeEvaluations(**shared)
        template[0].ContentSequence.extend(reference[0] for reference in references)
        template[0].ContentSequence.append(references[0][1])  # the source series, the same for each of them
    template[0].ContentSequence.extend(_comment(text) for text in _comments(group))
    return template


def _referenced_segment(number: int, seg: Dataset, plane: Dataset) -> ReferencedSegment:
    return ReferencedSegment(
        sop_class_uid=str(seg.SOPClassUID),
        sop_instance_uid=str(seg.SOPInstanceUID),
        segment_number=number,
        source_series=SourceSeriesForSegmentation(str(plane.SeriesInstanceUID)),
    )


def _algorithm_identification(algorithm: Algorithm) -> AlgorithmIdentification:
    """TID 4019."""
    return AlgorithmIdentification(
        name=algorithm.name,
        version=algorithm.version,
        parameters=[f"model {name} {version}" for name, version in sorted(algorithm.models.items())] or None,
    )


def _measurement(measurement: Measurement) -> NumericMeasurement:
    """TID 1419 row 5: the number with unit and derivation."""
    return NumericMeasurement(
        name=_concept(measurement.concept),
        value=float(measurement.value),
        unit=_concept(measurement.unit),
        derivation=_concept(measurement.derivation) if measurement.derivation else None,
    )


def _comments(group: MeasurementGroup) -> Iterable[str]:
    yield from group.notes
    for measurement in group.measurements:
        if not math.isfinite(measurement.value):
            yield f"{measurement.name}: there is no value, nothing could be measured"


def _image_library(first: Dataset, sources: Sequence[Dataset]) -> ContainerContentItem:
    """TID 1600: what all images have in common stands once, for their group (TID 1602, TID 1604)."""
    context = RelationshipTypeValues.HAS_ACQ_CONTEXT
    row_mm, column_mm = first.PixelSpacing
    pixels, millimetre = CodedConcept("{pixels}", "UCUM", "Pixels"), CodedConcept("mm", "UCUM", "millimeter")
    group = _container("126200", "Image Library Group")
    if first.Modality in _MODALITIES:
        modality = CodedConcept("121139", "DCM", "Modality")
        group.ContentSequence.append(
            CodeContentItem(modality, _concept(_MODALITIES[first.Modality]), context)
        )
    frame_of_reference = CodedConcept("112227", "DCM", "Frame of Reference UID")
    group.ContentSequence.append(UIDRefContentItem(frame_of_reference, first.FrameOfReferenceUID, context))
    for value, meaning, number, unit in (
        ("110910", "Pixel Data Rows", int(first.Rows), pixels),
        ("110911", "Pixel Data Columns", int(first.Columns), pixels),
        ("111026", "Horizontal Pixel Spacing", float(column_mm), millimetre),
        ("111066", "Vertical Pixel Spacing", float(row_mm), millimetre),
    ):
        name = CodedConcept(value, "DCM", meaning)
        group.ContentSequence.append(NumContentItem(name, number, unit, relationship_type=context))
    group.ContentSequence.extend(_library_entry(source) for source in sources)
    library = _container("111028", "Image Library")
    library.ContentSequence.append(group)
    return library


def _container(value: str, meaning: str) -> ContainerContentItem:
    container = ContainerContentItem(
        CodedConcept(value, "DCM", meaning), relationship_type=RelationshipTypeValues.CONTAINS
    )
    container.ContentSequence = ContentSequence()
    return container


def _library_entry(source: Dataset) -> ImageContentItem:
    return ImageContentItem(
        name=CodedConcept("260753009", "SCT", "Source"),
        referenced_sop_class_uid=source.SOPClassUID,
        referenced_sop_instance_uid=source.SOPInstanceUID,
        relationship_type=RelationshipTypeValues.CONTAINS,
    )


def _comment(text: str) -> ContentItem:
    return TextContentItem(_concept(codes.COMMENT), text, RelationshipTypeValues.CONTAINS)


def _concept(code: Code) -> CodedConcept:
    return CodedConcept(*code)


def _reference(instance: Dataset) -> Dataset:
    """As much of an instance as a reference to it needs."""
    reference = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(reference, keyword, str(instance[keyword].value))
    return reference


def _texts(findings: Findings) -> Iterable[str]:
    yield from findings.notes
    for group in findings.groups:
        yield from (group.label, *group.notes)
        yield from (measurement.concept.meaning for measurement in group.measurements)


def _declare_private_scheme(result: Dataset, findings: Findings) -> None:
    used = {
        code.scheme
        for group in findings.groups
        for measurement in group.measurements
        for code in (measurement.concept, measurement.unit, measurement.derivation)
        if code is not None
    }
    if codes.PRIVATE_SCHEME in used:
        scheme = Dataset()
        scheme.CodingSchemeDesignator = codes.PRIVATE_SCHEME
        scheme.CodingSchemeName = "Isocenter private codes"
        scheme.CodingSchemeResponsibleOrganization = "Isocenter"
        result.CodingSchemeIdentificationSequence = [scheme]
