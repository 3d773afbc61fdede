"""Series that are no regular stack: each is refused by its reason, or settled as the policy says, with a note."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.uid import RLELossless

from isocenter_operators.dicom.series.frame import frames_of
from isocenter_operators.dicom.series.geometry import Volume, on_frames, volume_of
from isocenter_operators.dicom.series.separation import StackPolicy, volumes_in
from isocenter_operators.errors import GeometryError
from isocenter_operators.testing import ThoraxPhantom, as_datasets, as_enhanced, thorax_phantom

FIRST, LAST, LARGEST = (StackPolicy(volumes=which) for which in ("first", "last", "largest"))
LONGEST, RESAMPLE = (StackPolicy(gaps=how) for how in ("longest", "resample"))
DEPTH, STEP_MM = 9, 30.0


@pytest.fixture(scope="module")
def phantom() -> ThoraxPhantom:
    return thorax_phantom(size=(24, 20, DEPTH), spacing_mm=(14.0, 14.0, STEP_MM), oblique_deg=17.0)


@pytest.fixture
def series(phantom: ThoraxPhantom) -> list[Dataset]:
    return as_datasets(phantom)


def again(series: list[Dataset], brighter: int = 0, **attributes: object) -> list[Dataset]:
    """The series once more in the same series, under other instance UIDs, with these attributes."""
    twins = copy.deepcopy(series)
    for place, twin in enumerate(twins):
        twin.SOPInstanceUID += f".{len(attributes)}{brighter}"
        twin.InstanceNumber = len(series) + place + 1
        twin.PixelData = (np.frombuffer(twin.PixelData, "<i2") + np.int16(brighter)).tobytes()
        for keyword, value in attributes.items():
            setattr(twin, keyword, value)
    return twins


def is_phantom(volume: Volume, phantom: ThoraxPhantom, brighter: int = 0) -> bool:
    return np.array_equal(volume.voxels, phantom.hu + brighter) and np.allclose(
        volume.affine, phantom.affine, atol=1e-6
    )


def refused(instances: list[Dataset], policy: StackPolicy, said: str) -> None:
    with pytest.raises(GeometryError, match=said) as refusal:
        volume_of(instances, policy=policy)
    assert refusal.value.series_uid == instances[0].SeriesInstanceUID


def test_a_regular_series_has_no_notes_whatever_the_policy(
    phantom: ThoraxPhantom, series: list[Dataset]
) -> None:
    volume = volume_of(
        series, policy=StackPolicy(localizers="refuse", copies="refuse", volumes="last", gaps="resample")
    )
    assert is_phantom(volume, phantom)
    assert (volume.notes, volume.places) == ((), ())


def test_localizers_are_left_out_or_refused(phantom: ThoraxPhantom, series: list[Dataset]) -> None:
    localizers = again(series[:2], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    localizers[0].Rows = 40  # of another size, and in another plane
    localizers[1].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    volume = volume_of([*localizers, *series])
    assert is_phantom(volume, phantom)
    assert volume.notes == ("2 localizers in the series were left out",)
    refused([*localizers, *series], StackPolicy(localizers="refuse"), "holds 2 localizers")
    assert [len(one) for one in volumes_in(frames_of([*localizers, *series]))] == [DEPTH]


def test_a_series_of_localizers_alone_is_a_volume(phantom: ThoraxPhantom, series: list[Dataset]) -> None:
    for instance in series:
        instance.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    assert is_phantom(volume_of(series), phantom)


def test_exact_copies_are_left_out_or_refused(phantom: ThoraxPhantom, series: list[Dataset]) -> None:
    copies = again(series[2:5], ContentTime="120000")
    volume = volume_of([*copies, *series])
    assert is_phantom(volume, phantom)
    assert volume.notes == ("3 slices are in the series twice, with the same pixels; one of each was used",)
    assert len(volume.frames) == DEPTH
    refused([*copies, *series], StackPolicy(copies="refuse"), "3 slices twice")
    copies = again(series[2:5])
    copies[0].RescaleIntercept = "0"  # the same pixels, but another meaning
    refused([*copies, *series], StackPolicy(), "1 slices at a position")


@pytest.mark.parametrize(
    ("keyword", "earlier", "later"),
    [
        ("TemporalPositionIdentifier", 1, 2),
        ("TriggerTime", "90", "120"),
        ("AcquisitionNumber", 9, 10),
        ("AcquisitionTime", "083000", "083100"),
    ],
)
def test_two_time_points_are_told_apart(
    phantom: ThoraxPhantom, series: list[Dataset], keyword: str, earlier: object, later: object
) -> None:
    second = again(series, 7, **{keyword: later})
    for instance in series:
        setattr(instance, keyword, earlier)
    # Air looks the same at both times, which makes it no copy.
    second[4].PixelData = series[4].PixelData
    both = [*second, *series]
    refused(both, StackPolicy(), f"2 volumes in one, which differ in {keyword}")
    refused(both, LARGEST, "the two largest have 9 slices each")
    first, last = volume_of(both, policy=FIRST), volume_of(both, policy=LAST)
    assert is_phantom(first, phantom)
    assert np.array_equal(last.voxels[5:], phantom.hu[5:] + 7)
    for which, volume in (("first", first), ("last", last)):
        said = f"the series holds 2 volumes that differ in {keyword}; the {which} was used, 9 of 18 images"
        assert volume.notes == (said,)
    in_turn = [{frame.get(keyword) for frame in one} for one in volumes_in(frames_of(both))]
    assert in_turn == [{series[0].get(keyword)}, {second[0].get(keyword)}]


def test_what_nothing_tells_apart_is_refused(series: list[Dataset]) -> None:
    both = [*series, *again(series, 7)]
    for policy in (FIRST, LAST, LARGEST):
        refused(both, policy, "no attribute tells which belong together")
    with pytest.raises(GeometryError, match="no attribute tells"):
        volumes_in(frames_of(both))


def test_time_points_of_multi_frame_instances(phantom: ThoraxPhantom) -> None:
    (early,) = as_enhanced(phantom)
    (late,) = as_enhanced(phantom, slopes=(0.5,), order=range(DEPTH)[::-1])
    late.SeriesInstanceUID = early.SeriesInstanceUID
    for index, instance in enumerate((early, late), 1):
        for groups in instance.PerFrameFunctionalGroupsSequence:
            groups.FrameContentSequence[0].TemporalPositionIndex = index
    refused([early, late], StackPolicy(), "differ in TemporalPositionIndex")
    assert volume_of([late, early], policy=FIRST).sources == (early,)
    assert volume_of([late, early], policy=LAST).sources == (late,)
    assert is_phantom(volume_of([late, early], policy=LAST), phantom)


def test_two_orientations_give_the_larger_or_none(phantom: ThoraxPhantom, series: list[Dataset]) -> None:
    others = again(series[:4], ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    mixed = [*others, *series]
    refused(mixed, StackPolicy(), "mixes 2 values of ImageOrientationPatient")
    volume = volume_of(mixed, policy=LARGEST)
    assert is_phantom(volume, phantom)
    said = "groups of images that differ in orientation, size, spacing or frame of reference"
    assert volume.notes == (f"the series holds 2 {said}; the largest was used, 9 of 13 images",)
    assert is_phantom(volume_of(mixed, policy=FIRST), phantom)  # by the time, then the number
    assert [len(one) for one in volumes_in(frames_of(mixed))] == [4, DEPTH]


def test_two_frames_of_reference_are_no_one_volume(phantom: ThoraxPhantom, series: list[Dataset]) -> None:
    mixed = [*series[:3], *again(series[3:], FrameOfReferenceUID="1.2.3")]
    refused(mixed, StackPolicy(), "mixes 2 values of FrameOfReferenceUID")
    volume = volume_of(mixed, policy=LARGEST)
    np.testing.assert_array_equal(volume.voxels, phantom.hu[3:])
    assert {frame.get("FrameOfReferenceUID") for frame in volume.frames} == {"1.2.3"}


def test_a_gap_is_refused_cut_off_or_filled(phantom: ThoraxPhantom, series: list[Dataset]) -> None:
    missing = [*series[:5], *series[7:]]  # of 0 to 8, 5 and 6
    refused(
        missing, StackPolicy(), r"gap or uneven spacing: 90\.00 mm after slice 5 of 7, 30\.00 mm elsewhere"
    )

    longest = volume_of(missing, policy=LONGEST)
    np.testing.assert_array_equal(longest.voxels, phantom.hu[:5])
    np.testing.assert_allclose(longest.affine, phantom.affine, atol=1e-6)
    said = "slices are missing or unevenly spaced: the longest regular part was used, 5 of 7 slices"
    assert longest.notes == (said,)
    assert longest.missing_slices == 2

    filled = volume_of(missing, policy=RESAMPLE)
    assert filled.voxels.shape == phantom.hu.shape
    np.testing.assert_allclose(filled.affine, phantom.affine, atol=1e-6)
    there = [0, 1, 2, 3, 4, 7, 8]
    np.testing.assert_array_equal(filled.voxels[there], phantom.hu[there])
    hu = phantom.hu.astype(np.float64)
    for z, weight in ((5, 1 / 3), (6, 2 / 3)):
        between = (1 - weight) * hu[4] + weight * hu[7]
        np.testing.assert_allclose(filled.voxels[z], between, atol=0.51)
    assert filled.missing_slices == 2
    (said,) = filled.notes
    assert said.startswith(
        "slices are missing or unevenly spaced: 7 slices were resampled to 9, 30.00 mm apart"
    )
    assert filled.places == pytest.approx(there)
    np.testing.assert_array_equal(on_frames(phantom.labels, filled.places), phantom.labels[there])
    assert [frame.instance for frame in filled.frames] == missing


def test_more_missing_than_allowed_is_refused(series: list[Dataset]) -> None:
    missing = [*series[:4], *series[7:]]
    refused(missing, RESAMPLE, r"120\.00 mm after slice 4 of 6.*: more than 2 slices in a row are missing")
    volume = volume_of(missing, policy=StackPolicy(gaps="resample", most_missing=3))
    assert len(volume.voxels) == DEPTH


def _moved(series: list[Dataset], along: NDArray[np.float64]) -> list[Dataset]:
    """The slices at these distances from the first, in mm along the normal."""
    start = np.array(series[0].ImagePositionPatient, float)
    normal = (np.array(series[1].ImagePositionPatient, float) - start) / STEP_MM
    for instance, distance in zip(series, along, strict=True):
        instance.ImagePositionPatient = np.round(start + normal * distance, 8).tolist()
    return series


def test_uneven_spacing_is_not_resampled_because_results_could_not_come_back(series: list[Dataset]) -> None:
    along = STEP_MM * np.arange(DEPTH, dtype=float)
    along[4] += 12.0
    uneven = _moved(series, along)
    refused(uneven, StackPolicy(), "gap or uneven spacing")
    refused(uneven, RESAMPLE, "no whole steps")
    longest = volume_of(uneven, policy=LONGEST)
    assert [frame.instance for frame in longest.frames] == uneven[:4]


def test_slices_closer_than_the_grid_are_not_lost(series: list[Dataset]) -> None:
    along = np.array([0.0, 6, 12, 18, 48, 78, 108, 138, 168])
    refused(_moved(series, along), RESAMPLE, r"6\.00 mm apart, most 30\.00 mm; .* some would be lost")


def test_a_series_whose_frames_are_compressed_with_an_extended_offset_table(phantom: ThoraxPhantom) -> None:
    (instance,) = as_enhanced(phantom)
    instance.compress(RLELossless, encapsulate_ext=True, generate_instance_uid=False)
    assert "ExtendedOffsetTable" in instance
    assert is_phantom(volume_of([instance]), phantom)


def test_attributes_of_a_converted_legacy_instance_are_found(phantom: ThoraxPhantom) -> None:
    (instance,) = as_enhanced(phantom)
    groups = instance.PerFrameFunctionalGroupsSequence[2]
    groups.UnassignedPerFrameConvertedAttributesSequence = ItemSequence([Dataset()])
    groups.UnassignedPerFrameConvertedAttributesSequence[0].TriggerTime = "40"
    assert [frame.get("TriggerTime") for frame in frames_of([instance])[1:4]] == [None, 40, None]


def _no_position(series: list[Dataset]) -> None:
    del series[3].ImagePositionPatient


def _colours(series: list[Dataset]) -> None:
    series[3].SamplesPerPixel = 3


def _other_series(series: list[Dataset]) -> None:
    series[3].SeriesInstanceUID = "1.2.3"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_no_position, "no ImagePositionPatient"),
        (_colours, "holds colour images"),
        (_other_series, "mixes 2 values of SeriesInstanceUID"),
    ],
)
def test_no_policy_helps_what_has_no_place(
    series: list[Dataset], spoil: Callable[[list[Dataset]], None], said: str
) -> None:
    spoil(series)
    refused(series, StackPolicy(volumes="largest", gaps="resample"), said)


@pytest.mark.parametrize(
    ("keyword", "value", "said"),
    [
        ("PatientID", "ANOTHER", "mixes 2 values of PatientID"),
        ("RescaleType", "US", "mixes 2 values of RescaleType"),
        ("ConvolutionKernel", "B70f", "2 volumes in one, which differ in ConvolutionKernel"),
    ],
)
def test_what_alternates_from_slice_to_slice_is_not_one_volume(
    keyword: str, value: str, said: str, series: list[Dataset]
) -> None:
    for instance in series[::2]:
        setattr(instance, keyword, value)
    refused(series, StackPolicy(), said)
