"""Findings as a Comprehensive 3D SR (PS3.3, A.35.13) after TID 1500 Measurement Report (PS3.16)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    Comprehensive3DSR,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    LanguageOfContentItemAndDescendants,
    RelationshipTypeValues,
    TextContentItem,
)
from pydicom.dataset import Dataset

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Code, Findings, Segment
from isocenter_operators.dicom.header import DISCLAIMER, PATIENT_AND_STUDY, stamp
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.image_library import add_entries, image_library
from isocenter_operators.dicom.results.observer import device_observer
from isocenter_operators.dicom.results.sr_groups import Grouping, algorithm_identification, comment, concept
from isocenter_operators.dicom.schemes import declare_schemes
from isocenter_operators.dicom.series.frame import Frame, instances_of
from isocenter_operators.dicom.tracking import group_tracking
from isocenter_operators.errors import InvalidResult

__all__ = ["measurement_report"]

_TITLE = Code("126000", "DCM", "Imaging Measurement Report")  # CID 7021
_MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")
_PROCEDURE_REPORTED = Code("121058", "DCM", "Procedure Reported")
_ENGLISH = Code("en-US", "RFC5646", "English (United States)")
# What says that the algorithm has run and what it looks for is not there (CID 6047).
_SUMMARY = Code("111017", "DCM", "CAD Processing and Findings Summary")
_WITHOUT_FINDINGS = Code("111241", "DCM", "All algorithms succeeded; without findings")
_CONCLUSION = Code("121077", "DCM", "Conclusion")
_PROCEDURES = {  # CID 100 Quantitative Diagnostic Imaging Procedures
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    "MR": Code("25056-3", "LN", "MRI unspecified body region"),
}
_MOST_REFERENCES = (
    1000  # by groups about the images as a whole: 18 answers about 300 slices would be a megabyte of them
)
# Basic Text, Enhanced, Comprehensive and Comprehensive 3D SR
_DOCUMENTS = {f"1.2.840.10008.5.1.4.1.1.88.{kind}" for kind in ("11", "22", "33", "34")}


def measurement_report(
    *,
    findings: Findings,
    frames: Sequence[Frame],
    algorithm: Algorithm,
    identity: JobIdentity,
    seg: Dataset | None = None,
    segments: Sequence[Segment] = (),
    priors: Sequence[Dataset] = (),
    predecessors: Sequence[Mapping[str, str]] = (),
    series_number: int = 9002,
    series_description: str | None = None,
    disclaimer: str = DISCLAIMER,
) -> Comprehensive3DSR:
    """A TID 1500 report: one measurement group for each group of the findings (see `sr_groups`).

    A number that is not one (NaN) is left out and a comment of its group says so: PS3.3 has an empty value with a
    qualifier for it (CID 42), at which readers such as highdicom fail for the whole report.

    Findings without a group say that nothing was found: the report then has no measurements but a qualitative
    evaluation (TID 1500, row 12) that all algorithms succeeded without findings, with the notes as its conclusion.

    Parameters
    ----------
    frames
        The image planes that the report is about, in the order of Z; their pixels are not needed.
    seg, segments
        The segmentation that the groups' segment numbers are of, and what they stand for.
    priors
        Instances of earlier studies that these images were compared with; no pixels are needed.
    predecessors
        What this report replaces: per instance its `sop_class_uid`, `sop_instance_uid`, `series_uid` and `study_uid`.
        Those that are reports are named as its predecessors (PS3.3, C.17.2).

    Raises InvalidResult where there is nothing to report, not even in words, a group names a segment that `seg` does
    not have, or a region lies outside of the images; InputError where coordinates have no frame of reference.
    """
    if not findings.groups and not findings.notes:
        raise InvalidResult(
            "there is nothing to report; where nothing was found, the notes have to say what was looked for"
        )
    sources = instances_of(frames)
    whole = sum(not group.segment_numbers and group.region is None for group in findings.groups)
    grouping = Grouping(
        tuple(frames),
        algorithm,
        seg,
        tuple(segments),
        names_images=whole * len(sources) <= _MOST_REFERENCES,
    )
    description = series_description or f"{algorithm.name} measurements"
    result = Comprehensive3DSR(
        evidence=[*_references([*sources, *([] if seg is None else [seg]), *priors])],
        content=_root(
            sources[0],
            [
                image_library(frames, priors),
                *_results(findings, grouping, identity),
                comment(disclaimer),
            ],
            algorithm,
        ),
        series_instance_uid=identity.uid("sr.series"),
        series_number=series_number,
        sop_instance_uid=identity.uid("sr"),
        instance_number=1,
        manufacturer=algorithm.manufacturer,
        is_complete=True,
        previous_versions=_documents(predecessors) or None,
        series_description=description[:64],
    )
    add_entries(result, frames, priors)
    declare_schemes(result)
    stamp(
        result,
        source=sources[0],
        algorithm=algorithm,
        identity=identity,
        disclaimer=disclaimer,
        texts=[description, *_texts(findings)],
    )
    return result


def _root(source: Dataset, content: Iterable[ContentItem], algorithm: Algorithm) -> ContainerContentItem:
    root = ContainerContentItem(concept(_TITLE), template_id="1500")
    procedure = _PROCEDURES.get(str(source.get("Modality")), codes.IMAGING_PROCEDURE)
    root.ContentSequence = ContentSequence(
        [
            *LanguageOfContentItemAndDescendants(concept(_ENGLISH)),
            *device_observer(algorithm),
            CodeContentItem(
                concept(_PROCEDURE_REPORTED), concept(procedure), RelationshipTypeValues.HAS_CONCEPT_MOD
            ),
            *content,
        ]
    )
    return root


def _results(findings: Findings, grouping: Grouping, identity: JobIdentity) -> Iterator[ContentItem]:
    if not findings.groups:
        yield _nothing_found(findings.notes, grouping.algorithm)
        return
    measurements = _container(_MEASUREMENTS)
    for place, group in enumerate(findings.groups):
        tracking = group_tracking(group, place, grouping.algorithm, identity)
        measurements.ContentSequence.extend(grouping.group(group, tracking))
    yield measurements
    for note in findings.notes:
        yield comment(note)


def _nothing_found(notes: Sequence[str], algorithm: Algorithm) -> ContainerContentItem:
    contains = RelationshipTypeValues.CONTAINS
    evaluations = _container(_EVALUATIONS)
    evaluations.ContentSequence.extend(algorithm_identification(algorithm))
    evaluations.ContentSequence.append(
        CodeContentItem(concept(_SUMMARY), concept(_WITHOUT_FINDINGS), contains)
    )
    evaluations.ContentSequence.extend(
        TextContentItem(concept(_CONCLUSION), note, contains) for note in notes
    )
    return evaluations


def _container(name: Code) -> ContainerContentItem:
    container = ContainerContentItem(CodedConcept(*name), relationship_type=RelationshipTypeValues.CONTAINS)
    container.ContentSequence = ContentSequence()
    return container


def _references(instances: Iterable[Dataset]) -> Iterator[Dataset]:
    """What a reference to each instance needs; of the first highdicom wants a patient too, whom `stamp` writes."""
    for place, instance in enumerate(instances):
        reference = Dataset()
        for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
            setattr(reference, keyword, str(instance[keyword].value))
        for keyword in PATIENT_AND_STUDY if place == 0 else ():
            setattr(reference, keyword, None)
        yield reference


def _documents(results: Iterable[Mapping[str, str]]) -> list[Dataset]:
    documents = []
    for result in results:
        if result["sop_class_uid"] in _DOCUMENTS:
            document = Dataset()
            document.SOPClassUID = result["sop_class_uid"]
            document.SOPInstanceUID = result["sop_instance_uid"]
            document.SeriesInstanceUID = result["series_uid"]
            document.StudyInstanceUID = result["study_uid"]
            documents.append(document)
    return documents


def _texts(findings: Findings) -> Iterator[str]:
    """All words of ours, for the character set."""
    yield from findings.notes
    for group in findings.groups:
        yield from (group.label, *group.notes)
        named = [group.finding, group.site, group.laterality]
        for measurement in group.measurements:
            named += [measurement.concept, measurement.unit, measurement.derivation]
        for evaluation in group.evaluations:
            named += [evaluation.concept, evaluation.value]
        yield from (code.meaning for code in named if code is not None)
        yield from (measurement.name for measurement in group.measurements)
