"""Checks of results: what others wrote passes, each kind of damage is found and named, no patient in the words."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from read_back import found_by_dciodvfy
from result_cases import findings_of, phantom_case, pictures_of, report_of, seg_of, written

from isocenter_operators.dicom.validate import check, dciodvfy, problems
from isocenter_operators.errors import InvalidResult


@pytest.fixture(scope="module")
def results() -> dict[str, Dataset]:
    volume, labels = phantom_case()
    findings = findings_of(volume, labels)
    seg = seg_of(volume, labels)
    picture = pictures_of(volume, labels, findings)[0]
    return {"seg": seg, "sr": report_of(volume, findings, seg), "sc": picture}


def drop(keyword: str) -> Callable[[Dataset], None]:
    def damage(dataset: Dataset) -> None:
        del dataset[keyword]

    return damage


def repeat_position(seg: Dataset) -> None:
    frames = seg.PerFrameFunctionalGroupsSequence
    frames[1].PlanePositionSequence[0].ImagePositionPatient = (
        frames[0].PlanePositionSequence[0].ImagePositionPatient
    )


def unknown_segment(seg: Dataset) -> None:
    seg.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0].ReferencedSegmentNumber = 9


def renumber(seg: Dataset) -> None:
    seg.SegmentSequence[1].SegmentNumber = 3


def shear(seg: Dataset) -> None:
    orientation = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = [1, 0, 0, 0.5, 0.5, 0]


def lose_source(seg: Dataset) -> None:
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence = [
        seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    ]


def halve_pixels(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 4 * 2]


def foreign_letters(dataset: Dataset) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SeriesDescription = "肺"


def unknown_set(dataset: Dataset) -> None:
    dataset.SpecificCharacterSet = "ISO_IR 999"


def group_of(report: Dataset) -> Dataset:
    return next(
        item
        for item in report.ContentSequence
        if "ContentSequence" in item and len(item.ContentSequence) == 3
    )


def lose_tracking(report: Dataset) -> None:
    group = group_of(report).ContentSequence[0]
    group.ContentSequence = [
        i for i in group.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue != "112040"
    ]


def wrong_unit(report: Dataset) -> None:
    group = group_of(report).ContentSequence[0]
    number = next(item for item in group.ContentSequence if item.ValueType == "NUM")
    number.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodingSchemeDesignator = "99LOCAL"


def not_1500(report: Dataset) -> None:
    report.ContentTemplateSequence[0].TemplateIdentifier = "2000"


@pytest.mark.parametrize(
    ("kind", "damage", "named"),
    [
        ("seg", drop("FrameOfReferenceUID"), "FrameOfReferenceUID"),
        ("seg", drop("PatientID"), "PatientID"),
        ("seg", drop("ReferencedSeriesSequence"), "ReferencedSeriesSequence"),
        ("seg", repeat_position, "frame 2: ImagePositionPatient"),
        ("seg", unknown_segment, "frame 1: ReferencedSegmentNumber"),
        ("seg", renumber, "SegmentSequence"),
        ("seg", shear, "ImageOrientationPatient"),
        ("seg", lose_source, "ReferencedSeriesSequence"),
        ("seg", halve_pixels, "PixelData"),
        ("seg", foreign_letters, "SeriesDescription"),
        ("seg", unknown_set, "SpecificCharacterSet"),
        ("sr", not_1500, "ContentTemplateSequence"),
        ("sr", lose_tracking, "measurement group 1: tracking"),
        ("sr", wrong_unit, "MeasurementUnitsCodeSequence"),
        ("sr", drop("CurrentRequestedProcedureEvidenceSequence"), "content item"),
        ("sr", drop("CompletionFlag"), "CompletionFlag"),
        ("sc", halve_pixels, "PixelData"),
        ("sc", drop("ConversionType"), "ConversionType"),
        ("sc", drop("SeriesInstanceUID"), "SeriesInstanceUID"),
    ],
)
def test_damage_is_found_and_named(
    results: dict[str, Dataset], kind: str, damage: Callable[[Dataset], None], named: str
) -> None:
    assert problems(results[kind]) == []
    broken = copy.deepcopy(results[kind])
    damage(broken)
    with pytest.raises(InvalidResult, match=named):
        check(broken)


def test_objects_of_other_writers_have_no_error(test_data: Path) -> None:
    files = sorted((test_data / "reference-results").rglob("*.dcm"))
    kinds = set()
    for file in files:
        if "paramaps" in file.parts:
            continue
        assert [p for p in problems(file) if p.severity == "error"] == [], file.name
        kinds.add(file.stem)
    assert {"seg_image_ct_binary", "sr_document", "liver", "sparse-labelmap-ppv5"} <= kinds


def test_what_is_no_dicom_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    assert problems(tmp_path / "a.txt")[0].message == "is not a DICOM object"
    (missing,) = problems(tmp_path / "b")
    assert (missing.severity, "No such file" in missing.message) == ("error", True)


def test_truncated_file_is_an_error(results: dict[str, Dataset], tmp_path: Path) -> None:
    path = written(results["sc"], tmp_path, "sc")
    path.write_bytes(path.read_bytes()[:-1000])
    assert [problem.severity for problem in problems(path)] == ["error"]


def test_checks_500_frames_within_half_a_second() -> None:
    volume, _ = phantom_case(size=(16, 16, 250), spacing_mm=(22.0, 22.0, 1.2))
    labels = np.zeros(volume.voxels.shape, np.uint8)
    labels[:, :, :8], labels[:, :, 8:] = 1, 2
    seg = seg_of(volume, labels)
    assert int(seg.NumberOfFrames) == 500
    started = time.process_time()
    check(seg)
    assert time.process_time() - started < 0.5


def test_dciodvfy_speaks_without_the_patients_name(results: dict[str, Dataset], tmp_path: Path) -> None:
    broken = copy.deepcopy(results["sc"])
    broken.PatientName = "Secretname"
    del broken.ConversionType
    found = found_by_dciodvfy(written(broken, tmp_path, "sc"))
    assert any("ConversionType" in problem.message for problem in found if problem.severity == "error")
    assert any("Person Name" in problem.message for problem in found)
    assert not any("Secretname" in problem.message for problem in found)


def test_dciodvfy_that_is_not_installed_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert dciodvfy(tmp_path / "x.dcm") is None


def test_label_maps_are_left_to_our_own_checks(test_data: Path) -> None:
    path = test_data / "reference-results/dcmqi/segmentations/sparse-labelmap-ppv5.dcm"
    found = found_by_dciodvfy(path)
    assert [problem.severity for problem in found] == ["warning"]
