"""The note that results are superseded: what it rejects, as others read it, and that it is the same each time."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from read_back import found_by_dciodvfy
from result_cases import findings_of, phantom_case, pictures_of, read_case, report_of, seg_of, written

from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.dicom.results.rejection import rejection_identity, rejection_note
from isocenter_operators.dicom.rules.validate import problems
from isocenter_operators.errors import InvalidResult

OLD, NEW = "a" * 64, "b" * 64
MADE = datetime(2026, 11, 24, 10, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def results() -> list[Dataset]:
    """Everything one job stores: SEG, SR, pictures."""
    volume, labels = phantom_case()
    findings = findings_of(volume, labels)
    seg = seg_of(volume, labels)
    return [seg, report_of(volume, findings, seg), *pictures_of(volume, labels, findings)]


def listed(instance: Dataset) -> dict[str, str]:
    return {
        "sop_class_uid": str(instance.SOPClassUID),
        "sop_instance_uid": str(instance.SOPInstanceUID),
        "series_uid": str(instance.SeriesInstanceUID),
        "study_uid": str(instance.StudyInstanceUID),
        "modality": str(instance.Modality),
    }


def note_on(results: list[Dataset], **others: Any) -> Dataset:
    return rejection_note(
        **{
            "rejected": [listed(each) for each in results],
            "header": results[0],
            "application": "ct_lung_density",
            "old_job": OLD,
            "new_job": NEW,
            "algorithm": Algorithm("isocenter", "1.0"),
            "created": MADE,
            **others,
        }
    )


def content_of(note: Dataset) -> bytes:
    content = BytesIO()
    note.save_as(content, enforce_file_format=True)
    return content.getvalue()


def text_of(note: Dataset) -> str:
    (text,) = [
        str(item.TextValue)
        for item in note.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "113012"  # Key Object Description
    ]
    return text


def test_the_note_rejects_every_result_and_says_why(results: list[Dataset], tmp_path: Path) -> None:
    note = note_on(results)
    path = written(note, tmp_path, "note")
    assert [problem for problem in found_by_dciodvfy(path) if problem.severity == "error"] == []
    assert problems(path) == []

    read = dcmread(path)
    (title,) = read.ConceptNameCodeSequence
    assert (title.CodeValue, title.CodingSchemeDesignator) == ("113001", "DCM")
    assert (read.Modality, read.Manufacturer) == ("KO", "Isocenter")
    (study,) = read.CurrentRequestedProcedureEvidenceSequence
    evidence = {
        (series.SeriesInstanceUID, instance.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    assert evidence == {(each.SeriesInstanceUID, each.SOPInstanceUID) for each in results}
    named = [
        (item.ValueType, item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in read.ContentSequence
        if item.ValueType in ("IMAGE", "COMPOSITE")
    ]
    kinds = ["COMPOSITE" if each.Modality == "SR" else "IMAGE" for each in results]
    assert named == list(zip(kinds, (each.SOPInstanceUID for each in results), strict=True))
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        assert read[keyword].value == results[0][keyword].value
    assert text_of(read) == (
        f"Superseded, do not use: results of ct_lung_density, job {OLD[:12]}. Newer results of ct_lung_density, "
        f"on a newer set of images, replace them: job {NEW[:12]}."
    )
    (maker,) = read.ContributingEquipmentSequence
    assert maker.ManufacturerModelName == "isocenter"  # and no scanner: the note shows nothing


def test_without_newer_results_the_note_says_so(results: list[Dataset]) -> None:
    assert "is not applicable to it" in text_of(note_on(results, replaced=False))
    assert "no results replace these" in text_of(note_on(results, replaced=False))


def test_the_same_pair_gives_the_same_bytes_and_another_one_other_uids(results: list[Dataset]) -> None:
    note = note_on(results)
    assert content_of(note) == content_of(note_on(results))
    identity = rejection_identity(OLD, NEW, MADE)
    assert (note.SOPInstanceUID, note.SeriesInstanceUID) == (identity.uid("ko"), identity.uid("ko.series"))
    others = [note_on(results, old_job=NEW, new_job=OLD), note_on(results, new_job="c" * 64)]
    uids = {uid for each in (note, *others) for uid in (each.SOPInstanceUID, each.SeriesInstanceUID)}
    assert len(uids) == 6


def test_a_name_in_another_alphabet_survives(results: list[Dataset], tmp_path: Path) -> None:
    report = dcmread(BytesIO(content_of(results[1])))
    report.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    report.PatientName = "Yamada^Tarou=山田^太郎"
    header = dcmread(BytesIO(content_of(report)))  # as bytes in that character set, not looked at
    path = written(note_on(results, header=header), tmp_path, "japanese")
    assert dcmread(path).PatientName == "Yamada^Tarou=山田^太郎"
    assert problems(path) == []
    assert [problem for problem in found_by_dciodvfy(path) if problem.severity == "error"] == []


@pytest.mark.parametrize("series", ["ct-abdomen-41/image", "mr-abdomen/t2_image"])
def test_the_note_on_results_of_real_images_is_sound(series: str, test_data: Path, tmp_path: Path) -> None:
    volume, labels = read_case(test_data / series)
    seg = seg_of(volume, labels)
    both = [seg, report_of(volume, findings_of(volume, labels), seg)]
    path = written(note_on(both), tmp_path, "note")
    assert [problem for problem in found_by_dciodvfy(path) if problem.severity == "error"] == []
    assert problems(path) == []


def test_nothing_or_another_study_can_not_be_rejected(results: list[Dataset]) -> None:
    with pytest.raises(InvalidResult, match="has to reject something"):
        note_on(results, rejected=[])
    elsewhere = {**listed(results[0]), "study_uid": "1.2.3"}
    with pytest.raises(InvalidResult, match="for one study"):
        note_on(results, rejected=[elsewhere])
    with pytest.raises(InvalidResult, match="without sop_class_uid"):
        note_on(results, rejected=[{**listed(results[0]), "sop_class_uid": ""}])
