"""Segmentations: placed where their images lie, valid from any header, readable by others."""

from __future__ import annotations

import warnings
from pathlib import Path

import highdicom
import numpy as np
import pytest
from highdicom.color import CIELabColor
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from read_back import found_by_dciodvfy, read_seg
from result_cases import (
    ALGORITHM,
    LEFT,
    RIGHT,
    SEGMENTS,
    SERIES,
    findings_of,
    identity_of,
    phantom_case,
    pictures_of,
    read_case,
    report_of,
    seg_of,
    written,
)

from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.dicom.results.seg import segmentation
from isocenter_operators.dicom.rules.validate import check
from isocenter_operators.dicom.series.geometry import Volume
from isocenter_operators.errors import GeometryError, InputError, InvalidResult

Case = tuple[Volume, NDArray[np.uint8]]


@pytest.fixture(scope="module")
def phantom() -> Case:
    return phantom_case()


def occupied(voxels: NDArray[np.integer], affine: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """LPS mm of the voxels that hold this number, in a fixed order."""
    index = np.argwhere(voxels == number)[:, ::-1]
    points = np.round(index @ affine[:3, :3].T + affine[:3, 3], 2)
    return points[np.lexsort(points.T)]


@pytest.mark.parametrize(
    ("orientation", "size", "spacing"),
    [
        ("LPS", (96, 80, 24), (3.8, 3.8, 12.0)),
        ("RAI", (96, 80, 24), (3.8, 3.8, 12.0)),
        ("LIP", (96, 80, 24), (3.8, 3.8, 12.0)),
        ("PIR", (80, 80, 24), (3.8, 3.8, 12.0)),
    ],
)
def test_dcmqi_reads_back_the_same_voxels_at_the_same_places(
    orientation: str, size: tuple[int, int, int], spacing: tuple[float, float, float], tmp_path: Path
) -> None:
    volume, labels = phantom_case(orientation=orientation, size=size, spacing_mm=spacing)
    path = written(seg_of(volume, labels), tmp_path, "seg")
    voxels, affine = read_seg(path, tmp_path)
    for segment in SEGMENTS:
        expected = occupied(labels, volume.affine, segment.number)
        assert len(expected) > 100
        np.testing.assert_allclose(occupied(voxels, affine, segment.number), expected, atol=0.02)


def test_highdicom_reads_back_the_label_map(phantom: Case, tmp_path: Path) -> None:
    volume, labels = phantom
    seg = highdicom.seg.segread(written(seg_of(volume, labels), tmp_path, "seg"))
    uids = [str(source.SOPInstanceUID) for source in volume.sources]
    again = seg.get_pixels_by_source_instance(
        uids, combine_segments=True, skip_overlap_checks=True, ignore_spatial_locations=False,
        assert_missing_frames_are_empty=True,
    )  # fmt: skip
    np.testing.assert_array_equal(again, labels)


def test_says_what_was_segmented_and_who_did_it(phantom: Case) -> None:
    volume, labels = phantom
    seg = seg_of(volume, labels)
    assert (labels == 0).all(axis=(1, 2)).any(), "the case must have empty slices"
    assert int(seg.NumberOfFrames) == sum(int((labels == n).any(axis=(1, 2)).sum()) for n in (1, 2))
    for item, segment in zip(seg.SegmentSequence, (RIGHT, LEFT), strict=True):
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        assert (kind.CodeValue, kind.CodingSchemeDesignator) == ("39607008", "SCT")
        assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == segment.label.split()[0]
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("ct_lung_density", "1.2.0")
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
        rgb = CIELabColor.from_dicom_value(item.RecommendedDisplayCIELabValue).to_rgb()
        np.testing.assert_allclose(rgb, segment.display_rgb, atol=2)
        assert item.TrackingUID == identity_of(volume).uid(f"tracking.{segment.number}")
    listed = {i.ReferencedSOPInstanceUID for i in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert listed == {source.SOPInstanceUID for source in volume.sources}
    assert seg.FrameOfReferenceUID == volume.sources[0].FrameOfReferenceUID
    assert (seg.ContentDate, seg.ContentTime) == ("20261122", "103000.000000")


def test_device_changes_with_a_model_and_nothing_else(phantom: Case) -> None:
    volume, labels = phantom

    def device(algorithm: Algorithm) -> str:
        seg = segmentation(
            labels=labels,
            frames=volume.frames,
            segments=SEGMENTS,
            algorithm=algorithm,
            identity=identity_of(volume, algorithm),
        )
        application = [
            i for i in seg.ContributingEquipmentSequence if i.ManufacturerModelName == algorithm.name
        ]
        return str(application[0].DeviceUID)

    assert device(ALGORITHM) == device(Algorithm("ct_lung_density", "1.2.0", {"lungs": "3"}))
    assert device(ALGORITHM) != device(Algorithm("ct_lung_density", "1.2.0", {"lungs": "4"}))


def test_same_job_same_bytes(phantom: Case, tmp_path: Path) -> None:
    volume, labels = phantom
    findings = findings_of(volume, labels)

    def results(name: str) -> list[bytes]:
        seg = seg_of(volume, labels)
        instances = [seg, report_of(volume, findings, seg), *pictures_of(volume, labels, findings)]
        return [written(one, tmp_path, f"{name}{i}").read_bytes() for i, one in enumerate(instances)]

    assert results("first") == results("second")


@pytest.mark.parametrize("series", SERIES)
def test_dciodvfy_finds_no_error_in_the_results_of_any_series(
    series: str, test_data: Path, tmp_path: Path
) -> None:
    volume, labels = read_case(test_data / series)
    findings = findings_of(volume, labels, note="cut off at the lower end of the scan")
    seg = seg_of(volume, labels)
    results = [seg, report_of(volume, findings, seg), *pictures_of(volume, labels, findings)]
    for number, result in enumerate(results):
        check(result)
        path = written(result, tmp_path, str(number))
        check(dcmread(path))
        found = found_by_dciodvfy(path)
        assert [problem for problem in found if problem.severity == "error"] == []
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID"):
            assert result[keyword].value == volume.sources[0][keyword].value


def spoil(source: Dataset) -> None:
    """Header values seen in the wild, each of which would make a result invalid."""
    source.SpecificCharacterSet = ""
    source.PatientSex = "FEMALE"
    source.PatientBirthDate = "unknown"
    source.StudyTime = "10:30"
    source.Manufacturer = ""
    source.ProcedureCodeSequence = [Dataset()]
    source.OtherPatientIDsSequence = []
    source.PatientIdentityRemoved = "YES"
    source.ClinicalTrialProtocolID = "P1"
    source.StudyDescription = "x" * 70
    source.PatientWeight = ""
    source.SliceThickness = ""
    source.PositionReferenceIndicator = None
    del source.StudyID
    source.ImagePositionPatient = [f"{float(v):.20f}"[:22] for v in source.ImagePositionPatient]


def test_bad_source_headers_make_valid_results(tmp_path: Path) -> None:
    volume, labels = phantom_case()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns while the test writes the bad values
        for source in volume.sources:
            spoil(source)
    seg = seg_of(volume, labels)
    findings = findings_of(volume, labels)
    for number, result in enumerate(
        [seg, report_of(volume, findings, seg), *pictures_of(volume, labels, findings)]
    ):
        check(result)
        found = found_by_dciodvfy(written(result, tmp_path, str(number)))
        assert [problem for problem in found if problem.severity == "error"] == []
        assert result.PatientSex is None or result.PatientSex == ""
        assert "StudyDescription" not in result


@pytest.mark.parametrize(
    ("character_set", "name"),
    [("ISO_IR 192", "Yamada^Tarou=山田^太郎"), ("ISO_IR 100", "Müller^Jürgen"), ("ISO_IR 13", "ﾔﾏﾀﾞ^ﾀﾛｳ")],
)
def test_keeps_the_sources_character_set(character_set: str, name: str, tmp_path: Path) -> None:
    volume, labels = phantom_case()
    for source in volume.sources:
        source.SpecificCharacterSet, source.PatientName = character_set, name
    seg = seg_of(volume, labels)
    again = dcmread(written(seg, tmp_path, "seg"))
    assert (again.SpecificCharacterSet, str(again.PatientName)) == (character_set, name)


def test_words_the_source_can_not_hold_make_the_result_utf_8(tmp_path: Path) -> None:
    volume, labels = phantom_case()
    for source in volume.sources:
        source.SpecificCharacterSet, source.PatientName = "ISO_IR 100", "Müller^Jürgen"
    path = written(seg_of(volume, labels, disclaimer="研究用"), tmp_path, "seg")
    again = dcmread(path)
    check(again)
    assert (again.SpecificCharacterSet, again.ImageComments) == ("ISO_IR 192", "研究用")
    assert str(again.PatientName) == "Müller^Jürgen"


def test_refuses_what_would_be_wrong(phantom: Case) -> None:
    volume, labels = phantom
    with pytest.raises(InvalidResult, match="empty"):
        seg_of(volume, np.zeros_like(labels))
    with pytest.raises(InvalidResult, match="holds 3"):
        seg_of(volume, np.where(labels == 2, 3, labels).astype(np.uint8))
    with pytest.raises(GeometryError, match="label map"):
        seg_of(volume, labels[1:])
    with pytest.raises(InputError, match="float32"):
        seg_of(volume, labels.astype(np.float32))  # type: ignore[arg-type]


def test_refuses_sources_without_a_frame_of_reference() -> None:
    volume, labels = phantom_case()
    for source in volume.sources:
        del source.FrameOfReferenceUID
    with pytest.raises(InputError, match="Frame of Reference"):
        seg_of(volume, labels)
