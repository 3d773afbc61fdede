"""Segmentations of every kind: the voxels that others read, and what highdicom writes of the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders import RLELosslessDecoder
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless
from read_back import dcmqi, found_by_dciodvfy, on_grid, read_nrrd
from result_cases import ALGORITHM, CREATED, written

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Segment
from isocenter_operators.dicom.header import plane_of
from isocenter_operators.dicom.identity import JobIdentity
from isocenter_operators.dicom.results.run_length import run_length_encoded
from isocenter_operators.dicom.results.seg import fractional_segmentation, segmentation
from isocenter_operators.dicom.rules.validate import check
from isocenter_operators.dicom.series.frame import Frame, frames_of, instances_of
from isocenter_operators.dicom.series.frame_groups import with_groups_read
from isocenter_operators.dicom.series.geometry import volume_of
from isocenter_operators.dicom.unicode import in_unicode
from isocenter_operators.errors import GeometryError, InputError, InvalidResult
from isocenter_operators.testing import as_datasets, as_enhanced, thorax_phantom

SHAPE = (8, 27, 35)  # (Z, Y, X): a frame's bits are no whole number of bytes
JOB = JobIdentity("5" * 64, CREATED)


def segments_of(count: int) -> list[Segment]:
    return [
        Segment(number, f"Part {number}", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (number % 256, 90, 200))
        for number in range(1, count + 1)
    ]


def frames_case(shape: tuple[int, int, int] = SHAPE, **parameters: Any) -> list[Frame]:
    depth, rows, columns = shape
    phantom = thorax_phantom(size=(columns, rows, depth), spacing_mm=(9, 10, 30), noise_hu=0, **parameters)
    return list(volume_of(as_datasets(phantom)).frames)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    return frames_case()


def labels_case(count: int, shape: tuple[int, int, int] = SHAPE, absent: Sequence[int] = ()) -> NDArray[Any]:
    """Boxes of `count` numbers on all slices but the second and the last; nothing symmetric, some of them hidden."""
    random = np.random.default_rng(count)
    labels = np.zeros(shape, np.uint8 if count < 256 else np.uint16)
    for number in range(1, count + 1):
        low = (random.random(3) * shape * 0.7).astype(int)
        high = low + 2 + (random.random(3) * np.array(shape) * 0.3).astype(int)
        if number not in absent:
            labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = number
    labels[[1, -1]] = 0
    return labels


def seg_case(labels: NDArray[Any], frames: Sequence[Frame], count: int, **others: Any) -> Dataset:
    return segmentation(
        labels=labels, frames=frames, segments=segments_of(count), algorithm=ALGORITHM, identity=JOB, **others
    )


def fractional_case(fractions: NDArray[Any], frames: Sequence[Frame], **others: Any) -> Dataset:
    return fractional_segmentation(
        fractions=fractions,
        frames=frames,
        segments=segments_of(len(fractions)),
        algorithm=ALGORITHM,
        identity=JOB,
        **others,
    )


def fractions_case(count: int = 2) -> NDArray[np.float32]:
    fractions = np.random.default_rng(7).random((count, *SHAPE), np.float32)
    fractions[:, [1, -1]] = 0
    fractions[:, :, :9] = 0
    return fractions


def read_by_highdicom(path: Path, frames: Sequence[Frame], **how: Any) -> NDArray[Any]:
    """(Z, Y, X), or (Z, Y, X, segments) where they are not combined."""
    seg = highdicom.seg.segread(path)
    common = {"ignore_spatial_locations": False, "assert_missing_frames_are_empty": True, **how}
    if frames[0].number is None:
        return seg.get_pixels_by_source_instance(
            [frame.instance.SOPInstanceUID for frame in frames], **common
        )
    return seg.get_pixels_by_source_frame(
        frames[0].instance.SOPInstanceUID, [frame.number for frame in frames], **common
    )


def read_by_dcmqi(path: Path, frames: Sequence[Frame]) -> list[NDArray[Any]]:
    """(Z, Y, X) of each file that it makes of a SEG: one of a label map, else one for each segment."""
    folder = path.parent
    dcmqi("segimage2itkimage", "--inputDICOM", str(path), "--outputDirectory", str(folder), "-t", "nrrd")
    volume = volume_of(instances_of(frames))
    found = [folder / f"{number}.nrrd" for number in range(1, 1 + len(list(folder.glob("*.nrrd"))))]
    return [on_grid(read_nrrd(one), volume.voxels.shape, volume.affine) for one in found]


# What differs from highdicom's own, and why: it is taken from the source's header as a whole (`stamp`), it is our own
# statement, or it is drawn at random by highdicom.
STAMPED = {
    "AccessionNumber", "BodyPartExamined", "ContentDate", "ContentQualification", "ContentTime", "ContentCreatorName",
    "ContributingEquipmentSequence", "DeviceUID", "ImageComments", "InstanceCreationDate", "InstanceCreationTime",
    "PatientAge", "PatientBirthDate", "PatientID", "PatientName", "PatientSex", "PatientWeight", "PatientSize",
    "QualityControlSubject",
    "ReferringPhysicianName", "SeriesDate", "SeriesTime", "SoftwareVersions", "SpecificCharacterSet", "StudyDate",
    "StudyDescription", "StudyID", "StudyTime",
}  # fmt: skip
DRAWN = {"DimensionOrganizationSequence", "DimensionIndexSequence"}  # their UIDs


@pytest.mark.parametrize(
    ("kind", "count", "syntax"),
    [
        ("BINARY", 3, ExplicitVRLittleEndian),
        ("BINARY", 1, ExplicitVRLittleEndian),
        ("LABELMAP", 3, ExplicitVRLittleEndian),
        ("LABELMAP", 260, RLELossless),
        ("MASKS", 3, ExplicitVRLittleEndian),
        ("FRACTIONAL", 2, ExplicitVRLittleEndian),
        ("FRACTIONAL", 1, RLELossless),
    ],
)
def test_is_what_highdicom_writes_of_the_same(
    kind: str, count: int, syntax: str, frames: list[Frame], tmp_path: Path
) -> None:
    if kind == "FRACTIONAL":
        given: NDArray[Any] = fractions_case(count)
        ours = fractional_case(given, frames, kind="OCCUPANCY", transfer_syntax_uid=syntax)
        theirs = np.moveaxis(given, 0, -1)
    elif kind == "MASKS":
        given = np.stack([labels_case(count) >= number for number in range(1, count + 1)])
        ours = seg_case(given, frames, count)
        theirs, kind = np.moveaxis(given, 0, -1), "BINARY"
    else:
        theirs = labels_case(count)
        ours = seg_case(theirs, frames, count, kind=kind, transfer_syntax_uid=syntax)
    described = [item for item in ours.SegmentSequence if item.SegmentNumber > 0]
    expected = highdicom.seg.Segmentation(
        source_images=[plane_of(frame) for frame in frames],
        pixel_array=theirs,
        segmentation_type=kind,
        segment_descriptions=[highdicom.seg.SegmentDescription.from_dataset(item) for item in described],
        series_instance_uid=ours.SeriesInstanceUID,
        series_number=ours.SeriesNumber,
        sop_instance_uid=ours.SOPInstanceUID,
        instance_number=1,
        manufacturer=ALGORITHM.manufacturer,
        manufacturer_model_name=ALGORITHM.name,
        software_versions="1",
        device_serial_number=ALGORITHM.device_uid,
        fractional_type="OCCUPANCY",
        content_label="SEGMENTATION",
        content_description=ours.ContentDescription,
        series_description=ours.SeriesDescription,
    )  # not compressed: GDCM, to which it leaves that, ends the process on a frame that does not become smaller
    ours, expected = dcmread(written(ours, tmp_path, "ours")), dcmread(written(expected, tmp_path, "theirs"))
    different = {
        keyword
        for keyword in {*ours.dir(), *expected.dir()} - {"PixelData"}
        if ours.get(keyword) != expected.get(keyword)
    }
    assert different - STAMPED == DRAWN
    assert int(ours.NumberOfFrames) == len(ours.PerFrameFunctionalGroupsSequence) > 1
    for mine, its in zip(ours.DimensionIndexSequence, expected.DimensionIndexSequence, strict=True):
        assert mine.DimensionIndexPointer == its.DimensionIndexPointer
    if syntax == RLELossless:
        for mine, its in zip(iter_pixels(ours), iter_pixels(expected), strict=True):
            np.testing.assert_array_equal(mine, its)
    else:  # but for the byte that makes the length even
        assert ours.PixelData[:-1] == expected.PixelData[:-1]


@pytest.mark.parametrize("source", ["single-frame", "multi-frame", "two multi-frame instances"])
def test_dcmqi_reads_each_of_the_overlapping_masks(source: str, tmp_path: Path) -> None:
    phantom = thorax_phantom(size=SHAPE[::-1], spacing_mm=(9, 10, 30), noise_hu=0)
    volume = volume_of(
        as_datasets(phantom)
        if source == "single-frame"
        else as_enhanced(phantom, instances=1 + source.startswith("two"), order=[5, 0, 3, 1, 7, 2, 6, 4])
    )
    masks = np.stack([labels_case(3) >= number for number in (1, 2, 3)])
    seg = seg_case(masks, volume.frames, 3)
    assert seg.SegmentsOverlap == "YES"
    check(seg)
    path = written(seg, tmp_path, "seg")
    assert [p for p in found_by_dciodvfy(path) if p.severity == "error"] == []
    np.testing.assert_array_equal(np.stack(read_by_dcmqi(path, volume.frames)) > 0, masks)
    (series,) = seg.ReferencedSeriesSequence
    listed = [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence]
    assert sorted(listed) == sorted(instance.SOPInstanceUID for instance in volume.sources)


@pytest.mark.parametrize("tilt_mm", [0.0, 4.0])
@pytest.mark.parametrize("upwards", [True, False])
def test_each_frame_says_where_it_lies_and_of_which_image_it_is(tilt_mm: float, upwards: bool) -> None:
    """Some viewers go by the position, others by the image; neither may have to count frames."""
    phantom = thorax_phantom(size=SHAPE[::-1], spacing_mm=(9, 10, 30), noise_hu=0, oblique_deg=17)
    sources = as_enhanced(phantom, instances=2)
    for instance in sources:
        for group in instance.PerFrameFunctionalGroupsSequence:
            plane = group.PlanePositionSequence[0]
            x, y, z = (float(value) for value in plane.ImagePositionPatient)
            plane.ImagePositionPatient = [x, round(y + tilt_mm * z / 30, 6), z]
    frames = frames_of(sources)[:: 1 if upwards else -1]
    labels = labels_case(3)
    seg = seg_case(labels, frames, 3)
    found = set()
    for frame in seg.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        (z,) = (
            index
            for index, source in enumerate(frames)
            if source.instance.SOPInstanceUID == image.ReferencedSOPInstanceUID
            and source.number == image.ReferencedFrameNumber
        )
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert position == frames[z].get("ImagePositionPatient")
        found.add((frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber, z))
    assert found == {(number, z) for z in range(len(labels)) for number in set(labels[z].ravel()) - {0}}
    # Position indices ascend along one direction, whichever way the images came.
    places = [
        frame.FrameContentSequence[0].DimensionIndexValues for frame in seg.PerFrameFunctionalGroupsSequence
    ]
    assert [tuple(place) for place in places] == sorted(tuple(place) for place in places)


@pytest.mark.parametrize(
    ("count", "syntax"),
    [(3, ExplicitVRLittleEndian), (3, DeflatedExplicitVRLittleEndian), (260, RLELossless)],
)
def test_highdicom_and_dcmqi_read_back_a_label_map(
    count: int, syntax: str, frames: list[Frame], tmp_path: Path
) -> None:
    labels = labels_case(count)
    seg = seg_case(labels, frames, count, kind="LABELMAP", transfer_syntax_uid=syntax)
    check(seg)
    path = written(seg, tmp_path, "seg")
    np.testing.assert_array_equal(read_by_highdicom(path, frames, combine_segments=True), labels)
    np.testing.assert_array_equal(read_by_dcmqi(path, frames)[0], labels)
    again = dcmread(path)
    assert (again.BitsAllocated, again.PixelPaddingValue) == (16 if count > 255 else 8, 0)
    background = again.SegmentSequence[0]  # every value of the pixels is described (PS3.3, C.8.20.2.3)
    assert background.SegmentNumber == 0
    assert background.SegmentedPropertyTypeCodeSequence[0].CodeValue == "125040"


@pytest.mark.parametrize(("maximum", "syntax"), [(255, RLELossless), (100, ExplicitVRLittleEndian)])
def test_highdicom_and_dcmqi_read_back_fractions(
    maximum: int, syntax: str, frames: list[Frame], tmp_path: Path
) -> None:
    fractions = fractions_case()
    seg = fractional_case(fractions, frames, maximum_fractional_value=maximum, transfer_syntax_uid=syntax)
    check(seg)
    path = written(seg, tmp_path, "seg")
    assert [p for p in found_by_dciodvfy(path) if p.severity == "error"] == []
    again = np.moveaxis(read_by_highdicom(path, frames), -1, 0)
    np.testing.assert_allclose(again, fractions, atol=0.5 / maximum + 1e-6)
    stored = np.rint(fractions * maximum).astype(np.uint8)
    np.testing.assert_array_equal(read_by_dcmqi(path, frames), stored)
    same = fractional_case(stored, frames, maximum_fractional_value=maximum, transfer_syntax_uid=syntax)
    assert same.PixelData == seg.PixelData


def test_a_segment_that_was_not_found_stays_described(frames: list[Frame], tmp_path: Path) -> None:
    labels = labels_case(3, absent=[2])
    for kind in ("BINARY", "LABELMAP"):
        seg = seg_case(labels, frames, 3, kind=kind)
        check(seg)
        assert [item.SegmentNumber for item in seg.SegmentSequence][-3:] == [1, 2, 3]
        path = written(seg, tmp_path, kind)
        np.testing.assert_array_equal(read_by_highdicom(path, frames, combine_segments=True), labels)


def test_looking_into_the_frames_changes_nothing_that_is_written(frames: list[Frame], tmp_path: Path) -> None:
    seg = seg_case(labels_case(3), frames, 3)
    untouched = written(seg, tmp_path, "untouched").read_bytes()
    assert len(seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence) == 1
    assert written(seg, tmp_path, "touched").read_bytes() == untouched
    in_utf_8 = seg_case(labels_case(3), frames, 3)
    in_unicode(in_utf_8)
    again = dcmread(written(in_utf_8, tmp_path, "unicode"))
    assert isinstance(in_utf_8.get_item("PerFrameFunctionalGroupsSequence"), RawDataElement)
    assert again.SpecificCharacterSet == "ISO_IR 192"
    assert again.PerFrameFunctionalGroupsSequence == seg.PerFrameFunctionalGroupsSequence


def test_frames_are_read_as_pydicom_reads_them_and_the_object_stays_as_it_is(
    frames: list[Frame], tmp_path: Path
) -> None:
    path = written(seg_case(labels_case(3), frames, 3), tmp_path, "seg")
    seg = dcmread(path)
    seen = with_groups_read(seg)
    check(seg)
    assert isinstance(seg.get_item("PerFrameFunctionalGroupsSequence"), RawDataElement)
    assert written(seg, tmp_path, "again").read_bytes() == path.read_bytes()
    groups = seg.PerFrameFunctionalGroupsSequence
    assert seen.PerFrameFunctionalGroupsSequence == groups
    assert (seen.file_meta, seen.pixel_array.shape) == (seg.file_meta, seg.pixel_array.shape)
    for group in groups:
        group.is_undefined_length_sequence_item = True
    delimited = dcmread(written(seg, tmp_path, "delimited"))
    assert with_groups_read(delimited) is delimited  # pydicom's to read


def test_run_lengths_are_read_by_others() -> None:
    """Long runs, none, both kinds next to each other, and a row that goes on with the value of the one before."""
    random = np.random.default_rng(3)
    image = np.zeros((40, 391), np.uint16)
    image[2:9] = random.integers(0, 65536, (7, 391))
    image[10:20, 128:] = 515
    image[20] = np.arange(391) // 2
    image[21:30, ::3] = 7
    for pixels in (image, image.astype(np.uint8)):
        frame = run_length_encoded(pixels)
        assert len(frame) % 2 == 0
        again, _ = RLELosslessDecoder.as_array(
            encapsulate([frame]),
            rows=pixels.shape[0],
            columns=pixels.shape[1],
            samples_per_pixel=1,
            number_of_frames=1,
            bits_allocated=8 * pixels.itemsize,
            bits_stored=8 * pixels.itemsize,
            pixel_representation=0,
            photometric_interpretation="MONOCHROME2",
            pixel_keyword="PixelData",
        )
        np.testing.assert_array_equal(again, pixels)


_CHILD = """
import json, resource, sys
sys.path[:0] = json.loads(sys.argv[1])
import test_seg_kinds as case
shape = (75, 512, 512)
frames, labels = case.frames_case((75, 40, 40)), case.labels_case(104, shape)
for frame in frames:
    frame.instance.Rows = frame.instance.Columns = 512
frames = case.frames_of([frame.instance for frame in frames])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seg = case.seg_case(labels, frames, 104)
seg.save_as(sys.argv[2], enforce_file_format=True)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"grown_mb": grown / 1024, "pixels_mb": len(seg.PixelData) / 2**20, "frames": seg.NumberOfFrames}))
"""


def test_104_segments_take_little_memory(tmp_path: Path) -> None:
    """A quarter of the slices of a whole body, in a process of its own, in a quarter of 2 GB."""
    command = [sys.executable, "-c", _CHILD, json.dumps(sys.path), str(tmp_path / "seg.dcm")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout.splitlines()[-1])
    assert told["frames"] > 1000
    assert told["grown_mb"] < 512


def test_104_segments_mean_the_same_to_highdicom_and_dcmqi(tmp_path: Path) -> None:
    shape = (16, 64, 72)
    sources = frames_case(shape)
    labels = labels_case(104, shape)
    seg = seg_case(labels, sources, 104)
    path = written(seg, tmp_path, "seg")
    again = read_by_highdicom(path, sources, combine_segments=True, skip_overlap_checks=True)
    np.testing.assert_array_equal(again, labels)
    dcmqi(
        "segimage2itkimage", "--inputDICOM", str(path), "--outputDirectory", str(tmp_path), "-t", "nrrd",
        "--mergeSegments",
    )  # fmt: skip
    affine = volume_of([frame.instance for frame in sources]).affine
    np.testing.assert_array_equal(on_grid(read_nrrd(tmp_path / "1.nrrd"), shape, affine), labels)


def test_refuses_what_can_not_be_written(frames: list[Frame]) -> None:
    labels, fractions = labels_case(3), fractions_case()
    masks = np.stack([labels > 0, labels > 1])
    other = as_datasets(thorax_phantom(size=SHAPE[::-1], spacing_mm=(9, 10, 30)), uid_seed="other")
    with pytest.raises(InvalidResult, match="overlap"):
        seg_case(masks, frames, 2, kind="LABELMAP")
    with pytest.raises(InputError, match="BINARY segmentation is written in one of"):
        seg_case(labels, frames, 3, transfer_syntax_uid=RLELossless)
    with pytest.raises(InputError, match="int64"):
        seg_case(labels.astype(np.int64), frames, 3)
    with pytest.raises(GeometryError, match=r"\(segments, Z, Y, X\)"):
        seg_case(masks, frames, 3)
    fractions[1, 3, 10, 4] = np.nan
    with pytest.raises(InvalidResult, match="segment 2 has fractions outside"):
        fractional_case(fractions, frames)
    with pytest.raises(InvalidResult, match="nothing was segmented"):
        fractional_case(fractions[:1] / 1000, frames)
    with pytest.raises(GeometryError, match="same place"):
        seg_case(labels, [*frames[:-1], frames[0]], 3)
    with pytest.raises(GeometryError, match="SeriesInstanceUID"):
        seg_case(labels, [*frames[:-1], *frames_of(other[-1:])], 3)
