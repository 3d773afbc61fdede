"""Presentation states: a finding is drawn on the right image, at the right pixel, and on no other."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from read_back import found_by_dciodvfy, lacking
from result_cases import ALGORITHM, identity_of, phantom_case, read_case, report_of, written

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import (
    Code,
    Contour,
    Findings,
    Measurement,
    MeasurementGroup,
    Points,
    Region,
)
from isocenter_operators.dicom.results.presentation_state import presentation_states
from isocenter_operators.dicom.rules.validate import check
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.series.geometry import Volume, volume_of
from isocenter_operators.errors import InputError, InvalidResult
from isocenter_operators.testing import thorax_phantom
from isocenter_operators.testing.enhanced import as_enhanced

NODULE = Code("27925004", "SCT", "Nodule")
SURE = Measurement("certainty_percent", codes.CERTAINTY_OF_FINDING, 87.5, codes.PERCENT)
GEOMETRIES: dict[str, dict[str, Any]] = {
    "axial": {},
    "turned": {"orientation": "RAI"},
    "coronal": {"orientation": "LIP", "size": (80, 80, 24)},
    "sagittal": {"orientation": "ASR", "size": (80, 80, 24)},
    "oblique": {"oblique_deg": 20.0},
}


def copy_of(instance: Dataset) -> Dataset:
    """Without its pixels. (pydicom's own shallow copies share their elements.)"""
    copy = Dataset()
    for element in instance:
        if element.keyword != "PixelData":
            copy.add(deepcopy(element))
    return copy


def tilted(volume: Volume) -> Volume:
    """As with a tilted gantry: each slice lies 5 mm further along its columns than the one before."""
    frames = []
    for z, frame in enumerate(volume.frames):
        instance = copy_of(frame.instance)
        instance.ImagePositionPatient = [float(p) for p in frame.position_mm + 5.0 * z * frame.directions[1]]
        frames.append(Frame(instance))
    affine = volume.affine.copy()
    affine[:3, 2] += 5.0 * volume.frames[0].directions[1]
    return dataclasses.replace(volume, frames=tuple(frames), affine=affine)


@pytest.fixture(scope="module")
def volume() -> Volume:
    return phantom_case(size=(48, 40, 12), spacing_mm=(7.6, 7.0, 24.0), oblique_deg=20.0)[0]


def mm(volume: Volume, *index: tuple[float, float, float]) -> tuple[tuple[float, float, float], ...]:
    """Indices (x, y, z) of the volume's voxels in LPS mm."""
    points = np.array(index) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return tuple((float(x), float(y), float(z)) for x, y, z in points)


def findings_of(*regions: Region, **others: Any) -> Findings:
    return Findings(
        tuple(MeasurementGroup(f"Nodule {n}", NODULE, region=r, **others) for n, r in enumerate(regions, 1))
    )


def states_of(volume: Volume, findings: Findings) -> tuple[Dataset, ...]:
    return presentation_states(
        findings=findings, frames=volume.frames, algorithm=ALGORITHM, identity=identity_of(volume)
    )


def drawn(state: Dataset, volume: Volume) -> list[tuple[int, str, NDArray[np.float64]]]:
    """Of each graphic the slice that it is drawn on, its type, and its points in LPS mm, by PS3.3, C.10.5 (the corner
    of the first pixel is 0\\0) and C.7.6.2.1.1 (the position is that of its centre)."""
    found = []
    for annotation in state.GraphicAnnotationSequence:
        (image,) = annotation.ReferencedImageSequence
        (place,) = [
            z
            for z, frame in enumerate(volume.frames)
            if frame.instance.SOPInstanceUID == image.ReferencedSOPInstanceUID
            and frame.number == image.get("ReferencedFrameNumber")
        ]
        frame = volume.frames[place]
        along_row, along_column = np.array(frame.get("ImageOrientationPatient"), float).reshape(2, 3)
        row_mm, column_mm = map(float, frame.get("PixelSpacing"))
        for graphic in annotation.GraphicObjectSequence:
            assert graphic.GraphicAnnotationUnits == "PIXEL"
            column, row = (np.array(graphic.GraphicData, float).reshape(-1, 2) - 0.5).T
            points = (
                np.array(frame.get("ImagePositionPatient"), float)
                + np.outer(column * column_mm, along_row)
                + np.outer(row * row_mm, along_column)
            )
            found.append((place, str(graphic.GraphicType), points))
    return found


@pytest.mark.parametrize("geometry", [*GEOMETRIES, "tilted"])
def test_each_finding_is_drawn_where_it_lies(geometry: str, tmp_path: Path) -> None:
    case = {"size": (48, 40, 12), "spacing_mm": (7.6, 7.0, 24.0), **GEOMETRIES.get(geometry, {})}
    volume, _ = phantom_case(**case)
    volume = tilted(volume) if geometry == "tilted" else volume
    place = mm(volume, (20.25, 10, 5))
    outline = mm(volume, (10, 8, 7), (30, 8, 7), (25.5, 20, 7), (12, 30, 7))
    (state,) = states_of(volume, findings_of(Points(place), Contour(outline)))
    state = dcmread(written(state, tmp_path, "state"))
    (at_5, point, points), (at_7, line, vertices) = drawn(state, volume)
    assert (at_5, point, at_7, line) == (5, "POINT", 7, "POLYLINE")
    np.testing.assert_allclose(points, place, atol=0.01)
    np.testing.assert_allclose(vertices, [*outline, outline[0]], atol=0.01)
    (series,) = state.ReferencedSeriesSequence
    listed = [image.ReferencedSOPInstanceUID for image in series.ReferencedImageSequence]
    assert listed == [volume.frames[z].instance.SOPInstanceUID for z in (5, 7)]


def test_names_the_frames_of_a_multi_frame_image(tmp_path: Path) -> None:
    phantom = thorax_phantom(size=(48, 40, 12), spacing_mm=(7.6, 7.0, 24.0), noise_hu=0.0)
    volume = volume_of(as_enhanced(phantom, instances=2, order=[*range(1, 12, 2), *range(0, 12, 2)]))
    places = mm(volume, (20, 10, 4), (21, 11, 5), (22, 12, 6))
    (state,) = states_of(volume, findings_of(Points(places)))
    path = written(state, tmp_path, "state")
    found = drawn(dcmread(path), volume)
    assert [place for place, *_ in found] == [4, 5, 6]
    np.testing.assert_allclose(np.vstack([points for *_, points in found]), places, atol=0.01)
    assert not [problem for problem in found_by_dciodvfy(path) if problem.severity == "error"]


def test_what_lies_beside_the_slices_is_drawn_on_the_nearest_and_what_crosses_them_is_cut(
    volume: Volume,
) -> None:
    beside = Contour(mm(volume, (10, 8, 6.7), (30, 8, 6.8), (30, 20, 6.8), (10, 20, 6.7)))
    upright = Contour(mm(volume, (12, 10, 2.6), (12, 30, 2.6), (12, 30, 5.4), (12, 20, 4.4), (12, 10, 5.4)))
    (state,) = states_of(volume, findings_of(beside, upright))
    found = {}
    for place, kind, points in drawn(state, volume):
        assert kind == "POLYLINE"
        index = (points - volume.affine[:3, 3]) @ np.linalg.inv(volume.affine[:3, :3]).T
        found.setdefault(place, []).append(np.round(index, 2).tolist())
    # The notch ends at 4.4, between the slices 4 and 5: there the outline is cut twice.
    expected = {
        3: [[[12, 10, 3], [12, 30, 3]]],
        4: [[[12, 10, 4], [12, 30, 4]]],
        5: [[[12, 10, 5], [12, 14, 5]], [[12, 26, 5], [12, 30, 5]]],
        7: [[[10, 8, 7], [30, 8, 7], [30, 20, 7], [10, 20, 7], [10, 8, 7]]],
    }
    assert set(found) == set(expected)
    for place, lines in expected.items():
        sorted_lines = sorted(sorted(line) if len(line) == 2 else line for line in found[place])
        np.testing.assert_allclose(sorted_lines, lines, atol=0.02, err_msg=f"slice {place}")


def test_a_solid_is_drawn_on_each_of_its_slices_with_its_name_and_certainty(volume: Volume) -> None:
    solid = tuple(
        Contour(mm(volume, (10, 8, z), (30, 8, z), (30, 20, z), (10, 20, z))) for z in (3.0, 4.0, 5.0)
    )
    findings = findings_of(Points(mm(volume, (5, 5, 4))), solid, measurements=(SURE,), laterality=codes.LEFT)
    findings = Findings((MeasurementGroup("All", NODULE), *findings.groups))
    (state,) = states_of(volume, findings)
    check(state)
    assert sorted(place for place, *_ in drawn(state, volume)) == [3, 4, 4, 5]
    report = report_of(volume, findings)
    measured = tracking_uids(report)
    for annotation in state.GraphicAnnotationSequence:
        texts = {text.TrackingUID: text.UnformattedTextValue for text in annotation.TextObjectSequence}
        graphics = [graphic.TrackingUID for graphic in annotation.GraphicObjectSequence]
        assert list(texts) == graphics
        assert set(graphics) <= measured
        assert set(texts.values()) <= {"Nodule 1 (left): 87.5 %", "Nodule 2 (left): 87.5 %"}
    assert [group.GraphicGroupLabel for group in state.GraphicGroupSequence] == ["Nodule 1", "Nodule 2"]


def tracking_uids(item: Dataset) -> set[str]:
    own = (
        {str(item.UID)} if "UID" in item and item.ConceptNameCodeSequence[0].CodeValue == "112040" else set()
    )
    return own.union(*(tracking_uids(child) for child in item.get("ContentSequence") or []))


def test_images_are_shown_as_they_are_meant(volume: Volume) -> None:
    """The first of an image's own windows, and one state for each modality transformation."""
    frames = [Frame(copy_of(frame.instance)) for frame in volume.frames]
    for z, frame in enumerate(frames):
        frame.instance.RescaleSlope = 2 if z == 6 else 1
        frame.instance.WindowCenter, frame.instance.WindowWidth = [40 + (z == 5), -600], [400, 1500]
        frame.instance.PhotometricInterpretation = "MONOCHROME1"
    places = Points(mm(volume, (20, 10, 4), (21, 11, 5), (22, 12, 6)))
    states = states_of(dataclasses.replace(volume, frames=tuple(frames)), findings_of(places))
    assert [(float(s.RescaleSlope), len(s.GraphicAnnotationSequence)) for s in states] == [(1, 2), (2, 1)]
    windows = [(float(w.WindowCenter), float(w.WindowWidth)) for w in states[0].SoftcopyVOILUTSequence]
    assert windows == [(40, 400), (41, 400)]
    (image,) = states[0].SoftcopyVOILUTSequence[1].ReferencedImageSequence
    assert image.ReferencedSOPInstanceUID == frames[5].instance.SOPInstanceUID
    assert {state.PresentationLUTShape for state in states} == {"INVERSE"}
    assert len({state.SOPInstanceUID for state in states}) == 2
    assert len({state.SeriesInstanceUID for state in states}) == 1


def test_refuses_what_it_can_not_show(volume: Volume) -> None:
    inside = mm(volume, (10, 8, 4), (30, 8, 4), (30, 20, 4))
    for region, message in (
        (Points(mm(volume, (20, 10, 11.6))), "half the distance between slices"),
        (Points(mm(volume, (50, 10, 4))), "beside the images"),
        (Contour(mm(volume, (10, 8, 10), (10, 20, 10), (10, 20, 12))), "half the distance between slices"),
        (Contour(inside[:2]), "2 points"),
        (Points(()), "not made of points"),
    ):
        with pytest.raises(InvalidResult, match=message):
            states_of(volume, findings_of(region))
    gap = dataclasses.replace(volume, frames=(*volume.frames[:4], *volume.frames[6:]))
    with pytest.raises(InvalidResult, match="half the distance between slices"):
        states_of(gap, findings_of(Points(mm(volume, (20, 10, 4.6)))))
    with pytest.raises(InvalidResult, match="no finding has a place"):
        states_of(volume, Findings((MeasurementGroup("All", NODULE),)))
    colour = Frame(copy_of(volume.frames[0].instance))
    colour.instance.SamplesPerPixel = 3
    with pytest.raises(InputError, match="colour"):
        states_of(
            dataclasses.replace(volume, frames=(colour, *volume.frames[1:])), findings_of(Contour(inside))
        )


def test_what_reaches_a_little_over_the_edge_is_drawn_at_the_edge(volume: Volume) -> None:
    outline = Contour(mm(volume, (-1, 8, 4), (30, 8, 4), (30, 20, 4), (-1, 20, 4)))
    (state,) = states_of(volume, findings_of(outline))
    (annotation,) = state.GraphicAnnotationSequence
    columns = annotation.GraphicObjectSequence[0].GraphicData[::2]
    assert (min(columns), max(columns)) == (0.0, pytest.approx(30.5))


def test_the_same_job_gives_the_same_bytes(volume: Volume, tmp_path: Path) -> None:
    findings = findings_of(Points(mm(volume, (20, 10, 4))), measurements=(SURE,))
    first, second = (
        written(states_of(volume, findings)[0], tmp_path, name).read_bytes() for name in ("first", "second")
    )
    assert first == second


@pytest.mark.parametrize("series", ["ct-head-phantom/S3010", "mr-abdomen/adc_image", "mr-abdomen/t2_image"])
def test_dciodvfy_finds_no_error_and_dcmtk_takes_it(series: str, test_data: Path, tmp_path: Path) -> None:
    volume, _ = read_case(test_data / series)
    place = Points(mm(volume, (20, 10, 1), (30, 20, 2)))
    outline = Contour(mm(volume, (10, 8, 1), (30, 8, 1), (30, 20, 1), (10, 20, 1)))
    for state in states_of(volume, findings_of(place, outline, measurements=(SURE,))):
        check(state)
        path = written(state, tmp_path, "state")
        assert not [problem for problem in found_by_dciodvfy(path) if problem.severity == "error"]
        if shutil.which("dcmpschk") is None:
            lacking("DCMTK is not installed: apt-get install dcmtk")
        told = subprocess.run(
            ["dcmpschk", path], capture_output=True, text=True, errors="replace", check=False
        )
        assert "Test passed" in told.stdout + told.stderr, told.stdout + told.stderr
