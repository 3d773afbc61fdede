"""Numbers of reports, whoever wrote them, as they are told of a job."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from result_cases import findings_of, phantom_case, report_of, seg_of

from isocenter_operators.dicom.results.sr_reader import measured_in


@pytest.fixture(scope="module")
def report() -> Dataset:
    volume, labels = phantom_case()
    return report_of(volume, findings_of(volume, labels, note="cut off"), seg_of(volume, labels))


def test_our_own_numbers_are_read_back_with_labels_and_notes(report: Dataset) -> None:
    volume, labels = phantom_case()
    findings = findings_of(volume, labels, note="cut off")
    read = measured_in(report, words=True)
    assert [(each.label, each.notes) for each in read] == [
        (group.label, group.notes) for group in findings.groups
    ]
    for group, got in zip(findings.groups, read, strict=True):
        assert [*got.said.values()] == pytest.approx([each.value for each in group.measurements])
    assert [*read[0].said][:2] == ["volume_mL", "mean_attenuation_coefficient_HU"]


def test_of_a_stranger_nothing_but_codes_is_told(report: Dataset) -> None:
    read = measured_in(report, words=False)
    assert [(each.label, each.notes) for each in read] == [
        ("Lung, right", ()),
        ("Lung, left", ()),
        ("Lung, bilateral", ()),
    ]
    assert [each.said for each in read] == [each.said for each in measured_in(report, words=True)]


def test_reports_of_others(test_data: Path) -> None:
    folder = test_data / "reference-results"
    (tumor,) = measured_in(dcmread(folder / "dcmqi" / "sr-example" / "sr.dcm"), words=False)
    assert tumor.label == "Neoplasm, Primary"
    assert tumor.said["volume_mL"] == pytest.approx(33.6, abs=0.05)
    several = measured_in(dcmread(folder / "highdicom" / "sr_document_with_multiple_groups.dcm"), words=False)
    assert [each.label for each in several] == ["images", "Nodule", "Aorta", "Vertebra"]
    assert several[0].said == {
        "intensity_histogram_mean_HU": pytest.approx(-119.1, abs=0.05),
        "anatomical_position_(finding)": "Level of T4/T5 intervertebral disc",
    }


def test_groups_that_are_alike_are_numbered_and_a_missing_number_is_none(report: Dataset) -> None:
    twice = Dataset()
    twice.ContentSequence = [*report.ContentSequence, *report.ContentSequence]
    assert [each.label for each in measured_in(twice, words=False)][::3] == ["Lung, right 1", "Lung, right 2"]
    for wrong in ("", "nan"):
        number = Dataset()
        group, measured, name = Dataset(), Dataset(), Dataset()
        name.CodeValue, name.CodeMeaning = "118565006", "Volume"
        measured.NumericValue = wrong
        number.ValueType, number.ConceptNameCodeSequence, number.MeasuredValueSequence = (
            "NUM",
            [name],
            [measured],
        )
        container = Dataset()
        container.CodeValue = "125007"
        group.ConceptNameCodeSequence, group.ContentSequence = [container], [number]
        root = Dataset()
        root.ContentSequence = [group]
        assert measured_in(root, words=True)[0].said == {"volume": None}
    assert measured_in(Dataset(), words=True) == []
