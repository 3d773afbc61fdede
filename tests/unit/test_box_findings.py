"""Boxes: what is said of them, and that report, presentation state and picture show them where they lie."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from read_back import found_by_dciodvfy
from result_cases import ALGORITHM, identity_of, phantom_case, report_of, written
from test_presentation_state import drawn, states_of

from isocenter_operators.box_findings import found_in
from isocenter_operators.box_picture_writer import box_pictures
from isocenter_operators.dicom.catalogue import segments_of
from isocenter_operators.dicom.findings import Box, Findings
from isocenter_operators.dicom.results.key_frames import key_frames
from isocenter_operators.dicom.rules.validate import problems
from isocenter_operators.dicom.series.geometry import Volume
from isocenter_operators.errors import InvalidResult

CLASSES = segments_of(["lung nodule", "something else"])[0]
GEOMETRIES: dict[str, dict[str, Any]] = {
    "axial": {"size": (60, 50, 40), "spacing_mm": (4.0, 5.0, 5.0)},
    "coronal": {"orientation": "LIP", "size": (60, 40, 40), "spacing_mm": (4.0, 5.0, 5.0)},
    "sagittal": {"orientation": "ASR", "size": (50, 40, 50), "spacing_mm": (4.0, 5.0, 5.0)},
    "oblique": {"oblique_deg": 1.5, "size": (60, 50, 40), "spacing_mm": (4.0, 5.0, 5.0)},
}
CENTRE, SIZE = (-42.0, 11.0, 7.0), (21.0, 33.0, 27.0)


def tensors(*boxes: tuple[float, ...], scores: list[float], classes: list[int]) -> dict[str, NDArray[Any]]:
    return {
        "boxes": np.array(boxes, np.float64).reshape(-1, 6),
        "scores": np.array(scores),
        "classes": np.array(classes, np.int32),
    }


def found(given: dict[str, NDArray[Any]], volume: Volume, **options: Any) -> Findings:
    depth, height, width = volume.voxels.shape
    return found_in(given, CLASSES, volume.affine, (depth, height, width), **options)


@pytest.fixture(scope="module")
def volume() -> Volume:
    return phantom_case(**GEOMETRIES["axial"])[0]


def test_the_surest_come_first_and_what_is_left_out_is_counted(volume: Volume) -> None:
    boxes = [(10.0 * n, 0, 0, 8, 9, 10) for n in range(-4, 4)]
    given = tensors(*boxes, scores=[0.1, 0.9, 0.3, 0.8, 0.2, 0.7, 0.4, 0.6], classes=[1, 1, 2, 1, 1, 1, 1, 1])
    findings = found(given, volume, at_most=6, notes=("a note",))
    labels = [group.label for group in findings.groups]
    assert labels == [*(f"Lung nodule {number}" for number in range(1, 6)), "something else 6"]
    scores = [group.measurements[0].value for group in findings.groups]
    assert scores == pytest.approx([90, 80, 70, 60, 40, 30])
    first = findings.groups[0]
    assert first.region == Box((-30.0, 0.0, 0.0), (8.0, 9.0, 10.0))
    assert [group.kind for group in findings.groups] == [*["Lung nodule"] * 5, "something else"]
    assert {each.name: each.value for each in first.measurements} == {
        **{"certainty_percent": pytest.approx(90), "width_mm": 8.0, "depth_mm": 9.0, "height_mm": 10.0}
    }
    assert (first.finding.meaning, first.site.meaning if first.site else "") == ("Nodule", "Lung")
    told = " ".join(findings.notes)
    assert (
        "The model has found 8 boxes. Only the 6 with the highest scores are told of here; the others" in told
    )
    assert "have 20.0 % and less" in told
    assert "It is not calibrated" in told
    assert findings.notes[-1] == "a note"


def test_nothing_found_is_said_and_what_lies_beside_the_images_too(volume: Volume) -> None:
    nothing = found(tensors(scores=[], classes=[]), volume)
    assert nothing.groups == ()
    assert nothing.notes == ("Nothing was found of: Lung nodule, something else.",)
    beside = found(tensors((500, 0, 0, 9, 9, 9), scores=[0.9], classes=[1]), volume)
    assert beside.groups == ()
    assert "1 box lies beside the images, and no image shows anything of it: left out." in beside.notes


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (tensors((0, 0, 0, 9, 9, 0), scores=[0.9], classes=[1]), "without a place or without a size"),
        (tensors((0, 0, np.nan, 9, 9, 9), scores=[0.9], classes=[1]), "without a place or without a size"),
        (tensors((0, 0, 0, 9, 9, 9), scores=[1.1], classes=[1]), "scores from 1.1 to 1.1, not from 0 to 1"),
        (tensors((0, 0, 0, 9, 9, 9), scores=[0.9], classes=[3]), "class 3, and says of 2 what they are"),
        (tensors((0, 0, 0, 9, 9, 9), scores=[0.9, 0.8], classes=[1]), "do not belong together"),
    ],
)
def test_boxes_that_are_none_are_refused(given: dict[str, NDArray[Any]], said: str, volume: Volume) -> None:
    with pytest.raises(InvalidResult, match=said):
        found(given, volume)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_box_lies_in_report_and_presentation_state_where_it_lies_in_the_patient(
    geometry: str, tmp_path: Path
) -> None:
    volume = phantom_case(**GEOMETRIES[geometry])[0]
    findings = found(tensors((*CENTRE, *SIZE), scores=[0.875], classes=[1]), volume)
    report = report_of(volume, findings)
    path = written(report, tmp_path, "sr")
    bad = [each for each in (*problems(path), *found_by_dciodvfy(path)) if each.severity == "error"]
    assert bad == []
    (group,) = highdicom.sr.srread(path).content.get_volumetric_roi_measurement_groups()
    corners = np.concatenate(group.roi.graphic_data)
    low, high = np.array(CENTRE) - np.array(SIZE) / 2, np.array(CENTRE) + np.array(SIZE) / 2
    leeway = 2.0 if geometry == "oblique" else 1e-2  # whose ends are cut across the box's corners
    assert corners.min(axis=0) == pytest.approx(low, abs=leeway)
    assert corners.max(axis=0) == pytest.approx(high, abs=leeway)
    assert group.get_measurements()[0].value == 87.5
    (state,) = states_of(volume, findings)
    assert [
        each for each in found_by_dciodvfy(written(state, tmp_path, "pr")) if each.severity == "error"
    ] == []
    shown = drawn(state, volume)
    normal = np.cross(*volume.frames[0].directions)
    heights = np.array([frame.position_mm @ normal for frame in volume.frames])
    reach = (np.abs(normal) * SIZE)[np.abs(normal).argmax()] / 2
    assert [place for place, _, _ in shown] == list(
        np.flatnonzero(np.abs(heights - normal @ CENTRE) <= reach)
    )
    for _, kind, points in shown:
        assert kind == "POLYLINE"
        assert (points >= low - 0.02).all()
        assert (points <= high + 0.02).all()
    assert {str(text.UnformattedTextValue) for text in texts(state)} == {"Lung nodule 1: 87.5 %"}


def texts(state: Dataset) -> list[Dataset]:
    return [text for item in state.GraphicAnnotationSequence for text in item.TextObjectSequence]


def test_a_box_between_two_images_is_drawn_on_the_nearer_one(volume: Volume) -> None:
    findings = found(tensors((0, 0, 4.0, 9, 9, 1), scores=[0.9], classes=[1]), volume)
    ((place, _, points),) = drawn(states_of(volume, findings)[0], volume)
    heights = [float(frame.position_mm[2]) for frame in volume.frames]
    assert place == int(np.abs(np.array(heights) - 4.0).argmin())
    assert points[:, :2].min(axis=0) == pytest.approx([-4.5, -4.5], abs=0.01)
    assert report_of(volume, findings)


def test_a_box_ends_where_the_images_do(volume: Volume, tmp_path: Path) -> None:
    """Resampled for the model, they may reach a voxel further."""
    edge = volume.affine[:3, 3]
    findings = found(tensors((*edge, 30, 40, 24), scores=[0.9], classes=[1]), volume)
    path = written(report_of(volume, findings), tmp_path, "sr")
    (group,) = highdicom.sr.srread(path).content.get_volumetric_roi_measurement_groups()
    corners = np.concatenate(group.roi.graphic_data)
    assert corners.min(axis=0) == pytest.approx(edge - np.array([2.0, 2.5, 2.5]), abs=0.01)
    assert states_of(volume, findings)


def test_key_images_show_the_middle_of_a_box(volume: Volume) -> None:
    findings = found(tensors((0, 0, 7.0, 9, 9, 30), scores=[0.9], classes=[1]), volume)
    (key,) = key_frames(frames=volume.frames, findings=findings)
    assert abs(key.frame.position_mm[2] - 7.0) <= 2.5


def test_pictures_go_through_the_surest_findings(volume: Volume) -> None:
    """Two at one height share a picture; each box has a colour of its own."""
    boxes = [(-40, 0, 2, 20, 20, 16), (40, 0, 3, 20, 20, 16), (0, 40, 60, 20, 20, 16)]
    findings = found(tensors(*boxes, scores=[0.9, 0.8, 0.7], classes=[1, 1, 2]), volume)
    pictures = box_pictures(
        volume=volume, findings=findings, algorithm=ALGORITHM, identity=identity_of(volume)
    )
    assert len(pictures) == 2
    first, second = (picture.pixel_array.astype(int) for picture in pictures)
    both, one = (hues(pixels) for pixels in (first, second))
    assert len(both - one) == 2
    assert len(one - both) == 1


def hues(pixels: NDArray[Any]) -> set[int]:
    """The strong colours in the part of the picture that is the section, as parts of the circle, in 24ths."""
    section = pixels[60:560].reshape(-1, 3)
    strong = section[np.ptp(section, axis=1) > 120] / 255
    found = [round(24 * colorsys.rgb_to_hsv(*each)[0]) % 24 for each in strong[::7]]
    return {hue for hue in found if found.count(hue) > 20}
