"""Checks of results: what others wrote passes, each kind of damage is found and named, no patient in the words."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from foreign_results import (
    basic_text,
    encapsulated_pdf,
    key_objects,
    label_map,
    parametric_map,
    presentation_state,
    structure_set,
)
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from read_back import found_by_dciodvfy
from result_cases import findings_of, phantom_case, pictures_of, report_of, seg_of, written

from isocenter.cli import main
from isocenter_operators.dicom.rules.validate import check, check_against, dciodvfy, problems
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


@pytest.fixture(scope="module")
def sources() -> list[Dataset]:
    return list(phantom_case(size=(24, 20, 8), spacing_mm=(15.0, 15.0, 36.0))[0].sources)


@pytest.fixture(scope="module")
def kinds(sources: list[Dataset]) -> dict[str, Dataset]:
    """One result of each kind, by ourselves and by others, of the same small series."""
    volume, labels = phantom_case(size=(24, 20, 8), spacing_mm=(15.0, 15.0, 36.0))
    seg = seg_of(volume, labels)
    return {
        "seg": seg,
        "sr": report_of(volume, findings_of(volume, labels), seg),
        "labelmap": label_map(sources, labels),
        "map": parametric_map(sources, labels.astype(np.float32) / 2),
        "state": presentation_state(sources[0]),
        "keys": key_objects(sources[:2]),
        "structures": structure_set(sources),
        "pdf": encapsulated_pdf(sources[0]),
        "text": basic_text(sources[0]),
    }


def test_each_kind_of_result_has_no_problem(kinds: dict[str, Dataset], sources: list[Dataset]) -> None:
    for kind, result in kinds.items():
        assert problems(result) == [], kind
        assert check_against(result, [*sources, *kinds.values()]) == [], kind


def assign(path: str, value: object) -> Callable[[Dataset], None]:
    """Another value for the attribute at "Sequence.0.Keyword"; None takes it away."""

    def damage(dataset: Dataset) -> None:
        *steps, keyword = path.split(".")
        place = dataset
        for step in steps:
            place = place[int(step)] if step.isdigit() else getattr(place, step)
        if value is None:
            del place[keyword]
        else:
            setattr(place, keyword, value)

    return damage


def item_of(report: Dataset, meaning: str) -> Dataset:
    """The first content item with this concept name."""
    for item in report.ContentSequence:
        names = item.get("ConceptNameCodeSequence")
        if names and names[0].CodeMeaning.lower() == meaning.lower():
            return item
        if "ContentSequence" in item:
            try:
                return item_of(item, meaning)
            except LookupError:
                continue
    raise LookupError(meaning)


def lose_items(*meanings: str) -> Callable[[Dataset], None]:
    """Take every content item with one of these concept names out of the tree."""

    def damage(report: Dataset) -> None:
        kept = [
            item
            for item in report.ContentSequence
            if "ConceptNameCodeSequence" not in item
            or item.ConceptNameCodeSequence[0].CodeMeaning.lower() not in meanings
        ]
        report["ContentSequence"].value = Sequence(kept)
        for item in kept:
            if "ContentSequence" in item:
                damage(item)

    return damage


def change_item(meaning: str, path: str, value: object) -> Callable[[Dataset], None]:
    return lambda report: assign(path, value)(item_of(report, meaning))


def lose_observer(report: Dataset) -> None:
    report.ContentSequence = [i for i in report.ContentSequence if i.RelationshipType != "HAS OBS CONTEXT"]


def repeat_segment_reference(report: Dataset) -> None:
    group = item_of(report, "Measurement Group")
    group.ContentSequence.append(copy.deepcopy(item_of(group, "Referenced Segment")))


def side_of_the_head(report: Dataset) -> None:
    code = item_of(report, "Laterality").ConceptCodeSequence[0]
    code.CodeValue, code.CodeMeaning = "69536005", "Head"


def same_tracking(seg: Dataset) -> None:
    seg.SegmentSequence[1].TrackingUID = seg.SegmentSequence[0].TrackingUID


def undescribed_value(seg: Dataset) -> None:
    seg.SegmentSequence = [item for item in seg.SegmentSequence if item.SegmentNumber != 2]


def infinite(image: Dataset) -> None:
    values = np.frombuffer(image.FloatPixelData, "<f4").copy()
    values[7] = np.inf
    image.FloatPixelData = values.tobytes()


def off_plane(structures: Dataset) -> None:
    data = structures.ROIContourSequence[0].ContourSequence[0].ContourData
    structures.ROIContourSequence[0].ContourSequence[0].ContourData = [
        *data[:5],
        float(data[5]) + 4,
        *data[6:],
    ]


def another_side(seg: Dataset) -> None:
    code = seg.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    code.CodeValue, code.CodeMeaning = "29700009", "Subclavian artery"  # which is the right one's


def unknown_category(seg: Dataset) -> None:
    code = seg.SegmentSequence[0].SegmentedPropertyCategoryCodeSequence[0]
    code.CodeValue, code.CodeMeaning = "39607008", "Lung"


_CONTOUR = "ROIContourSequence.0.ContourSequence.0"
_IMAGE = f"{_CONTOUR}.ContourImageSequence.0"
_ROI = "StructureSetROISequence.0"
_GRAPHIC = "GraphicAnnotationSequence.0.GraphicObjectSequence.0"
_MAPPING = "SharedFunctionalGroupsSequence.0.RealWorldValueMappingSequence"


@pytest.mark.parametrize(
    ("kind", "damage", "severity", "where"),
    [
        ("seg", same_tracking, "error", "segment 2: TrackingUID"),
        ("seg", assign("SegmentSequence.0.TrackingID", None), "error", "segment 1: TrackingUID"),
        ("seg", assign("SegmentSequence.0.TrackingUID", "1..2"), "error", "segment 1: TrackingUID"),
        ("seg", assign("BitsStored", 8), "error", "BitsStored"),
        ("seg", assign("SegmentationType", "LABELMAP"), "error", "SegmentationType"),
        ("seg", assign("PhotometricInterpretation", "MONOCHROME1"), "error", "PhotometricInterpretation"),
        ("seg", another_side, "warning", "SegmentedPropertyTypeCodeSequence"),
        ("seg", unknown_category, "warning", "SegmentedPropertyCategoryCodeSequence"),
        ("seg", assign("SegmentSequence.0.SegmentNumber", None), "error", "segment -1: SegmentNumber"),
        ("structures", assign("ROIContourSequence.0.ROIDisplayColor", 5), "error", "object"),
        ("seg", assign("SpecificCharacterSet", ["ISO_IR 192", "ISO 2022 IR 87"]), "error", "SpecificCharacterSet"),
        ("labelmap", undescribed_value, "error", "PixelData"),
        ("labelmap", assign("PixelPaddingValue", 9), "warning", "PixelPaddingValue"),
        ("labelmap", assign("PixelPaddingValue", None), "warning", "segment 0"),
        ("labelmap", assign("BitsAllocated", 32), "error", "BitsAllocated"),
        ("labelmap", assign("PhotometricInterpretation", "PALETTE COLOR"), "error", "RedPaletteColorLookup"),
        ("labelmap", assign("SegmentsOverlap", "YES"), "error", "SegmentsOverlap"),
        ("sr", lose_observer, "error", "Observation Context"),
        ("sr", lose_items("procedure reported"), "error", "Procedure reported"),
        ("sr", lose_items("imaging measurements"), "error", "Imaging Measurements"),
        ("sr", lose_items("image library group"), "warning", "Image Library"),
        ("sr", lose_items("algorithm version"), "error", "measurement group 1: algorithm"),
        ("sr", lose_items("source series for segmentation"), "error", "measurement group 1: Source series"),
        ("sr", lose_items("referenced segment"), "error", "measurement group 1: region"),
        ("sr", repeat_segment_reference, "error", "measurement group 1: Referenced Segment"),
        ("sr", change_item("Tracking Identifier", "RelationshipType", "CONTAINS"), "error", "measurement group 1: T"),
        ("sr", change_item("Finding", "ValueType", "TEXT"), "error", "measurement group 1: Finding"),
        ("sr", side_of_the_head, "error", "content item"),
        ("sr", change_item("Tracking Identifier", "TextValue", None), "error", "content item"),
        ("sr", assign("SOPClassUID", "1.2.840.10008.5.1.4.1.1.88.11"), "error", "content item"),
        ("map", infinite, "warning", "FloatPixelData"),
        ("map", assign("BitsAllocated", 16), "error", "BitsAllocated"),
        ("map", assign(_MAPPING, None), "error", "RealWorldValueMappingSequence"),
        ("map", assign(f"{_MAPPING}.0.QuantityDefinitionSequence", None), "warning", "RealWorldValueMappingSequence"),
        ("map", assign(f"{_MAPPING}.0.RealWorldValueSlope", None), "error", "RealWorldValueMappingSequence"),
        ("map", drop("ReferencedSeriesSequence"), "error", "ReferencedSeriesSequence"),
        ("state", assign("GraphicLayerSequence.0.GraphicLayer", "OTHER"), "error", "annotation 1: GraphicLayer"),
        ("state", assign(f"{_GRAPHIC}.GraphicData", [1.0, 2.0, 3.0]), "error", "annotation 1: GraphicData"),
        ("state", assign(f"{_GRAPHIC}.NumberOfGraphicPoints", 3), "error", "annotation 1: NumberOfGraphicPoints"),
        ("state", assign("ReferencedSeriesSequence.0.ReferencedImageSequence", []), "error", "ReferencedSeries"),
        ("state", drop("PresentationLUTShape"), "error", "PresentationLUTShape"),
        ("keys", drop("CurrentRequestedProcedureEvidenceSequence"), "error", "content item"),
        ("keys", assign("ContentSequence", []), "error", "ContentSequence"),
        ("keys", assign("ContentTemplateSequence.0.TemplateIdentifier", "2000"), "warning", "ContentTemplateSequence"),
        ("keys", assign("Modality", "SR"), "error", "Modality"),
        ("structures", off_plane, "error", "ROI 1: ContourData"),
        ("structures", assign(f"{_CONTOUR}.NumberOfContourPoints", 5), "error", "ROI 1: ContourData"),
        ("structures", assign(f"{_IMAGE}.ReferencedSOPInstanceUID", "1.9"), "error", "ROI 1: ContourImageSequence"),
        ("structures", assign("ROIContourSequence.0.ReferencedROINumber", 7), "error", "ROIContourSequence"),
        ("structures", assign("ROIContourSequence.0.ROIDisplayColor", [300, 0, 0]), "error", "ROI 1: ROIDisplayColor"),
        ("structures", assign(f"{_ROI}.ReferencedFrameOfReferenceUID", "1.9"), "error", "ROI 1: ReferencedFrameOf"),
        ("structures", assign("RTROIObservationsSequence", []), "warning", "RTROIObservationsSequence"),
        ("pdf", assign("EncapsulatedDocument", b"<html></html>"), "error", "EncapsulatedDocument"),
        ("pdf", assign("EncapsulatedDocument", b"%PDF-1.4" + b" " * 88), "error", "EncapsulatedDocument"),
        ("pdf", assign("DocumentTitle", ""), "warning", "DocumentTitle"),
        ("pdf", drop("BurnedInAnnotation"), "error", "BurnedInAnnotation"),
        ("text", assign("ContentSequence.0.TextValue", ""), "error", "content item 1.1"),
        ("text", assign("ContentSequence.0.ValueType", "SCOORD"), "error", "content item 1.1"),
        ("text", assign("ContentSequence.0.RelationshipType", "IS"), "error", "content item 1.1"),
        ("text", drop("CompletionFlag"), "error", "CompletionFlag"),
    ],
)  # fmt: skip
def test_every_rule_finds_what_it_is_for(
    kinds: dict[str, Dataset], kind: str, damage: Callable[[Dataset], None], severity: str, where: str
) -> None:
    broken = copy.deepcopy(kinds[kind])
    damage(broken)
    found = [(each.severity, each.where) for each in problems(broken)]
    assert any(each == severity and place.startswith(where) for each, place in found), found


def test_private_scheme_that_is_not_declared(kinds: dict[str, Dataset]) -> None:
    broken = copy.deepcopy(kinds["seg"])
    broken.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator = "99OTHER"
    (found,) = problems(broken)
    assert (found.severity, found.where) == ("warning", "CodingSchemeIdentificationSequence")


def test_parts_of_one_thing_may_share_its_tracking_uid(kinds: dict[str, Dataset]) -> None:
    broken = copy.deepcopy(kinds["seg"])
    same_tracking(broken)
    first, second = broken.SegmentSequence
    second.SegmentedPropertyTypeCodeSequence = first.SegmentedPropertyTypeCodeSequence
    assert [(each.severity, each.where) for each in problems(broken)] == [
        ("warning", "segment 2: TrackingUID")
    ]


def shift(axis: int, by_mm: float) -> Callable[[Dataset], None]:
    """Move every frame of a SEG, or of a map."""

    def damage(image: Dataset) -> None:
        for frame in image.PerFrameFunctionalGroupsSequence:
            plane = frame.PlanePositionSequence[0]
            position = [float(value) for value in plane.ImagePositionPatient]
            position[axis] += by_mm
            plane.ImagePositionPatient = position

    return damage


def another_frame_of_reference(image: Dataset) -> None:
    image.FrameOfReferenceUID = "1.2.3"


def another_patient(image: Dataset) -> None:
    image.PatientID = "somebody else's"


def another_tracking(report: Dataset) -> None:
    item_of(report, "Tracking Unique Identifier").UID = "1.2.3"


def another_segment(report: Dataset) -> None:
    item_of(report, "Referenced Segment").ReferencedSOPSequence[0].ReferencedSegmentNumber = 9


def another_class(image: Dataset) -> None:
    image.ReferencedSeriesSequence[0].ReferencedInstanceSequence[
        0
    ].ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"


def another_series(report: Dataset) -> None:
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    evidence.ReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.3"


@pytest.mark.parametrize(
    "case",
    [
        ("seg", shift(2, 36.0), "error", "36.00 mm from where the image"),  # every frame on its neighbour
        ("seg", shift(0, 1.0), "error", "1.00 mm from where the image"),
        ("map", shift(1, -2.0), "error", "2.00 mm from where the image"),
        ("seg", another_frame_of_reference, "error", "FrameOfReferenceUID"),
        ("map", another_patient, "error", "PatientID"),
        ("seg", another_class, "error", "ReferencedSOPClassUID"),
        ("text", another_series, "error", "SeriesInstanceUID"),
        ("sr", another_segment, "error", "ReferencedSegmentNumber"),
        ("sr", another_tracking, "warning", "Tracking Unique Identifier"),
    ],
)
def test_what_is_wrong_beside_the_other_objects(
    kinds: dict[str, Dataset], sources: list[Dataset], case: tuple[str, Callable[[Dataset], None], str, str]
) -> None:
    kind, damage, severity, said = case
    broken = copy.deepcopy(kinds[kind])
    damage(broken)
    others = [*sources, *(result for name, result in kinds.items() if name != kind)]
    found = [(each.severity, f"{each.where} {each.message}") for each in check_against(broken, others)]
    assert any(each == severity and said in words for each, words in found), found
    assert not any("somebody" in words for _, words in found)


def test_a_name_that_systems_write_in_two_ways_refuses_no_result(
    kinds: dict[str, Dataset], sources: list[Dataset]
) -> None:
    """As of a study from two scanners; but one that none of them has is another patient's."""
    seg, images = copy.deepcopy(kinds["seg"]), copy.deepcopy(sources)
    for image in images[::2]:
        image.PatientName = "Phantom^Thorax^Middle"
    (found,) = check_against(seg, images)
    assert (found.severity, found.where) == ("warning", "PatientName")
    check(seg, {image.SOPInstanceUID: image for image in images})
    seg.PatientName = "Somebody^Else"
    (found,) = check_against(seg, images)
    assert (found.severity, found.where) == ("error", "PatientName")
    assert "Somebody" not in found.message


def test_references_that_lead_nowhere(kinds: dict[str, Dataset], sources: list[Dataset]) -> None:
    (found,) = check_against(kinds["seg"], sources[:-2])
    assert (found.severity, found.where) == ("warning", "references")
    assert "made to 2 instances" in found.message
    assert check_against(kinds["seg"], []) == []  # nothing of the series was given


def test_a_frame_that_is_flipped_lies_in_its_place(kinds: dict[str, Dataset], sources: list[Dataset]) -> None:
    """Rows and columns counted from the other corner: the same pixels at the same places."""
    seg = copy.deepcopy(kinds["seg"])
    shared = seg.SharedFunctionalGroupsSequence[0]
    row_mm, column_mm = (float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing)
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    across = cosines[:3] * column_mm * (seg.Columns - 1) + cosines[3:] * row_mm * (seg.Rows - 1)
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = list(-cosines)
    for frame in seg.PerFrameFunctionalGroupsSequence:
        plane = frame.PlanePositionSequence[0]
        plane.ImagePositionPatient = list(np.array(plane.ImagePositionPatient, float) + across)
    assert check_against(seg, sources) == []
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = list(cosines)
    assert any(each.severity == "error" for each in check_against(seg, sources))


def test_results_of_other_writers_lie_on_their_images(test_data: Path) -> None:
    folder = test_data / "reference-results"
    read = {file: dcmread(file) for file in folder.rglob("*") if file.is_file() and has_preamble(file)}
    given = {str(each.SOPInstanceUID): each for each in read.values()}
    found = {file.name: check_against(dataset, given) for file, dataset in read.items()}
    assert {name for name, wrong in found.items() if wrong} == set()
    liver = copy.deepcopy(read[folder / "dcmqi/segmentations/liver.dcm"])
    shift(2, 2.0)(liver)
    assert any(each.severity == "error" for each in check_against(liver, given))


def test_the_command_compares_a_result_with_the_images_beside_it(
    kinds: dict[str, Dataset], sources: list[Dataset], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for number, source in enumerate(sources):
        written(source, tmp_path, f"image{number}")
    assert main(["validate", str(written(kinds["seg"], tmp_path, "seg")), str(tmp_path / "image0.dcm")]) == 0
    assert "are made to 7 instances that are not among the given ones" in capfd.readouterr().out
    moved = copy.deepcopy(kinds["seg"])
    shift(2, 36.0)(moved)
    seg = written(moved, tmp_path, "seg")
    main(["validate", str(seg)])
    assert "seg.dcm: 0 errors" in capfd.readouterr().out
    assert main(["validate", "--json", str(tmp_path)]) == 1
    found = {Path(each["path"]).name: each["problems"] for each in json.loads(capfd.readouterr().out)}
    assert any("lies 36.00 mm from" in problem["message"] for problem in found["seg.dcm"])
    assert not any(problem["where"] == "references" for problem in found["seg.dcm"])


def has_preamble(file: Path) -> bool:
    return file.read_bytes()[128:132] == b"DICM"


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


def test_checks_of_500_frames_do_not_grow_with_their_square() -> None:
    volume, _ = phantom_case(size=(16, 16, 250), spacing_mm=(22.0, 22.0, 1.2))
    labels = np.zeros(volume.voxels.shape, np.uint8)
    labels[:, :, :8], labels[:, :, 8:] = 1, 2
    seg = seg_of(volume, labels)
    assert int(seg.NumberOfFrames) == 500
    started = time.process_time()
    check(seg)
    assert time.process_time() - started < 5  # 0.3 s; each frame with each other one would take minutes


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
