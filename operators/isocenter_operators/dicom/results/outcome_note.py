"""A note in the study that says how an application ended there: a Basic Text SR (PS3.3, A.35.1), and its picture.

"Nothing was found" and "it never ran" look the same to a reader: no result. The note tells them apart, in words. It is
no finding and judges no image, and says that first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Literal

import numpy as np
from highdicom import CoordinateSystemNames, PhotometricInterpretationValues, SOPClass
from highdicom.sc import SCImage
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Code
from isocenter_operators.dicom.header import DISCLAIMER, coded, stamp
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.observer import device_observer
from isocenter_operators.dicom.results.rejection import without_equipment
from isocenter_operators.dicom.schemes import declare_schemes
from isocenter_operators.errors import InvalidResult

__all__ = ["Ending", "NoteImages", "NoteSubject", "outcome_identity", "outcome_note", "outcome_picture"]

Ending = Literal["done", "not_applicable", "refused", "failed"]

_BASIC_TEXT_SR = "1.2.840.10008.5.1.4.1.1.88.11"
_SERIES_NUMBER, _PICTURE_SERIES_NUMBER = 9011, 9013
# CID 7000 has titles of reports on images alone, which this is not, and the IOD asks for no template.
_TITLE = Code("121174", "DCM", "Procedure Note")
_SUMMARY = Code("121111", "DCM", "Summary")
_SERIES = Code("113015", "DCM", "Series")
_ENDED = Code("111527", "DCM", "DateTime Ended")
_NAME, _VERSION = Code("111001", "DCM", "Algorithm Name"), Code("111003", "DCM", "Algorithm Version")
# What the standard has no concept for. (Recommendation, 121075, is a radiologist's.)
_OUTCOME = Code("OUTCOME", codes.PRIVATE_SCHEME, "Outcome of the application")
_REASON = Code("REASON", codes.PRIVATE_SCHEME, "Reason for the outcome")
_TO_DO = Code("TO_DO", codes.PRIVATE_SCHEME, "What to do")
_SOURCE = Code("260753009", "SCT", "Source")
_RESULT = Code("RESULT", codes.PRIVATE_SCHEME, "Result of the application")
_ENDINGS: Mapping[Ending, Code] = {
    "done": Code("DONE", codes.PRIVATE_SCHEME, "Done"),
    "not_applicable": Code("NOT_APPLICABLE", codes.PRIVATE_SCHEME, "Not applicable"),
    "refused": Code("REFUSED", codes.PRIVATE_SCHEME, "Images refused"),
    "failed": Code("FAILED", codes.PRIVATE_SCHEME, "Failed"),
}
_SUMMARIES: Mapping[Ending, str] = {
    "done": "DONE: {application} ran on these images and stored its results in this study.",
    "not_applicable": "NOT APPLICABLE: {application} has no result for these images, because it is not made for them.",
    "refused": "NOT DONE: {application} has no result for these images, because it can not use them as they are.",
    "failed": "NOT DONE: {application} has no result for these images, because of a technical fault.",
}
_NO_RESULT = (
    "This note is no finding, and no image was judged. It does not mean that nothing was found: "
    "nothing was ruled out."
)
_MEANINGS: Mapping[Ending, str] = {
    "done": "This note is no finding, and judges no image. What was found stands in the results alone.",
    "not_applicable": _NO_RESULT,
    "refused": _NO_RESULT,
    "failed": _NO_RESULT,
}
_TO_DOS: Mapping[Ending, str] = {
    "done": "Read the results listed here.",
    "not_applicable": (
        "Nothing, where these are not images for {application}. If they are, tell who looks after Isocenter: job {job}."
    ),
    "refused": (
        "Read the images without {application}. If what the reason names can be mended, send the complete original "
        "images again; else tell who looks after Isocenter: job {job}."
    ),
    "failed": (
        "Read the images without {application}. Who looks after Isocenter can run it again: job {job}. Once that has "
        "ended, this note is not valid any more."
    ),
}
_DESCRIPTIONS: Mapping[Ending, str] = {
    "done": "Done: {application}",
    "not_applicable": "No result (not applicable): {application}",
    "refused": "No result (images refused): {application}",
    "failed": "No result (failed): {application}",
}
_LABELS = {  # of what the picture shows; in the document each has its concept's name
    _REASON: "Reason: ",
    _TO_DO: "What to do: ",
    _SERIES: "Images: ",
    _NAME: "Application: ",
    _VERSION: "Version: ",
}
_DOCUMENTS = (  # without pixels: SR, encapsulated, structure sets, presentation states
    "1.2.840.10008.5.1.4.1.1.88.",
    "1.2.840.10008.5.1.4.1.1.104.",
    "1.2.840.10008.5.1.4.1.1.481.3",
    "1.2.840.10008.5.1.4.1.1.11.",
)

_WIDTH, _MARGIN, _LINE = 800, 32, 30  # pixels
_WHITE, _QUIET = 235, 170


@dataclass(frozen=True)
class NoteImages:
    """A series that the application was to work on. `instances`: (SOP Class UID, SOP Instance UID) of each."""

    series_uid: str
    modality: str
    instances: tuple[tuple[str, str], ...]
    number: int | None = None  # Series Number


@dataclass(frozen=True)
class NoteSubject:
    """What the note tells of.

    reason: in plain words, without anything that identifies the patient; "" where there is nothing to explain.
    results: per stored result its `sop_class_uid`, `sop_instance_uid`, `series_uid` and `modality`.
    """

    application: Algorithm
    job_id: str
    ending: Ending
    reason: str
    ended: datetime
    images: tuple[NoteImages, ...]
    results: tuple[Mapping[str, str], ...] = field(default=())


def outcome_identity(job_id: str, attempt: int, ended: datetime) -> JobIdentity:
    """What the note's UIDs derive from: the job and the attempt that it ended with, as another one may end otherwise.

    Its UIDs are `uid("outcome")` and `uid("outcome.series")`, the picture's `uid("outcome.picture")` and
    `uid("outcome.picture.series")`.
    """
    return JobIdentity(hashlib.sha256(f"outcome\n{job_id}\n{attempt}".encode()).hexdigest(), ended)


def outcome_note(
    *,
    subject: NoteSubject,
    header: Dataset,
    maker: Algorithm,
    identity: JobIdentity,
    disclaimer: str = DISCLAIMER,
) -> SOPClass:
    """The note as a document: the same bytes for the same arguments.

    header: one instance of the study, whose patient and study the note takes over; no pixels are needed.
    maker: who says so; `subject.application` is whose outcome it is.

    Raises InvalidResult where the subject names no image.
    """
    _refuse_without_images(subject)
    description = _filled(_DESCRIPTIONS, subject)[:64]
    note = SOPClass(
        study_instance_uid=str(header.StudyInstanceUID),
        series_instance_uid=identity.uid("outcome.series"),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=identity.uid("outcome"),
        sop_class_uid=_BASIC_TEXT_SR,
        instance_number=1,
        modality="SR",
        manufacturer=maker.manufacturer,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=description,
    )
    # SR Document General (PS3.3, C.17.2)
    note.CompletionFlag, note.VerificationFlag = "COMPLETE", "UNVERIFIED"
    note.PerformedProcedureCodeSequence = []
    note.ReferencedPerformedProcedureStepSequence = []
    note.CurrentRequestedProcedureEvidenceSequence = [_evidence(subject, str(header.StudyInstanceUID))]
    # SR Document Content (C.17.3)
    note.ValueType, note.ContinuityOfContent = "CONTAINER", "SEPARATE"
    note.ConceptNameCodeSequence = [coded(_TITLE)]
    note.ContentSequence = [*device_observer(maker), *_content(subject, disclaimer)]
    declare_schemes(note)
    stamp(
        note,
        source=without_equipment(header),
        algorithm=maker,
        identity=identity,
        disclaimer=disclaimer,
        texts=_texts(subject, disclaimer),
    )
    del note.ContentQualification  # of images and of reports on them
    return note


def outcome_picture(
    *,
    subject: NoteSubject,
    header: Dataset,
    maker: Algorithm,
    identity: JobIdentity,
    disclaimer: str = DISCLAIMER,
) -> SCImage:
    """The note's words as a picture (Secondary Capture, PS3.3, A.8.1), for viewers that show no text; see there."""
    _refuse_without_images(subject)
    picture = SCImage(
        pixel_array=_drawn(subject, disclaimer),
        photometric_interpretation=PhotometricInterpretationValues.MONOCHROME2,
        bits_allocated=8,
        coordinate_system=CoordinateSystemNames.PATIENT,
        study_instance_uid=str(header.StudyInstanceUID),
        series_instance_uid=identity.uid("outcome.picture.series"),
        series_number=_PICTURE_SERIES_NUMBER,
        sop_instance_uid=identity.uid("outcome.picture"),
        instance_number=1,
        manufacturer=maker.manufacturer,
        patient_orientation=("L", "P"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=_filled(_DESCRIPTIONS, subject)[:64],
    )
    picture.PatientOrientation = None  # words lie in no direction of the body
    picture.Laterality = None  # of General Series, 2C: no body part is named
    picture.ConversionType = "WSD"
    # C.7.6.1.1.1 asks whether the text identifies the patient, not whether there is text.
    picture.BurnedInAnnotation, picture.RecognizableVisualFeatures = "NO", "NO"
    picture.ImageComments = disclaimer
    stamp(
        picture,
        source=without_equipment(header),
        algorithm=maker,
        identity=identity,
        disclaimer=disclaimer,
        texts=_texts(subject, disclaimer),
    )
    picture.DateOfSecondaryCapture, picture.TimeOfSecondaryCapture = picture.ContentDate, picture.ContentTime
    return picture


def _texts(subject: NoteSubject, disclaimer: str) -> list[str]:
    return [_filled(_DESCRIPTIONS, subject), *(text for _, text in _sentences(subject, disclaimer))]


def _refuse_without_images(subject: NoteSubject) -> None:
    if not any(series.instances for series in subject.images):
        raise InvalidResult(
            f"job {subject.job_id[:12]}: a note on no image at all would tell nobody anything"
        )


def _filled(texts: Mapping[Ending, str], subject: NoteSubject) -> str:
    return texts[subject.ending].format(application=subject.application.name, job=subject.job_id[:12])


def _sentences(subject: NoteSubject, disclaimer: str) -> Iterator[tuple[Code, str]]:
    """All that the note says in words, in order, each under its concept."""
    yield _SUMMARY, _filled(_SUMMARIES, subject)
    yield codes.COMMENT, _filled(_MEANINGS, subject)
    if subject.reason:
        yield _REASON, _as_sentence(subject.reason)
    yield _TO_DO, _filled(_TO_DOS, subject)
    for series in subject.images:
        yield _SERIES, _described(series)
    if subject.results:
        yield codes.COMMENT, f"Results: {_counted(subject.results)}."
    yield _NAME, subject.application.name
    yield _VERSION, _versions(subject.application)
    yield codes.COMMENT, f"{disclaimer}."


def _content(subject: NoteSubject, disclaimer: str) -> Iterator[Dataset]:
    outcome = _item("CODE", _OUTCOME)
    outcome.ConceptCodeSequence = [coded(_ENDINGS[subject.ending])]
    yield outcome
    ended = _item("DATETIME", _ENDED)
    ended.DateTime = subject.ended.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")
    yield ended
    for concept, text in _sentences(subject, disclaimer):
        item = _item("TEXT", concept)
        item.TextValue = text
        yield item
    for series in subject.images:
        # One of each opens the series; the evidence names all.
        yield _reference("IMAGE", _SOURCE, *series.instances[0])
    for result in subject.results:
        kind = "COMPOSITE" if result["sop_class_uid"].startswith(_DOCUMENTS) else "IMAGE"
        yield _reference(kind, _RESULT, result["sop_class_uid"], result["sop_instance_uid"])


def _item(value_type: str, concept: Code) -> Dataset:
    """With a name of what it is, which images need not have: OHIF shows nothing at all of a report without."""
    item = Dataset()
    item.RelationshipType, item.ValueType = "CONTAINS", value_type
    item.ConceptNameCodeSequence = [coded(concept)]
    return item


def _reference(value_type: str, concept: Code, sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = _item(value_type, concept)
    item.ReferencedSOPSequence = [_referenced(sop_class_uid, sop_instance_uid)]
    return item


def _referenced(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item


def _evidence(subject: NoteSubject, study_uid: str) -> Dataset:
    """Hierarchical SOP Instance Reference Macro (C.17.2.1): every image of the job, and every result."""
    by_series = {
        series.series_uid: [_referenced(*each) for each in series.instances] for series in subject.images
    }
    for result in subject.results:
        referenced = _referenced(result["sop_class_uid"], result["sop_instance_uid"])
        by_series.setdefault(result["series_uid"], []).append(referenced)
    study = Dataset()
    study.StudyInstanceUID = study_uid
    study.ReferencedSeriesSequence = []
    for series_uid, instances in by_series.items():
        series = Dataset()
        series.ReferencedSOPSequence, series.SeriesInstanceUID = instances, series_uid
        study.ReferencedSeriesSequence.append(series)
    return study


def _described(series: NoteImages) -> str:
    """The series by what no patient is known by; its description is free text."""
    number = "" if series.number is None else f" series {series.number}"
    count = len(series.instances)
    return f"{series.modality}{number}: {count} image{'' if count == 1 else 's'}"


def _counted(results: Sequence[Mapping[str, str]]) -> str:
    modalities = [result["modality"] for result in results]
    return ", ".join(f"{modalities.count(each)} {each}" for each in dict.fromkeys(modalities))


def _versions(application: Algorithm) -> str:
    models = [f"model {name} {version}" for name, version in sorted(application.models.items())]
    return ", ".join([application.version, *models])


def _as_sentence(reason: str) -> str:
    sentence = f"{reason[0].upper()}{reason[1:]}"
    return sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."


def _drawn(subject: NoteSubject, disclaimer: str) -> NDArray[np.uint8]:
    """The words in grey on black, uint8 (rows, columns): as many rows as they need."""
    summary, meaning, *others = (
        f"{_LABELS.get(concept, '')}{text}" for concept, text in _sentences(subject, disclaimer)
    )
    others.insert(-1, f"Ended {subject.ended.astimezone(UTC):%Y-%m-%d %H:%M} UTC. Job {subject.job_id[:12]}.")
    told = [(summary, 26, _WHITE), (meaning, 20, _WHITE), *((text, 20, _QUIET) for text in others)]
    blocks = [(list(_wrapped(text, size)), size, grey) for text, size, grey in told]
    height = 2 * _MARGIN + sum(_LINE * len(lines) + _LINE // 2 for lines, _, _ in blocks)
    canvas = Image.new("L", (_WIDTH, height), 0)
    draw = ImageDraw.Draw(canvas)
    y = _MARGIN
    for lines, size, grey in blocks:
        for line in lines:
            draw.text((_MARGIN, y), line, font=_font(size), fill=grey)
            y += _LINE
        y += _LINE // 2
    return np.asarray(canvas)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrapped(text: str, size: int) -> Iterator[str]:
    """Lines that fit; what has no blank to break at, as a UID, is cut."""
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if line and not _fits(longer, size):
            yield line
            longer = word
        while not _fits(longer, size):
            cut = next(n for n in range(len(longer), 0, -1) if _fits(longer[:n], size))
            yield longer[:cut]
            longer = longer[cut:]
        line = longer
    yield line


def _fits(line: str, size: int) -> bool:
    return _font(size).getlength(line) <= _WIDTH - 2 * _MARGIN
