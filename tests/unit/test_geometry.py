"""One exact volume from a series, or the reason why there is none."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from isocenter_operators.dicom.series.geometry import slices_of, volume_of
from isocenter_operators.dicom.series.read import read_folder
from isocenter_operators.errors import GeometryError, InputError, UnreadableInput


@pytest.fixture(scope="module")
def abdomen(test_data: Path) -> list[Dataset]:
    return read_folder(test_data / "ct-abdomen-41")


@pytest.fixture
def few(abdomen: list[Dataset]) -> list[Dataset]:
    """Six neighbouring slices, free to be changed."""
    return copy.deepcopy([frame.instance for frame in slices_of(abdomen)[10:16]])


def test_voxels_and_positions_are_those_of_pydicom_in_any_file_order(abdomen: list[Dataset]) -> None:
    volume = volume_of(abdomen[::-1])
    assert volume.voxels.dtype == np.int16
    assert volume.voxels.min() == -3024  # padding of -2000 with an intercept of -1024: kept as it is
    for z in (0, 20, 40):
        source = volume.sources[z]
        expected = source.pixel_array * float(source.RescaleSlope) + float(source.RescaleIntercept)
        np.testing.assert_array_equal(volume.voxels[z], expected)
        position = volume.affine @ [0, 0, z, 1]
        np.testing.assert_allclose(position[:3], np.array(source.ImagePositionPatient, float), atol=1e-3)
    assert np.linalg.det(volume.affine[:3, :3]) > 0


def test_a_tilted_gantry_keeps_every_slice_where_it_is(test_data: Path) -> None:
    volume = volume_of(read_folder(test_data / "ct-head-phantom" / "S2010"))
    for z, source in enumerate(volume.sources):
        np.testing.assert_allclose(
            (volume.affine @ [0, 0, z, 1])[:3], np.array(source.ImagePositionPatient, float), atol=0.01
        )


def test_rows_and_columns_have_their_own_spacing(few: list[Dataset]) -> None:
    for instance in few:
        instance.PixelSpacing = [0.5, 2.0]  # between rows, between columns (PS3.3, 10.7.1.3)
    assert volume_of(few).spacing_mm == pytest.approx((2.0, 0.5, 5.0))


def test_a_fractional_slope_is_rounded_and_a_value_beyond_16_bits_refused(few: list[Dataset]) -> None:
    stored = int(few[0].pixel_array[256, 256])
    few[0].RescaleSlope, few[0].RescaleIntercept = "0.5", "0.25"
    assert volume_of(few).voxels[0, 256, 256] == round(stored * 0.5 + 0.25)
    few[1].RescaleSlope = "1000"
    with pytest.raises(InputError, match="do not fit 16 bits"):
        volume_of(few)


def test_unused_high_bits_do_not_reach_the_values(few: list[Dataset]) -> None:
    clean = volume_of(few).voxels.copy()
    for instance in few:
        values = instance.pixel_array.astype(np.int16)
        assert values.min() < -1024
        instance.BitsStored, instance.HighBit = 14, 13
        instance.PixelData = ((values.view(np.uint16) & 0x3FFF) | 0x8000).astype("<u2").tobytes()
    np.testing.assert_array_equal(volume_of(few).voxels, clean)


def test_ct_without_its_rescale_is_not_taken_for_hounsfield_units(few: list[Dataset]) -> None:
    del few[3].RescaleIntercept
    with pytest.raises(InputError, match="not known to be Hounsfield units"):
        volume_of(few)
    for instance in few:
        instance.Modality = "MR"
        instance.pop("RescaleSlope", None)
        instance.pop("RescaleIntercept", None)
    np.testing.assert_array_equal(volume_of(few).voxels[0], few[0].pixel_array)


@pytest.mark.parametrize(("padding", "limit"), [(-32768, None), (-32768, -32760), (32768, None)])
def test_padding_that_does_not_fit_is_no_reason_to_refuse(
    few: list[Dataset], padding: int, limit: int | None
) -> None:
    clean = volume_of(few).voxels.copy()
    for instance in few:
        values = instance.pixel_array.astype(np.int16)
        values[:5] = -32768  # with an intercept of -1024: below int16
        instance.PixelData = values.astype("<i2").tobytes()
        instance.PixelPaddingValue = padding  # 32768: the same bits, written as US
        if limit is not None:
            instance.PixelPaddingRangeLimit = limit
    voxels = volume_of(few).voxels
    assert (voxels[:, :5] == -32768).all()
    np.testing.assert_array_equal(voxels[:, 5:], clean[:, 5:])
    few[2].PixelPaddingValue = -2000
    with pytest.raises(InputError, match=r"from -33792 to .* do not fit 16 bits"):
        volume_of(few)


def test_values_above_the_lowest_bit_are_refused(few: list[Dataset]) -> None:
    few[0].BitsStored, few[0].HighBit = 12, 15
    with pytest.raises(UnreadableInput, match="High Bit is 15 for 12 Bits Stored"):
        volume_of(few)


def _drop_middle(few: list[Dataset]) -> list[Dataset]:
    return few[:3] + few[4:]


def _duplicate(few: list[Dataset]) -> list[Dataset]:
    twin = copy.deepcopy(few[2])
    twin.PixelData = few[3].PixelData
    return [*few, twin]


def _turn_one(few: list[Dataset]) -> list[Dataset]:
    few[1].ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    return few


def _other_frame(few: list[Dataset]) -> list[Dataset]:
    few[1].FrameOfReferenceUID = "1.2.3"
    return few


def _no_position(few: list[Dataset]) -> list[Dataset]:
    del few[4].ImagePositionPatient
    return few


def _no_width(few: list[Dataset]) -> list[Dataset]:
    few[2].PixelSpacing = [0.8, 0]
    return few


def _two_cosines(few: list[Dataset]) -> list[Dataset]:
    few[2].ImageOrientationPatient = [1, 0]
    return few


def _sheared(few: list[Dataset]) -> list[Dataset]:
    for instance in few:
        instance.ImageOrientationPatient = [0.5, 0, 0, 0, 2, 0]  # whose cross product is a unit vector
    return few


def _shifted(few: list[Dataset]) -> list[Dataset]:
    x, y, z = few[3].ImagePositionPatient
    few[3].ImagePositionPatient = [x + 4, y, z]
    return few


def _one(few: list[Dataset]) -> list[Dataset]:
    return few[:1]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (_drop_middle, r"gap .* 10\.00 mm after slice 3 of 5"),
        (_duplicate, "1 slices at a position that another slice already has"),
        (_turn_one, "mixes 2 values of ImageOrientationPatient"),
        (_other_frame, "mixes 2 values of FrameOfReferenceUID"),
        (_no_position, "no ImagePositionPatient"),
        (_one, "has one slice"),
        (_no_width, r"PixelSpacing is \[0\.8, 0\.0\], not 2 positive numbers"),
        (_two_cosines, "ImageOrientationPatient is .* not 6 numbers"),
        (_sheared, "not two unit vectors"),
        (_shifted, "not in line"),
    ],
)
def test_what_is_not_one_volume_is_refused_by_its_reason(
    few: list[Dataset], broken: object, said: str
) -> None:
    assert callable(broken)
    with pytest.raises(GeometryError, match=said) as refusal:
        volume_of(broken(few))
    assert refusal.value.series_uid == few[0].SeriesInstanceUID
