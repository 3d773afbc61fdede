"""Key objects: the images that show each finding, why, and the whole set of results across its series."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from read_back import found_by_dciodvfy, lacking
from result_cases import (
    ALGORITHM,
    SEGMENTS,
    findings_of,
    identity_of,
    phantom_case,
    pictures_of,
    report_of,
    seg_of,
    written,
)

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Contour, Findings, MeasurementGroup
from isocenter_operators.dicom.results.key_frames import key_frames
from isocenter_operators.dicom.results.key_objects import key_images, result_set
from isocenter_operators.dicom.rules.validate import problems
from isocenter_operators.dicom.series.geometry import Volume, volume_of
from isocenter_operators.errors import GeometryError, InvalidResult
from isocenter_operators.testing import thorax_phantom
from isocenter_operators.testing.enhanced import as_enhanced

Case = tuple[Volume, NDArray[np.uint8]]


@pytest.fixture(scope="module")
def phantom() -> Case:
    return phantom_case()


def text_of(document: Dataset) -> str:
    (item,) = [
        item
        for item in document.ContentSequence
        if item.get("TextValue") and item.RelationshipType == "CONTAINS"
    ]
    return str(item.TextValue)


def referenced(document: Dataset) -> list[Dataset]:
    return [
        item.ReferencedSOPSequence[0]
        for item in document.ContentSequence
        if item.ValueType in ("IMAGE", "COMPOSITE")
    ]


def sound(path: Path) -> None:
    """By our checks, by dciodvfy, and read by DCMTK."""
    assert problems(path) == []
    assert [problem for problem in found_by_dciodvfy(path) if problem.severity == "error"] == []
    if shutil.which("dsrdump") is None:
        lacking("dsrdump is not installed (Debian package dcmtk)")
    run = subprocess.run(["dsrdump", str(path)], capture_output=True, text=True, check=False)
    warnings = run.stderr.replace("W: Check for template constraints not yet supported\n", "")
    assert (run.returncode, warnings) == (0, "")


def square(centre: NDArray[np.float64], half_mm: float) -> Contour:
    corners = [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    return Contour(tuple((centre[0] + half_mm * x, centre[1] + half_mm * y, centre[2]) for x, y in corners))


def test_each_segment_has_the_slice_where_it_is_largest(phantom: Case, tmp_path: Path) -> None:
    volume, labels = phantom
    selected = key_frames(frames=volume.frames, findings=Findings(()), labels=labels, segments=SEGMENTS)
    wanted = {
        segment.label: volume.frames[
            max(range(len(labels)), key=lambda z: int((labels[z] == segment.number).sum()))
        ]
        for segment in SEGMENTS
    }
    assert {reason: key.frame for key in selected for reason in key.reasons} == {
        f"largest area of {label}": frame for label, frame in wanted.items()
    }
    masks = np.array([labels == segment.number for segment in SEGMENTS])  # as segments that overlap come
    of_masks = key_frames(frames=volume.frames, findings=Findings(()), labels=masks, segments=SEGMENTS)
    assert [(key.frame, key.reasons) for key in of_masks] == [(key.frame, key.reasons) for key in selected]
    path = written(
        key_images(selected=selected, algorithm=ALGORITHM, identity=identity_of(volume)), tmp_path, "images"
    )
    sound(path)
    document = dcmread(path)
    assert document.ConceptNameCodeSequence[0].CodeValue == "113000"
    for label, frame in wanted.items():
        assert f"image {frame.instance.InstanceNumber} (largest area of {label})" in text_of(document)
    uids = [reference.ReferencedSOPInstanceUID for reference in referenced(document)]
    assert set(uids) == {frame.instance.SOPInstanceUID for frame in wanted.values()}


def test_a_region_of_several_outlines_is_found_at_the_largest(phantom: Case) -> None:
    volume, _ = phantom
    small, large = volume.frames[4], volume.frames[6]
    region = (square(small.position_mm, 5.0), square(large.position_mm, 9.0))
    findings = Findings((MeasurementGroup("Nodule 1", codes.LUNG, region=region),))
    (key,) = key_frames(frames=volume.frames, findings=findings)
    assert (key.frame, key.reasons) == (large, ("shows Nodule 1",))


def test_only_the_segments_that_were_measured_have_key_images(phantom: Case) -> None:
    volume, labels = phantom
    findings = Findings((MeasurementGroup("Left lung", codes.LUNG, (2,)),))
    (key,) = key_frames(frames=volume.frames, findings=findings, labels=labels, segments=SEGMENTS)
    assert key.reasons == ("largest area of Left lung",)


def test_of_multi_frame_images_the_frames_are_named(tmp_path: Path) -> None:
    phantom = thorax_phantom(size=(48, 40, 8), spacing_mm=(7.6, 7.6, 36.0), noise_hu=0.0)
    volume = volume_of(as_enhanced(phantom))
    labels = np.zeros(volume.voxels.shape, np.uint8)
    labels[2, 10:20, 10:20], labels[5, 10:20, 10:20] = 1, 2
    selected = key_frames(frames=volume.frames, findings=Findings(()), labels=labels, segments=SEGMENTS)
    path = written(
        key_images(selected=selected, algorithm=ALGORITHM, identity=identity_of(volume)), tmp_path, "frames"
    )
    sound(path)
    (reference,) = referenced(dcmread(path))
    assert sorted(reference.ReferencedFrameNumber) == sorted(volume.frames[z].number for z in (2, 5))


def test_the_result_set_names_every_result_in_its_series(phantom: Case, tmp_path: Path) -> None:
    volume, labels = phantom
    findings = findings_of(volume, labels)
    seg = seg_of(volume, labels)
    results = [seg, report_of(volume, findings, seg), *pictures_of(volume, labels, findings)]
    document = result_set(
        results=results, source=volume.sources[0], algorithm=ALGORITHM, identity=identity_of(volume)
    )
    path = written(document, tmp_path, "results")
    sound(path)
    read = highdicom.ko.KeyObjectSelectionDocument.from_dataset(dcmread(path))
    for result in results:
        assert read.resolve_reference(result.SOPInstanceUID) == (
            result.StudyInstanceUID,
            result.SeriesInstanceUID,
            result.SOPInstanceUID,
        )
    assert len(referenced(document)) == len(results)
    assert "1 segmentation, 1 report, 2 images" in text_of(document)


def test_the_two_selections_are_one_series_and_always_the_same(phantom: Case) -> None:
    volume, labels = phantom
    selected = key_frames(frames=volume.frames, findings=Findings(()), labels=labels, segments=SEGMENTS)
    made = {"algorithm": ALGORITHM, "identity": identity_of(volume)}
    images = [key_images(selected=selected, **made) for _ in range(2)]
    results = result_set(results=images[:1], source=volume.sources[0], **made)
    assert images[0] == images[1]
    assert images[0].SeriesInstanceUID == results.SeriesInstanceUID
    assert (images[0].InstanceNumber, results.InstanceNumber) == (1, 2)


def test_what_can_not_be_named_is_refused(phantom: Case) -> None:
    volume, labels = phantom
    made = {"algorithm": ALGORITHM, "identity": identity_of(volume)}
    with pytest.raises(GeometryError, match="23 planes, the series 24"):
        key_frames(frames=volume.frames, findings=Findings(()), labels=labels[1:], segments=SEGMENTS)
    with pytest.raises(InvalidResult, match="no key image"):
        key_images(selected=[], **made)
    stranger = Dataset()
    stranger.StudyInstanceUID = "1.2.3"
    with pytest.raises(InvalidResult, match="another study"):
        result_set(results=[stranger], source=volume.sources[0], **made)
