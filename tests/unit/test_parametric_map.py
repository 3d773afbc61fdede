"""Parametric maps: the values and places that others read back are those that were written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from read_back import dcmqi, found_by_dciodvfy, on_grid, read_nrrd
from result_cases import ALGORITHM, LEFT, RIGHT, SERIES, identity_of, seg_of, written

from isocenter_operators.dicom.results.map_reader import read_parametric_map
from isocenter_operators.dicom.results.parametric_map import (
    PROBABILITY,
    SALIENCY,
    UNCERTAINTY,
    parametric_map,
)
from isocenter_operators.dicom.rules.validate import check
from isocenter_operators.dicom.series.frame import frames_of
from isocenter_operators.dicom.series.geometry import Volume, slices_of, volume_of
from isocenter_operators.dicom.series.read import read_folder
from isocenter_operators.errors import GeometryError, InputError, InvalidResult
from isocenter_operators.testing import ThoraxPhantom, as_datasets, as_enhanced, thorax_phantom

DEPTH = 10


def phantom(**parameters: Any) -> ThoraxPhantom:
    return thorax_phantom(**{"size": (40, 32, DEPTH), "spacing_mm": (9.0, 8.0, 24.0), **parameters})


def tilted() -> ThoraxPhantom:
    upright = phantom()
    affine = upright.affine.copy()
    affine[1, 2] += 6.0
    return replace(upright, affine=affine)


@pytest.fixture(scope="module")
def volume() -> Volume:
    return volume_of(as_datasets(phantom(oblique_deg=20.0)))


def fractions_of(volume: Volume) -> NDArray[np.float32]:
    """Another value in almost every voxel, 0 to 1."""
    return ((volume.voxels + 1024.0) / 4095).astype(np.float32)


def map_of(volume: Volume, values: NDArray[Any], **others: Any) -> Dataset:
    return parametric_map(
        values=values,
        frames=volume.frames,
        **{
            "quantity": PROBABILITY,
            "algorithm": ALGORITHM,
            "identity": identity_of(volume),
            **others,
        },
    )


def sources(case: str) -> list[Dataset]:
    if case == "tilted":
        return as_datasets(tilted())
    if case == "enhanced":
        return as_enhanced(phantom(oblique_deg=20.0), instances=2, order=[4, 2, 0, 8, 6, 1, 9, 7, 3, 5])
    return as_datasets(phantom(orientation=case, spacing_mm=(9.0, 12.0, 20.0)))


@pytest.mark.parametrize("case", ["LPS", "RAS", "LIP", "enhanced", "tilted"])
def test_dcmqi_and_our_reader_read_back_values_and_places(case: str, tmp_path: Path) -> None:
    volume = volume_of(sources(case))
    values = fractions_of(volume)
    path = written(map_of(volume, values, segment=RIGHT, value_range=(0, 1)), tmp_path, "map")
    if case != "tilted":  # whose slices make no grid of right angles, which is all that dcmqi knows
        dcmqi(
            "paramap2itkimage", "--inputDICOM", str(path), "--outputDirectory", str(tmp_path), "-t", "nrrd",
            "--prefix", "read",
        )  # fmt: skip
        voxels, affine = read_nrrd(tmp_path / "read-pmap.nrrd")
        np.testing.assert_array_equal(np.sort(voxels.ravel()), np.sort(values.ravel()))
        steps = (np.rint(voxels * 4095).astype(np.int16) + 1, affine)  # where 0 is no voxel
        np.testing.assert_array_equal(
            on_grid(steps, values.shape, volume.affine), np.rint(values * 4095).astype(np.int16) + 1
        )
    again = dcmread(path)
    for frame in frames_of([again]):
        (z,) = [
            z for z, f in enumerate(volume.frames) if np.allclose(f.position_mm, frame.position_mm, atol=1e-6)
        ]
        stored = np.frombuffer(again.FloatPixelData, "<f4").reshape(-1, *values.shape[1:])
        np.testing.assert_array_equal(stored[frame.number - 1], values[z])
        groups = again.PerFrameFunctionalGroupsSequence[frame.number - 1]
        source = groups.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == volume.frames[z].instance.SOPInstanceUID
        assert source.get("ReferencedFrameNumber") == volume.frames[z].number
    real, grid = read_parametric_map(again)
    flipped = float(grid.affine[:3, 2] @ volume.affine[:3, 2]) < 0
    np.testing.assert_array_equal(real[::-1] if flipped else real, values)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("float64", "DoubleFloatPixelData"), ("uint8", "PixelData"), ("uint16", "PixelData")],
)
def test_other_types_are_stored_as_they_are(volume: Volume, dtype: str, stored: str, tmp_path: Path) -> None:
    slope = {"float64": 1.0, "uint8": 1 / 255, "uint16": 1 / 65535}[dtype]
    values = (fractions_of(volume) / slope).astype(dtype)
    written_map = map_of(volume, values, slope=slope, value_range=(0.0, 1.0))
    assert stored in written_map
    path = written(written_map, tmp_path, "map")
    check(dcmread(path))
    assert [problem for problem in found_by_dciodvfy(path) if problem.severity == "error"] == []
    read = highdicom.pm.ParametricMap.from_dataset(dcmread(path)).get_volume()
    expected = values.astype(np.float64) * slope
    along = read.affine[:3, 0] @ volume.affine[:3, 2] > 0
    np.testing.assert_allclose(read.array if along else read.array[::-1], expected, rtol=1e-12)
    real, _ = read_parametric_map(dcmread(path))
    assert (real.min(), real.max()) == pytest.approx((expected.min(), expected.max()))


def test_it_says_what_it_is_of_which_finding_and_how_it_is_shown(volume: Volume) -> None:
    made = map_of(volume, fractions_of(volume), segment=RIGHT, value_range=(0, 1), window=(0.25, 0.75))
    shared = made.SharedFunctionalGroupsSequence[0]
    mapping = shared.RealWorldValueMappingSequence[0]
    assert (mapping.LUTLabel, mapping.LUTExplanation) == ("Probability", "Probability of Right lung")
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert mapping.DoubleFloatRealWorldValueFirstValueMapped == 0
    assert mapping.DoubleFloatRealWorldValueLastValueMapped == 1
    said = {item.ConceptNameCodeSequence[0].CodeMeaning: item for item in mapping.QuantityDefinitionSequence}
    assert said["Quantity"].ConceptCodeSequence[0].CodeValue == "110854"
    assert said["Finding"].ConceptCodeSequence[0].CodeMeaning == "Lung"
    assert said["Laterality"].ConceptCodeSequence[0].CodeMeaning == "Right"
    window = shared.FrameVOILUTSequence[0]
    assert (window.WindowCenter, window.WindowWidth, window.VOILUTFunction) == (0.5, 0.5, "LINEAR_EXACT")
    assert made.ContentLabel == "PROBABILITY"
    assert made.SeriesDescription == "ct_lung_density: Probability of Right lung"
    assert (made.SeriesNumber, made.RecognizableVisualFeatures) == (9006, "NO")
    derived = made.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0]
    assert derived.DerivationCodeSequence[0].CodeMeaning == "Artificial Intelligence"
    assert derived.DerivationDescription == "Probability of Right lung, by ct_lung_density"
    listed = made.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPInstanceUID for item in listed} == {s.SOPInstanceUID for s in volume.sources}
    assert made.FrameOfReferenceUID == volume.sources[0].FrameOfReferenceUID


def test_the_tracking_is_that_of_the_segment(volume: Volume) -> None:
    labels = np.zeros(volume.voxels.shape, np.uint8)
    labels[3, 4:9, 4:9], labels[4, 4:9, 12:19] = 1, 2
    seg = seg_of(volume, labels)
    for item, segment in zip(seg.SegmentSequence, (RIGHT, LEFT), strict=True):
        made = map_of(volume, fractions_of(volume), segment=segment, number=segment.number)
        mapping = made.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
        said = {i.ConceptNameCodeSequence[0].CodeValue: i for i in mapping.QuantityDefinitionSequence}
        assert item.TrackingUID == said["112040"].UID
        assert said["112039"].TextValue == item.TrackingID


def test_maps_of_one_job_are_told_apart_and_always_the_same(volume: Volume, tmp_path: Path) -> None:
    values = fractions_of(volume)
    made = [map_of(volume, values, quantity=UNCERTAINTY, number=number) for number in (1, 1, 2)]
    first, again, second = (written(one, tmp_path, str(i)).read_bytes() for i, one in enumerate(made))
    assert first == again != second
    assert made[0].SeriesInstanceUID != made[2].SeriesInstanceUID
    assert made[0].SOPInstanceUID != made[2].SOPInstanceUID
    schemes = [item.CodingSchemeDesignator for item in made[0].CodingSchemeIdentificationSequence]
    assert "99ISOCENTER" in schemes


@pytest.mark.parametrize("series", SERIES)
def test_dciodvfy_finds_no_error_in_the_map_of_any_series(
    series: str, test_data: Path, tmp_path: Path
) -> None:
    few = volume_of([frame.instance for frame in slices_of(read_folder(test_data / series))[:4]])
    made = map_of(few, (few.voxels / 4096).astype(np.float32), quantity=SALIENCY, segment=LEFT)
    check(made)
    found = found_by_dciodvfy(written(made, tmp_path, "map"))
    assert [problem for problem in found if problem.severity == "error"] == []


def test_lossy_sources_make_a_lossy_map(volume: Volume) -> None:
    changed = [Dataset(source) for source in volume.sources]
    for source in changed[3:]:
        source.LossyImageCompression, source.LossyImageCompressionRatio = "01", "10"
        source.LossyImageCompressionMethod = "ISO_10918_1"
    lossy = replace(volume, frames=tuple(frames_of(changed)))
    made = map_of(lossy, fractions_of(volume))
    assert (made.LossyImageCompression, made.LossyImageCompressionRatio) == ("01", 10)


def test_refuses_what_would_be_wrong(volume: Volume) -> None:
    values = fractions_of(volume)
    with pytest.raises(GeometryError, match=r"the parametric map is \(9, 32, 40\)"):
        map_of(volume, values[1:])
    with pytest.raises(InputError, match="int16"):
        map_of(volume, volume.voxels)
    with pytest.raises(InvalidResult, match=r"values outside 0\.\.0\.25"):
        map_of(volume, values, value_range=(0.0, 0.25))
    with pytest.raises(InputError, match="slope 0"):
        map_of(volume, values, slope=0.0)
    spoiled = values.copy()
    spoiled[2, 3, 4] = np.nan
    with pytest.raises(InvalidResult, match="no numbers"):
        map_of(volume, spoiled)
    turned = [Dataset(source) for source in volume.sources]
    turned[4].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    with pytest.raises(GeometryError, match="differ in ImageOrientationPatient"):
        map_of(replace(volume, frames=tuple(frames_of(turned))), values)
