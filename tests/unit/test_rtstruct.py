"""RT Structure Sets: filled by others, their contours are the label map again, wherever the slices lie."""

from __future__ import annotations

import dataclasses
import gzip
import shutil
import subprocess
import sys
from copy import deepcopy
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import dcmread
from pydicom.dataset import Dataset
from read_back import found_by_dciodvfy, lacking
from result_cases import (
    ALGORITHM,
    LEFT,
    RIGHT,
    SEGMENTS,
    identity_of,
    phantom_case,
    read_case,
    seg_of,
    written,
)

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Code, Segment
from isocenter_operators.dicom.results.rtstruct import structure_set
from isocenter_operators.dicom.results.rtstruct_reader import read_structure_set, referenced_series
from isocenter_operators.dicom.rules.validate import check
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.series.geometry import Volume, volume_of
from isocenter_operators.errors import GeometryError, InputError, InvalidResult
from isocenter_operators.testing import as_datasets, thorax_phantom
from isocenter_operators.testing.enhanced import as_enhanced

Case = tuple[Volume, NDArray[np.uint8]]


def intricate(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The phantom's label map with holes, an island in a hole, single voxels, and voxels that touch at corners only."""
    labels = labels.copy()
    z = len(labels) // 2
    labels[0, 0, 0] = labels[-1, -1, -1] = 1
    labels[z, 2:18, 2:18] = 1
    labels[z, 4:9, 4:9] = labels[z, 12, 4:16:3] = 0
    labels[z, 6, 6] = 1
    labels[z + 1, 2:10, 2:10] = np.indices((8, 8)).sum(axis=0) % 2 + 1
    labels[z + 2, 5, 5:30] = 2
    return labels


def structures_of(volume: Volume, labels: NDArray[Any], **others: Any) -> Dataset:
    given = {"segments": SEGMENTS, "algorithm": ALGORITHM, "identity": identity_of(volume), **others}
    return structure_set(labels=labels, frames=volume.frames, **given)


@pytest.fixture(scope="module")
def phantom() -> Case:
    volume, labels = phantom_case()
    return volume, intricate(labels)


def filled_by_plastimatch(path: Path, volume: Volume, folder: Path) -> NDArray[np.uint8]:
    """The label map (Z, Y, X) as plastimatch makes it on the grid of the images; one structure at a time."""
    shape, affine = volume.voxels.shape, volume.affine
    directions = " ".join(f"({','.join(repr(float(part)) for part in affine[:3, i])})" for i in range(3))
    header = (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\n"
        f"sizes: {shape[2]} {shape[1]} {shape[0]}\nspace directions: {directions}\nkinds: domain domain domain\n"
        "endian: little\nencoding: raw\n"
        f"space origin: ({','.join(repr(float(part)) for part in affine[:3, 3])})\n\n"
    )
    (folder / "grid.nrrd").write_bytes(header.encode() + np.zeros(shape, "<i2").tobytes())
    run = subprocess.run(
        [
            Path(sys.executable).with_name("plastimatch"), "convert", "--input", path, "--fixed", "grid.nrrd",
            "--output-prefix", "masks", "--prefix-format", "nrrd",
        ],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    labels = np.zeros(shape, np.uint8)
    for segment in SEGMENTS:
        mask = read_mask(folder / "masks" / f"{segment.label}.nrrd")
        assert not labels[mask].any()
        labels[mask] = segment.number
    return labels


def read_mask(path: Path) -> NDArray[np.bool_]:
    """plastimatch writes a gzipped NRRD of bytes."""
    header, _, content = path.read_bytes().partition(b"\n\n")
    fields = dict(line.split(": ", 1) for line in header.decode().splitlines() if ": " in line)
    assert (fields["type"], fields["encoding"]) == ("unsigned char", "gzip")
    shape = [int(size) for size in fields["sizes"].split()][::-1]
    return np.frombuffer(gzip.decompress(content), np.uint8).reshape(shape) > 0


@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"orientation": "RAI"},
        {"orientation": "LIP", "size": (80, 80, 24)},
        {"orientation": "PIR", "size": (80, 80, 24)},
        {"oblique_deg": 20.0},
    ],
    ids=["axial", "turned", "coronal", "sagittal", "oblique"],
)
def test_plastimatch_fills_the_same_voxels(geometry: dict[str, Any], tmp_path: Path) -> None:
    volume, labels = phantom_case(**geometry)
    labels = intricate(labels)
    path = written(structures_of(volume, labels), tmp_path, "rtstruct")
    np.testing.assert_array_equal(filled_by_plastimatch(path, volume, tmp_path), labels)


def filled_on_frames(structures: Dataset, frames: list[Frame], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The label map as a reader makes it that knows each image's own plane, rounds to whole pixels and fills these."""
    place = {(str(f.instance.SOPInstanceUID), f.number): z for z, f in enumerate(frames)}
    labels = np.zeros(shape, np.uint8)
    for roi in structures.ROIContourSequence:
        for contour in roi.ContourSequence:
            (image,) = contour.ContourImageSequence
            z = place[image.ReferencedSOPInstanceUID, image.get("ReferencedFrameNumber")]
            index, off_mm = on_plane(np.array(contour.ContourData, float).reshape(-1, 3), frames[z])
            assert np.abs(off_mm).max() < 0.001
            canvas = Image.new("1", (shape[2], shape[1]))
            corners = [tuple(point) for point in np.rint(index).astype(int).tolist()]
            ImageDraw.Draw(canvas).polygon(corners, fill=1, outline=1)
            mask = np.array(canvas)
            assert not labels[z][mask].any()
            labels[z][mask] = roi.ReferencedROINumber
    return labels


def on_plane(points: NDArray[np.float64], frame: Frame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(column, row) of each point, and its distance from the plane in mm; by the equation of PS3.3, C.7.6.2.1.1."""
    x, y = np.array(frame.get("ImageOrientationPatient"), float).reshape(2, 3)
    row_mm, column_mm = (float(value) for value in frame.get("PixelSpacing"))
    equation = np.column_stack([x * column_mm, y * row_mm, np.cross(x, y)])
    solved = np.linalg.solve(equation, (points - np.array(frame.get("ImagePositionPatient"), float)).T).T
    return solved[:, :2], solved[:, 2]


def copy_of(instance: Dataset) -> Dataset:
    """Without its pixels. (pydicom's own shallow copies share their elements.)"""
    copy = Dataset()
    for element in instance:
        if element.keyword != "PixelData":
            copy.add(deepcopy(element))
    return copy


def moved(frames: tuple[Frame, ...], directions: NDArray[np.float64]) -> list[Frame]:
    """The same images, with their columns, rows and slices along these three directions, 12 mm from slice to slice."""
    there = []
    for z, frame in enumerate(frames):
        instance = copy_of(frame.instance)
        instance.ImageOrientationPatient = [float(part) for part in directions[:2].flat]
        instance.ImagePositionPatient = [
            float(part) for part in (-90.3, 41.7, 12.1) + 12.0 * z * directions[2]
        ]
        there.append(Frame(instance))
    return there


def test_all_48_axis_orders_and_flips_and_a_tilted_gantry() -> None:
    volume, labels = phantom_case(size=(40, 36, 5), spacing_mm=(9.2, 8.4, 60.0))
    labels = intricate(labels)
    for axes, signs in product(permutations(range(3)), product((1, -1), repeat=3)):
        frames = moved(volume.frames, np.eye(3)[list(axes)] * np.array(signs)[:, None])
        turned = dataclasses.replace(volume, frames=tuple(frames))
        found = filled_on_frames(structures_of(turned, labels), frames, labels.shape)
        np.testing.assert_array_equal(found, labels, err_msg=f"{axes} {signs}")
    tilted = moved(volume.frames, np.array([[1, 0, 0], [0, 0.8, 0.6], [0, 0.1, 1]]))
    structures = structures_of(dataclasses.replace(volume, frames=tuple(tilted)), labels)
    np.testing.assert_array_equal(filled_on_frames(structures, tilted, labels.shape), labels)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "LIP", "PIL"])
def test_our_own_reader_gets_the_voxels_back(orientation: str) -> None:
    axial = orientation in ("LPS", "RAS")
    phantom = thorax_phantom(
        size=(40, 36, 24) if axial else (40, 24, 36),
        spacing_mm=(9.0, 9.0, 13.0) if axial else (9.0, 13.0, 9.0),
        orientation=orientation,
        oblique_deg=12.0,
    )
    images = as_datasets(phantom)
    volume = volume_of(images)
    labels = intricate(np.zeros(volume.voxels.shape, np.uint8))

    read = read_structure_set(structures_of(volume, labels), images)

    assert referenced_series(read.dataset) == images[0].SeriesInstanceUID
    assert read.grid.affine == pytest.approx(volume.affine, abs=1e-3)
    for segment in read.segments:
        assert np.array_equal(read.mask(segment.number), labels == segment.number), segment.label
    cut_off = read_structure_set(read.dataset, sorted(images, key=lambda each: each.InstanceNumber)[4:-4])
    with pytest.raises(GeometryError, match="lies on none of the images"):
        cut_off.mask(1)


def test_contours_name_the_frames_of_a_multi_frame_image(tmp_path: Path) -> None:
    made = thorax_phantom(size=(96, 80, 24), spacing_mm=(3.8, 3.8, 12.0), noise_hu=0.0)
    volume = volume_of(as_enhanced(made, instances=2, order=[*range(1, 24, 2), *range(0, 24, 2)]))
    labels = intricate(made.labels)
    path = written(structures_of(volume, labels), tmp_path, "rtstruct")
    structures = dcmread(path)
    found = filled_on_frames(structures, list(volume.frames), labels.shape)
    np.testing.assert_array_equal(found, labels)
    np.testing.assert_array_equal(filled_by_plastimatch(path, volume, tmp_path), labels)
    (study,) = structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    images = study.RTReferencedSeriesSequence[0].ContourImageSequence
    assert [i.ReferencedSOPInstanceUID for i in images] == [s.SOPInstanceUID for s in volume.sources]
    assert not [p for p in found_by_dciodvfy(path) if p.severity == "error"]


def test_masks_may_overlap() -> None:
    volume, _ = phantom_case(size=(40, 36, 8), spacing_mm=(9.2, 8.4, 36.0))
    masks = np.zeros((2, *volume.voxels.shape), bool)
    masks[0, 3, 4:20, 4:20] = masks[1, 3, 10:30, 10:30] = True
    structures = structures_of(volume, masks)
    for number, mask in enumerate(masks, 1):
        alone = deepcopy(structures)
        alone.ROIContourSequence = [alone.ROIContourSequence[number - 1]]
        found = filled_on_frames(alone, list(volume.frames), volume.voxels.shape)
        np.testing.assert_array_equal(found == number, mask)


def test_says_what_each_region_is_and_who_drew_it(phantom: Case, tmp_path: Path) -> None:
    volume, labels = phantom
    lesion = Segment(
        3, "x" * 70, Code("49755003", "SCT", "Morphologically Altered Structure"),
        Code("4147007", "SCT", "Mass"), (255, 0, 0), anatomic_region=codes.LUNG,
    )  # fmt: skip
    nothing = dataclasses.replace(lesion, number=4, label="Nothing")
    labels = labels.copy()
    labels[5, 30, 30:33] = 3
    path = written(
        structures_of(volume, labels, segments=(RIGHT, LEFT, lesion, nothing)), tmp_path, "rtstruct"
    )
    structures = dcmread(path)
    check(structures)
    rois = structures.StructureSetROISequence
    assert [int(roi.ROINumber) for roi in rois] == [1, 2, 3], "what has no voxel has no region"
    assert [roi.ROIName for roi in rois[:2]] == ["Right lung", "Left lung"]
    assert (rois[2].ROIName, rois[2].ROIDescription) == ("x" * 57 + "... (3)", "x" * 70)
    assert {roi.ROIGenerationAlgorithm for roi in rois} == {"AUTOMATIC"}
    assert structures.ApprovalStatus == "UNAPPROVED"
    seg = seg_of(volume, np.where(labels > 2, 0, labels))
    assert [r.TrackingUID for r in rois[:2]] == [item.TrackingUID for item in seg.SegmentSequence]
    kinds = [o.RTROIIdentificationCodeSequence[0] for o in structures.RTROIObservationsSequence]
    assert [kind.CodeValue for kind in kinds] == ["39607008", "39607008", "4147007"]
    assert kinds[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"
    assert [o.RTROIInterpretedType for o in structures.RTROIObservationsSequence] == ["ORGAN", "ORGAN", ""]
    assert structures.RTROIObservationsSequence[2].AnatomicRegionSequence[0].CodeValue == "39607008"
    colours = [tuple(map(int, item.ROIDisplayColor)) for item in structures.ROIContourSequence]
    assert colours == [RIGHT.display_rgb, LEFT.display_rgb, (255, 0, 0)]
    (study,) = structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    images = study.RTReferencedSeriesSequence[0].ContourImageSequence
    assert {i.ReferencedSOPInstanceUID for i in images} == {s.SOPInstanceUID for s in volume.sources}


def test_a_contour_of_more_than_64_kb_keeps_its_type(tmp_path: Path) -> None:
    volume = volume_of(as_datasets(thorax_phantom(size=(96, 80, 24), spacing_mm=(3.8, 3.8, 12.0))))
    labels = np.zeros(volume.voxels.shape, np.uint8)
    labels[4, ::2, :] = labels[4, :, 0] = 1  # a comb
    labels[4, ::2, 1::2] = labels[4, 1::4, 1::2] = 1
    labels[4, 1::2, 2::2] = np.random.default_rng(1).integers(0, 2, labels[4, 1::2, 2::2].shape)
    path = written(structures_of(volume, labels), tmp_path, "rtstruct")
    contours = dcmread(path).ROIContourSequence[0].ContourSequence
    assert max(len(contour.get_item("ContourData").value) for contour in contours) > 65534
    assert not [p for p in found_by_dciodvfy(path) if p.severity == "error"]
    found = filled_on_frames(dcmread(path), list(volume.frames), labels.shape)
    np.testing.assert_array_equal(found, labels)


def test_every_number_fits_and_the_same_job_gives_the_same_bytes(phantom: Case, tmp_path: Path) -> None:
    volume, labels = phantom
    first = written(structures_of(volume, labels), tmp_path, "first").read_bytes()
    assert written(structures_of(volume, labels), tmp_path, "second").read_bytes() == first
    for roi in dcmread(tmp_path / "first.dcm").ROIContourSequence:
        for contour in roi.ContourSequence:
            numbers = contour.get_item("ContourData").value.decode().split("\\")
            assert len(numbers) == 3 * contour.NumberOfContourPoints
            assert max(map(len, numbers)) <= 16
            assert "-0.0000" not in numbers


@pytest.mark.parametrize(
    "series", ["ct-abdomen-41/image", "ct-head-phantom/S3010", "mr-abdomen/adc_image", "mr-abdomen/t2_image"]
)
def test_dciodvfy_finds_no_error_and_dcmtk_reads_it(series: str, test_data: Path, tmp_path: Path) -> None:
    volume, labels = read_case(test_data / series)
    labels[np.arange(len(labels)) % 8 != 1] = 0
    structures = structures_of(volume, labels)
    check(structures)
    path = written(structures, tmp_path, "rtstruct")
    assert not [problem for problem in found_by_dciodvfy(path) if problem.severity == "error"]
    if shutil.which("drtdump") is None:
        lacking("DCMTK is not installed: apt-get install dcmtk")
    read = subprocess.run(["drtdump", path], capture_output=True, text=True, errors="replace", check=True)
    assert "#9007" in read.stdout
    assert not read.stderr, "DCMTK names every attribute that is not as the IOD has it"


def test_refuses_what_would_be_wrong(phantom: Case) -> None:
    volume, labels = phantom
    with pytest.raises(InvalidResult, match="empty"):
        structures_of(volume, np.zeros_like(labels))
    with pytest.raises(GeometryError, match="source images are"):
        structures_of(volume, labels[1:])
    with pytest.raises(InvalidResult, match="only 1 segments"):
        structures_of(volume, labels, segments=(RIGHT,))
    with pytest.raises(InputError, match="uint8"):
        structures_of(volume, labels.astype(np.float32))
    nowhere = deepcopy(volume.frames[0].instance)
    del nowhere.FrameOfReferenceUID
    frames = (Frame(nowhere), *volume.frames[1:])
    with pytest.raises(InputError, match="Frame of Reference"):
        structures_of(dataclasses.replace(volume, frames=frames), labels)
