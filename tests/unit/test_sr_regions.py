"""Reports on places, outlines, volumes, whole images, and on nothing found: read back by highdicom, dcmqi and DCMTK."""

from __future__ import annotations

import copy
import dataclasses
from io import BytesIO
from pathlib import Path

import highdicom
import numpy as np
import pytest
from pydicom.dataset import Dataset
from read_back import dumped_by_dcmtk, found_by_dciodvfy, read_report
from result_cases import (
    ALGORITHM,
    CREATED,
    findings_of,
    identity_of,
    phantom_case,
    report_of,
    seg_of,
    written,
)

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import (
    Code,
    Contour,
    Evaluation,
    Findings,
    Measurement,
    MeasurementGroup,
    Points,
)
from isocenter_operators.dicom.identity import JobIdentity
from isocenter_operators.dicom.results.sr import measurement_report
from isocenter_operators.dicom.rules.problem import Problem
from isocenter_operators.dicom.rules.validate import problems
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.series.geometry import Volume, volume_of
from isocenter_operators.errors import InputError, InvalidResult
from isocenter_operators.testing import as_enhanced, thorax_phantom

NODULE = Code("27925004", "SCT", "Nodule")
SURE = Measurement("certainty_percent", codes.CERTAINTY_OF_FINDING, 87.5, codes.PERCENT)
ANSWER = Evaluation(
    "pneumothorax",
    Code("36118008", "SCT", "Pneumothorax"),
    Code("272519000", "SCT", "Absent"),
)
ABSENT = '(36118008,SCT,"Pneumothorax")=(272519000,SCT,"Absent")'
Mm = tuple[float, float, float]


@pytest.fixture(scope="module")
def volume() -> Volume:
    """Oblique, so that no coordinate is right by chance."""
    return phantom_case(oblique_deg=20.0)[0]


def mm(volume: Volume, x: float, y: float, z: float) -> Mm:
    lps = (volume.affine @ (x, y, z, 1.0))[:3]
    return float(lps[0]), float(lps[1]), float(lps[2])


def square(volume: Volume, z: float, first: float = 20, last: float = 30) -> Contour:
    corners = ((first, first), (last, first), (last, last), (first, last))
    return Contour(tuple(mm(volume, x, y, z) for x, y in corners))


def regions(volume: Volume) -> Findings:
    """One of each kind."""
    return Findings(
        (
            MeasurementGroup("one", NODULE, measurements=(SURE,), region=Points((mm(volume, 20, 30, 5),))),
            MeasurementGroup(
                "two",
                NODULE,
                measurements=(SURE,),
                region=Points((mm(volume, 20, 30, 5), mm(volume, 22, 31, 6))),
                site=codes.LUNG,
                laterality=codes.LEFT,
            ),
            MeasurementGroup(
                "outline", NODULE, measurements=(SURE,), region=square(volume, 7), laterality=codes.RIGHT
            ),
            MeasurementGroup(
                "solid",
                NODULE,
                region=tuple(square(volume, z) for z in (7, 8, 9)),
                evaluations=(ANSWER,),
            ),
        )
    )


def content(item: Dataset, concept: str) -> list[Dataset]:
    return [c for c in item.ContentSequence if c.ConceptNameCodeSequence[0].CodeValue == concept]


def groups(report: Dataset) -> list[Dataset]:
    return content(content(report, "126010")[0], "125007")


def source_uids(item: Dataset) -> list[str]:
    return [source.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for source in content(item, "121112")]


def errors(found: list[Problem]) -> list[Problem]:
    return [problem for problem in found if problem.severity == "error"]


def read(report: Dataset, folder: Path) -> highdicom.sr.MeasurementReport:
    return highdicom.sr.srread(written(report, folder, "sr")).content


def test_coordinates_are_read_back_where_they_lie_in_the_patient(volume: Volume, tmp_path: Path) -> None:
    findings = regions(volume)
    report = read(report_of(volume, findings), tmp_path)
    place, outline = report.get_planar_roi_measurement_groups()
    (solid,) = report.get_volumetric_roi_measurement_groups()
    np.testing.assert_allclose(place.roi.value, [mm(volume, 20, 30, 5)], atol=1e-3)
    expected = np.array([*square(volume, 7).points_mm, square(volume, 7).points_mm[0]])
    np.testing.assert_allclose(outline.roi.value, expected, atol=1e-3)
    assert [polygon.shape for polygon in solid.roi.graphic_data] == [(5, 3)] * 3
    np.testing.assert_allclose(solid.roi.graphic_data[2][1], mm(volume, 30, 20, 9), atol=1e-3)
    for region in (place.roi, outline.roi, solid.roi):
        assert region.frame_of_reference_uid == volume.sources[0].FrameOfReferenceUID
    assert outline.get_measurements()[0].value == 87.5
    assert solid.get_qualitative_evaluations()[0].value == highdicom.sr.CodedConcept(*ANSWER.value)
    (several,) = [
        item for item in groups(report_of(volume, findings))[1].ContentSequence if "GraphicType" in item
    ]
    assert several.GraphicType == "MULTIPOINT"
    expected = np.array([mm(volume, 20, 30, 5), mm(volume, 22, 31, 6)])
    np.testing.assert_allclose(np.reshape(several.GraphicData, (-1, 3)), expected, atol=1e-3)


def test_each_region_has_its_template_its_tracking_and_the_images_it_lies_on(volume: Volume) -> None:
    one, two, outline, solid = groups(report_of(volume, regions(volume)))
    templates = [g.ContentTemplateSequence[0].TemplateIdentifier for g in (one, two, outline, solid)]
    assert templates == ["1410", "1501", "1410", "1411"]
    tracked = [content(group, "112040")[0].UID for group in (one, two, outline, solid)]
    assert tracked == [identity_of(volume).uid(f"tracking.region.{number}") for number in (1, 2, 3, 4)]
    uids = [source.SOPInstanceUID for source in volume.sources]
    assert source_uids(one) == [uids[5]]
    assert [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in content(two, "121112")
        if item.ValueType == "IMAGE"
    ] == uids[5:7]
    assert source_uids(outline) == [uids[7]]
    (series,) = content(solid, "121232")
    assert volume.sources[0].SeriesInstanceUID == series.UID


def test_a_side_is_told_with_the_site_and_without(volume: Volume) -> None:
    _, two, outline, _ = groups(report_of(volume, regions(volume)))
    (site,) = content(two, "363698007")
    assert content(site, "272741003")[0].ConceptCodeSequence[0].CodeMeaning == "Left"
    assert content(outline, "363698007") == []
    (finding,) = content(outline, "121071")
    assert content(finding, "272741003")[0].ConceptCodeSequence[0].CodeMeaning == "Right"


def test_other_readers_take_every_kind_of_group(tmp_path: Path) -> None:
    volume, labels = phantom_case()
    segments = findings_of(volume, labels)
    findings = Findings((*segments.groups, *regions(volume).groups), ("a note",))
    report = report_of(volume, findings, seg_of(volume, labels))
    assert errors(problems(report)) == []
    path = written(report, tmp_path, "sr")
    assert errors(found_by_dciodvfy(path)) == []
    dumped = dumped_by_dcmtk(path)
    assert dumped.count('(125007,DCM,"Measurement Group")') == 7
    assert dumped.count("(POLYGON,") == 4
    assert ABSENT in dumped
    by_dcmqi = {
        group["TrackingIdentifier"].rpartition(" ")[2]: group for group in read_report(path, tmp_path)
    }
    (number,) = by_dcmqi["outline"]["measurementItems"]
    assert (float(number["value"]), number["quantity"]["CodeValue"]) == (87.5, "111012")
    assert by_dcmqi["solid"]["SourceSeriesForImageSegmentation"] == volume.sources[0].SeriesInstanceUID


def test_a_classifier_answers_about_the_images_as_a_whole(volume: Volume, tmp_path: Path) -> None:
    whole = MeasurementGroup("Pneumothorax", codes.LUNG, measurements=(SURE,), evaluations=(ANSWER,))
    report = report_of(volume, Findings((whole,)))
    assert problems(report) == []
    (group,) = read(report, tmp_path).get_image_measurement_groups()
    assert [image.referenced_sop_instance_uid for image in group.source_images] == [
        source.SOPInstanceUID for source in volume.sources
    ]
    (answer,) = group.get_qualitative_evaluations()
    assert (answer.name.value, answer.value.value) == (ANSWER.concept.value, ANSWER.value.value)
    assert ABSENT in dumped_by_dcmtk(tmp_path / "sr.dcm")


def test_many_answers_about_many_images_do_not_name_each_image_for_each(
    volume: Volume, tmp_path: Path
) -> None:
    answers = [MeasurementGroup(f"answer {n}", codes.LUNG, evaluations=(ANSWER,)) for n in range(50)]
    report = report_of(volume, Findings(tuple(answers)))
    assert problems(report) == []
    found = read(report, tmp_path).get_image_measurement_groups()
    assert [(len(group.source_images), len(group.get_qualitative_evaluations())) for group in found] == [
        (0, 1)
    ] * 50


def test_a_classifier_needs_no_plane_in_the_patient(tmp_path: Path) -> None:
    """A chest radiograph has none."""
    image = copy.deepcopy(phantom_case()[0].sources[0])
    image.Modality, image.SOPClassUID = "DX", "1.2.840.10008.5.1.4.1.1.1.1"
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "FrameOfReferenceUID"):
        delattr(image, keyword)
    whole = MeasurementGroup("Pneumothorax", codes.LUNG, evaluations=(ANSWER,))
    report = measurement_report(
        findings=Findings((whole,)),
        frames=[Frame(image)],
        algorithm=ALGORITHM,
        identity=JobIdentity.of([image.SOPInstanceUID], ALGORITHM, CREATED),
    )
    assert problems(report) == []
    assert '(DX,DCM,"Digital Radiography")' in dumped_by_dcmtk(written(report, tmp_path, "sr"))


def test_nothing_found_is_said_in_a_code_and_in_words(volume: Volume, tmp_path: Path) -> None:
    note = "No nodule of 4 mm or more was found."
    report = report_of(volume, Findings((), (note,)))
    assert errors(problems(report)) == []
    path = written(report, tmp_path, "sr")
    assert errors(found_by_dciodvfy(path)) == []
    (evaluations,) = content(report, "C0034375")
    (summary,) = content(evaluations, "111017")
    assert summary.ConceptCodeSequence[0].CodeValue == "111241"
    assert [item.TextValue for item in content(evaluations, "121077")] == [note]
    assert content(report, "126010") == []
    read_again = highdicom.sr.srread(path).content
    assert read_again.get_planar_roi_measurement_groups() == []
    assert f'="{note}"' in dumped_by_dcmtk(path)
    assert read_report(path, tmp_path) == []
    with pytest.raises(InvalidResult, match="notes have to say what was looked for"):
        report_of(volume, Findings(()))


def test_frames_of_a_multi_frame_instance_are_named_by_number(tmp_path: Path) -> None:
    phantom = thorax_phantom(size=(48, 40, 12), spacing_mm=(8.0, 8.0, 24.0), noise_hu=0.0)
    volume = volume_of(as_enhanced(phantom))
    some = dataclasses.replace(volume, frames=volume.frames[2:9])
    outline = MeasurementGroup("outline", NODULE, region=square(volume, 6))
    report = report_of(some, Findings((outline,)))
    (source,) = content(groups(report)[0], "121112")
    assert source.ReferencedSOPSequence[0].ReferencedFrameNumber == volume.frames[6].number
    library = content(content(report, "111028")[0], "126200")[0]
    (entry,) = [item for item in library.ContentSequence if item.ValueType == "IMAGE"]
    numbers = sorted(frame.number for frame in some.frames if frame.number)
    assert sorted(entry.ReferencedSOPSequence[0].ReferencedFrameNumber) == numbers
    (spacing,) = content(library, "111026")
    assert float(spacing.MeasuredValueSequence[0].NumericValue) == 8.0
    for concept, meaning in (("113820", "Spiral Acquisition"), ("113961", "Filtered Back Projection")):
        assert content(library, concept)[0].ConceptCodeSequence[0].CodeMeaning == meaning
    path = written(report, tmp_path, "sr")
    assert errors(found_by_dciodvfy(path)) == []
    assert highdicom.sr.srread(path).content.get_planar_roi_measurement_groups()


def test_priors_and_what_is_replaced_are_referenced(volume: Volume, tmp_path: Path) -> None:
    prior = copy.deepcopy(volume.sources[3])
    prior.StudyInstanceUID, prior.SeriesInstanceUID, prior.SOPInstanceUID = "1.2.3", "1.2.3.4", "1.2.3.4.5"
    prior.StudyDate = "20240102"
    replaced = [
        {"sop_class_uid": sop_class, "sop_instance_uid": uid, "series_uid": f"{uid}.1", "study_uid": "2.25.9"}
        for sop_class, uid in (
            ("1.2.840.10008.5.1.4.1.1.66.4", "2.25.11"),
            ("1.2.840.10008.5.1.4.1.1.88.34", "2.25.12"),
        )
    ]
    report = report_of(volume, regions(volume), priors=[prior], predecessors=replaced)
    assert errors(problems(report)) == []
    assert errors(found_by_dciodvfy(written(report, tmp_path, "sr"))) == []
    (other_study,) = report.PertinentOtherEvidenceSequence
    assert other_study.StudyInstanceUID == "1.2.3"
    _, earlier = content(content(report, "111028")[0], "126200")
    assert str(content(earlier, "111060")[0].Date) == "20240102"
    (image,) = content(earlier, codes.PRIOR.value)
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.4.5"
    (predecessor,) = report.PredecessorDocumentsSequence
    (series,) = predecessor.ReferencedSeriesSequence
    assert (predecessor.StudyInstanceUID, series.SeriesInstanceUID) == ("2.25.9", "2.25.12.1")
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.25.12"
    assert "PredecessorDocumentsSequence" not in report_of(volume, regions(volume))


def test_each_series_has_a_group_of_its_own_in_the_image_library(volume: Volume) -> None:
    other = [Frame(copy.deepcopy(frame.instance)) for frame in volume.frames[:3]]
    for frame in other:
        frame.instance.SeriesInstanceUID = "1.2.3.9"
        frame.instance.SOPInstanceUID += ".9"
    both = dataclasses.replace(volume, frames=(*volume.frames, *other))
    library = content(report_of(both, Findings((), ("Nothing.",))), "111028")[0]
    series = [content(group, "112002")[0].UID for group in content(library, "126200")]
    assert series == [volume.sources[0].SeriesInstanceUID, "1.2.3.9"]
    images = [
        sum(item.ValueType == "IMAGE" for item in group.ContentSequence)
        for group in content(library, "126200")
    ]
    assert images == [len(volume.frames), 3]


def test_the_weights_are_named(volume: Volume) -> None:
    weighed = dataclasses.replace(ALGORITHM, weights={"lungs": "ab" * 32})
    reports = [
        measurement_report(
            findings=regions(volume),
            frames=volume.frames,
            algorithm=algorithm,
            identity=identity_of(volume, algorithm),
        )
        for algorithm in (ALGORITHM, weighed)
    ]
    plain, marked = (report.ContributingEquipmentSequence[-1] for report in reports)
    assert (marked.ManufacturerModelName, marked.SoftwareVersions) == ("lungs", "3")
    assert marked.ContributionDescription.endswith("ab" * 32)
    assert marked.DeviceUID != plain.DeviceUID
    (parameter,) = content(groups(reports[1])[0], "111002")
    assert parameter.TextValue == f"model lungs 3, weights SHA-256 {'ab' * 32}"


def test_the_same_findings_make_the_same_bytes(volume: Volume) -> None:
    def made() -> bytes:
        buffer = BytesIO()
        report_of(volume, regions(volume)).save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()

    assert made() == made()


def bent(contour: Contour) -> Contour:
    (x, y, z), *others = contour.points_mm
    return Contour(((x + 1.0, y + 1.0, z + 1.0), *others))


def test_refuses_what_is_nowhere(volume: Volume) -> None:
    seen = square(volume, 7)
    mirrored = Contour(tuple((-x, -y, z) for x, y, z in seen.points_mm))  # RAS taken for LPS
    for region, message in (
        (Points((mm(volume, 20, 30, 26),)), "outside of the images"),
        (Points((mm(volume, 98, 30, 5),)), "outside of the images"),
        (Points(()), "not made of points"),
        (Points(((1.0, 2.0, float("nan")),)), "not made of points"),
        (dataclasses.replace(seen, points_mm=seen.points_mm[:2]), "2 points"),
        (bent(seen), "not flat"),
        ((seen,), "at least two"),
        (Contour(tuple((x + 1000, y, z) for x, y, z in mirrored.points_mm)), "LPS millimetres"),
    ):
        with pytest.raises(InvalidResult, match=message):
            report_of(volume, Findings((MeasurementGroup("lost", NODULE, region=region),)))


def test_refuses_segments_without_a_segmentation_and_two_subjects_at_once(volume: Volume) -> None:
    segment = MeasurementGroup("Right lung", codes.LUNG, (1,))
    with pytest.raises(InvalidResult, match="there is no segmentation"):
        report_of(volume, Findings((segment,)))
    both = dataclasses.replace(segment, region=square(volume, 7))
    with pytest.raises(InvalidResult, match="segments and a region"):
        report_of(volume, Findings((both,)))


def test_coordinates_need_a_frame_of_reference(volume: Volume) -> None:
    frames = [Frame(copy.deepcopy(frame.instance)) for frame in volume.frames]
    for frame in frames:
        del frame.instance.FrameOfReferenceUID
    with pytest.raises(InputError, match="Frame of Reference"):
        report_of(dataclasses.replace(volume, frames=tuple(frames)), regions(volume))
