"""Numbers of reports, whoever wrote them, as they are told of a job."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from result_cases import findings_of, phantom_case, report_of, seg_of

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Code
from isocenter_operators.dicom.meanings import known_meaning
from isocenter_operators.dicom.results.sr_reader import measured_in

_GROUP = Code("125007", "DCM", "Measurement Group")
_FINDING = Code("121071", "DCM", "Finding")
_SITE = Code("363698007", "SCT", "Finding Site")
_LATERALITY = Code("272741003", "SCT", "Laterality")
_TRACKING_ID = Code("112039", "DCM", "Tracking Identifier")


def _item(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def _content(kind: str, name: Code, *below: Dataset) -> Dataset:
    content = Dataset()
    content.ValueType, content.RelationshipType = kind, "CONTAINS"
    content.ConceptNameCodeSequence = [_item(name)]
    content.ContentSequence = [*below]
    return content


def _answered(name: Code, value: Code, *below: Dataset) -> Dataset:
    content = _content("CODE", name, *below)
    content.ConceptCodeSequence = [_item(value)]
    return content


def _noted(name: Code, text: str) -> Dataset:
    content = _content("TEXT", name)
    content.TextValue = text
    return content


def _measured(name: Code, unit: str = "mL", *below: Dataset) -> Dataset:
    content = _content("NUM", name, *below)
    measured = Dataset()
    measured.NumericValue = "1.5"
    measured.MeasurementUnitsCodeSequence = [_item(Code(unit, "UCUM", "Jane Doe"))]
    content.MeasuredValueSequence = [measured]
    return content


def _reported(*groups: list[Dataset]) -> Dataset:
    report = Dataset()
    report.ContentSequence = [_content("CONTAINER", _GROUP, *group) for group in groups]
    return report


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
    # M-80003 of SNOMED-RT, by what the standard calls it.
    assert tumor.label == "Malignant neoplasm, primary (morphologic abnormality)"
    assert tumor.said["volume_mL"] == pytest.approx(33.6, abs=0.05)
    assert tumor.said["mean_SUVbw_g/ml"] == pytest.approx(6.02, abs=0.005)
    assert tumor.said["99PMP_250137_SUVbw_g/ml"] == pytest.approx(4.59, abs=0.005)  # a private derivation
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


def test_what_a_stranger_calls_a_code_is_not_told() -> None:
    """Neither of one that a table knows, nor of one that none does, nor in what a code itself should not hold."""
    name = "Doe^Jane\x1b[2J"
    unknown = Code("1234\x1b[2J", "99<b>", name)
    report = _reported(
        [
            _answered(_FINDING, Code("39607008", "SCT", name)),
            _answered(_SITE, unknown, _answered(_LATERALITY, Code("7771000", "SCT", name))),
            _measured(Code("118565006", "SCT", name)),
            _measured(Code("118565006", "SCT", name), "mL", _answered(Code("121401", "DCM", ""), unknown)),
            _answered(unknown, Code("373066001", "SCT", name)),
            _answered(Code("PERC15", codes.PRIVATE_SCHEME, name), unknown),
        ],
        [_answered(_SITE, unknown)],
    )
    lung, other = measured_in(report, words=False)
    assert lung.label == "Lung, left"
    assert lung.said == {
        "volume_mL": 1.5,
        "99b_12342J_volume_mL": 1.5,
        "99b_12342J": "Yes",
        "15th_percentile_of_the_values": "99b 12342J",
    }
    assert (other.label, other.said) == ("99b 12342J", {})


def test_a_code_means_what_the_tables_say_by_the_words_that_it_was_called_by() -> None:
    spleen, vertebra, mean = ("78961009", "SCT"), ("51282000", "SCT"), ("373098007", "SCT")
    assert known_meaning(_item(Code(*spleen, "Jane"))) == "Spleen"
    assert known_meaning(_item(Code(*vertebra, "vertebra"))) == "Vertebra"
    assert known_meaning(_item(Code(*mean, "Averaged"))) == "Averaged"
    assert known_meaning(_item(Code(*mean, "Jane"))) == "Mean"
    assert known_meaning(_item(Code("X6K6", "IBSI", "Jane"))) == "Intensity Histogram Mean"
    assert known_meaning(_item(Code("39607008" * 9, "SCT", "Jane"))) == f"SCT {'39607008' * 2}"
    assert known_meaning(_item(Code("schemes", "cid4", "Jane"))) == "cid4 schemes"


def test_what_is_told_is_one_line_of_letters() -> None:
    """Also of an application that is believed."""
    odd = "a\x1b[31m\r\nb\u2028\u202ec" + "d" * 5000
    plain = "a [31m b c" + "d" * 5000
    (group,) = measured_in(
        _reported(
            [
                _noted(_TRACKING_ID, odd),
                _noted(codes.COMMENT, odd),
                _measured(Code("1", "99X", odd)),
                _answered(Code("2", "99X", "q"), Code("3", "99X", odd)),
            ]
        ),
        words=True,
    )
    (name,) = (each for each in group.said if each != "q")
    for told, wanted in (
        (group.label, plain),
        *((note, plain) for note in group.notes),
        (group.said["q"], plain),
        (name.removesuffix("_mL"), plain.replace(" ", "_")),
    ):
        assert isinstance(told, str)
        assert wanted.startswith(told)
        assert 50 < len(told) <= 300


@pytest.mark.parametrize(
    ("unit", "name"),
    [
        ("mm2/s", "volume_mm2/s"),
        ("10*-3/mm3", "volume_10*-3/mm3"),
        ("[hnsf'U]", "volume_HU"),
        ("{Doe^Jane}g/ml", "volume_g/ml"),
        ("{ratio}", "volume"),
        ("/{beat}", "volume"),
        ("Doe, Jane", "volume"),
        ("m\x1b[2J", "volume"),
        ("m\n", "volume"),
        ("m" * 17, "volume"),
        ("", "volume"),
    ],
)
@pytest.mark.parametrize("words", [True, False])
def test_of_a_unit_nothing_but_the_unit_is_told(unit: str, name: str, words: bool) -> None:
    (group,) = measured_in(_reported([_measured(codes.VOLUME, unit)]), words=words)
    assert group.said == {name: 1.5}


def test_of_a_group_the_first_hundred_are_told_each_by_a_name_of_its_own() -> None:
    many = [_measured(codes.VOLUME) for _ in range(150)]
    few = [_measured(codes.MEAN), _measured(codes.VOLUME), _measured(codes.MEAN)]
    first, second = measured_in(_reported(many, few), words=False)
    assert [*first.said] == ["volume_mL", *(f"volume_mL {number}" for number in range(2, 101))]
    assert [*second.said] == ["mean_mL", "volume_mL", "mean_mL 2"]
    assert [first.label, second.label] == ["images 1", "images 2"]
