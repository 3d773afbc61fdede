"""The note that says how an application ended: whole, sound, always the same, and without the patient in its words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from read_back import found_by_dciodvfy
from unit.result_cases import ALGORITHM, phantom_case, written

from isocenter_operators.dicom.header import DISCLAIMER
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.dicom.results.outcome_note import (
    Ending,
    NoteImages,
    NoteSubject,
    outcome_identity,
    outcome_note,
    outcome_picture,
)
from isocenter_operators.dicom.rules.validate import problems
from isocenter_operators.errors import InvalidResult

JOB = "0123456789ab" + "0" * 52
ENDED = datetime(2026, 11, 24, 10, 0, 30, tzinfo=UTC)
MAKER = Algorithm("isocenter", "1.0")
RESULTS = (
    {
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.66.4",
        "sop_instance_uid": "2.25.11",
        "series_uid": "2.25.1",
        "modality": "SEG",
    },
    {
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34",
        "sop_instance_uid": "2.25.21",
        "series_uid": "2.25.2",
        "modality": "SR",
    },
)
PATIENT = {
    "PatientName": "Mustermann^Erika",
    "PatientID": "PID-4711",
    "PatientBirthDate": "19640812",
    "AccessionNumber": "ACC-0815",
    "ReferringPhysicianName": "Hausarzt^Horst",
    "StudyDescription": "Thorax Mustermann",
    "SeriesDescription": "Erika, prone",
    "InstitutionName": "Waldklinik Musterstadt",
}


@pytest.fixture(scope="module")
def images() -> list[Dataset]:
    volume, _ = phantom_case()
    for image in volume.sources:
        for keyword, value in PATIENT.items():
            setattr(image, keyword, value)
    return list(volume.sources)


@pytest.fixture(scope="module")
def subject(images: list[Dataset]) -> NoteSubject:
    instances = tuple((str(each.SOPClassUID), str(each.SOPInstanceUID)) for each in images)
    series = NoteImages(str(images[0].SeriesInstanceUID), "CT", instances, 3)
    reason = "the lungs are cut off at the top of the scan"
    return NoteSubject(ALGORITHM, JOB, "not_applicable", reason, ENDED, (series,))


def both(subject: NoteSubject, header: Dataset, attempt: int = 1) -> list[Dataset]:
    given: dict[str, Any] = {
        "subject": subject,
        "header": header,
        "maker": MAKER,
        "identity": outcome_identity(subject.job_id, attempt, subject.ended),
    }
    return [outcome_note(**given), outcome_picture(**given)]


def texts(note: Dataset) -> Iterator[tuple[str, str]]:
    for item in note.ContentSequence:
        if item.ValueType == "TEXT" and item.RelationshipType == "CONTAINS":
            yield str(item.ConceptNameCodeSequence[0].CodeMeaning), str(item.TextValue)


def content_of(instance: Dataset) -> bytes:
    content = BytesIO()
    instance.save_as(content, enforce_file_format=True)
    return content.getvalue()


@pytest.mark.parametrize("ending", ["done", "not_applicable", "refused", "failed"])
def test_the_note_says_how_it_ended_and_is_sound(
    subject: NoteSubject, images: list[Dataset], tmp_path: Path, ending: Ending
) -> None:
    results = RESULTS if ending == "done" else ()
    told = replace(subject, ending=ending, results=results, reason="" if results else subject.reason)
    for name, made in zip(("note", "picture"), both(told, images[0]), strict=True):
        path = written(made, tmp_path, name)
        assert [problem for problem in found_by_dciodvfy(path) if problem.severity == "error"] == []
        assert problems(path) == []
        assert (made.Manufacturer, made.ManufacturerModelName) == ("Isocenter", "isocenter")

    note = dcmread(tmp_path / "note.dcm")
    assert (note.Modality, note.SeriesNumber) == ("SR", 9011)
    (outcome,) = [
        item for item in note.ContentSequence if item.ValueType == "CODE" and "ConceptCodeSequence" in item
    ][1:]
    assert outcome.ConceptCodeSequence[0].CodeValue == ending.upper()
    summary, meaning = list(texts(note))[:2]
    assert "ct_lung_density" in summary[1]
    assert meaning[1].startswith("This note is no finding")
    assert ("What was found stands in the results alone" in meaning[1]) == (ending == "done")
    assert [item.DateTime for item in note.ContentSequence if item.ValueType == "DATETIME"] == [
        "20261124100030+0000"
    ]
    assert list(texts(note))[-1] == ("Comment", f"{DISCLAIMER}.")
    assert ("Algorithm Version", "1.2.0, model lungs 3") in list(texts(note))
    assert ("Series", f"CT series 3: {len(images)} images") in list(texts(note))
    if not results:
        assert ("Reason for the outcome", "The lungs are cut off at the top of the scan.") in list(
            texts(note)
        )


def test_the_note_names_every_image_and_every_result(subject: NoteSubject, images: list[Dataset]) -> None:
    note, _ = both(replace(subject, ending="done", results=RESULTS), images[0])
    (study,) = note.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == images[0].StudyInstanceUID
    named = {
        (series.SeriesInstanceUID, instance.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    assert named == {
        *((each.SeriesInstanceUID, each.SOPInstanceUID) for each in images),
        *((each["series_uid"], each["sop_instance_uid"]) for each in RESULTS),
    }
    kinds = [item.ValueType for item in note.ContentSequence if "ReferencedSOPSequence" in item]
    assert kinds == ["IMAGE", "IMAGE", "COMPOSITE"]
    with pytest.raises(InvalidResult, match="no image at all"):
        both(replace(subject, images=()), images[0])


def test_the_same_end_gives_the_same_bytes_and_another_one_other_uids(
    subject: NoteSubject, images: list[Dataset]
) -> None:
    first, again = both(subject, images[0]), both(subject, images[-1])
    assert [content_of(each) for each in first] == [content_of(each) for each in again]
    uids = {
        uid
        for made in (*first, *both(subject, images[0], attempt=2))
        for uid in (made.SOPInstanceUID, made.SeriesInstanceUID)
    }
    assert len(uids) == 8


def test_who_the_patient_is_stands_in_the_header_alone(subject: NoteSubject, images: list[Dataset]) -> None:
    note, picture = both(subject, images[0])
    for made in (note, picture):
        assert (made.PatientName, made.PatientID) == ("Mustermann^Erika", "PID-4711")
        assert made.StudyInstanceUID == images[0].StudyInstanceUID
        assert "InstitutionName" not in made
    said = "".join(f"{concept} {text}" for concept, text in texts(note)) + note.SeriesDescription
    for value in PATIENT.values():
        for word in value.replace("^", " ").split():
            assert word not in said


def test_the_picture_has_room_for_all_words(subject: NoteSubject, images: list[Dataset]) -> None:
    """Also for a word as long as a path, and longer than a line; nothing reaches the border."""
    short = both(subject, images[0])[1].pixel_array
    reason = "a fault in /" + "x" * 300 + " " + "word " * 80
    long = both(replace(subject, ending="failed", reason=reason), images[0])[1].pixel_array
    assert long.shape[0] > short.shape[0]
    for pixels in (short, long):
        inked = np.argwhere(pixels > 60)
        assert inked.min() >= 20
        assert inked[:, 1].max() < pixels.shape[1] - 20
        assert 0.02 < (pixels > 60).mean() < 0.3


@pytest.mark.parametrize(
    "case",
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", "the lungs are cut off", ["", "ISO 2022 IR 87"]),
        ("ISO_IR 100", "Müller^Jürgen", "more than 5 µm", "ISO_IR 100"),
        ("ISO_IR 100", "Müller^Jürgen", "≥ 3 slices are missing", "ISO_IR 192"),
        ("ISO_IR 144", "Иванов^Иван", "the lungs are cut off", "ISO_IR 144"),
    ],
)
def test_a_name_in_any_alphabet_survives_and_so_do_the_words(
    subject: NoteSubject, images: list[Dataset], tmp_path: Path, case: tuple[Any, ...]
) -> None:
    declared, name, reason, wanted = case
    image = dcmread(BytesIO(content_of(images[0])))
    image.SpecificCharacterSet, image.PatientName = declared, name
    header = dcmread(BytesIO(content_of(image)))  # as bytes in that character set, not looked at
    for made in both(replace(subject, reason=reason), header):
        path = written(made, tmp_path, "note")
        read = dcmread(path)
        assert read.PatientName == name
        assert read.SpecificCharacterSet == wanted
        assert problems(path) == []
        assert [problem for problem in found_by_dciodvfy(path) if problem.severity == "error"] == []
    note = both(replace(subject, reason=reason), header)[0]
    read = dcmread(BytesIO(content_of(note)))
    assert any(reason[1:] in text for _, text in texts(read))
