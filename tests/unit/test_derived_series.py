"""Derived image series: ITK reads back the values and places, and the header says that nobody acquired them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from read_back import found_by_dciodvfy, read_series
from result_cases import ALGORITHM, SERIES, identity_of, written

from isocenter_operators.dicom.findings import Code
from isocenter_operators.dicom.results.derived_series import derived_series
from isocenter_operators.dicom.rules.validate import check
from isocenter_operators.dicom.series.geometry import Volume, slices_of, volume_of
from isocenter_operators.dicom.series.read import read_folder
from isocenter_operators.errors import GeometryError, InputError, InvalidResult
from isocenter_operators.testing import ThoraxPhantom, as_datasets, as_enhanced, thorax_phantom

SMOOTHING = Code("113087", "DCM", "Smoothing")


def phantom(**parameters: Any) -> ThoraxPhantom:
    return thorax_phantom(**{"size": (40, 32, 10), "spacing_mm": (9.0, 8.0, 24.0), **parameters})


@pytest.fixture(scope="module")
def volume() -> Volume:
    return volume_of(as_datasets(phantom(oblique_deg=20.0)))


def series_of(volume: Volume, voxels: NDArray[Any], **others: Any) -> list[Dataset]:
    return derived_series(
        voxels=voxels,
        frames=volume.frames,
        **{"what": "Denoised", "algorithm": ALGORITHM, "identity": identity_of(volume), **others},
    )


def denoised(volume: Volume) -> NDArray[np.int16]:
    """Other values in every voxel, as no two of its neighbours have."""
    return (volume.voxels // 2 + np.arange(volume.voxels.size).reshape(volume.voxels.shape) % 97).astype(
        np.int16
    )


def read_by_itk(images: list[Dataset], folder: Path) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Voxels (Z, Y, X) and affine of a series of files."""
    for place, image in enumerate(images):
        written(image, folder, f"{(place * 7) % 1000:04d}")  # no order of names
    return read_series(folder)


@pytest.mark.parametrize("case", ["LPS", "RAI", "PIR", "oblique", "enhanced"])
def test_itk_reads_back_values_and_places(case: str, tmp_path: Path) -> None:
    if case in ("oblique", "enhanced"):
        made = phantom(oblique_deg=20.0)
    else:
        made = phantom(orientation=case, spacing_mm=(9.0, 12.0, 20.0))
    order = [4, 2, 0, 8, 6, 1, 9, 7, 3, 5]
    volume = volume_of(as_enhanced(made, order=order) if case == "enhanced" else as_datasets(made))
    voxels = denoised(volume)
    images = series_of(volume, voxels)
    read, affine = read_by_itk(images, tmp_path)
    np.testing.assert_array_equal(read, voxels)
    np.testing.assert_allclose(affine, volume.affine, atol=1e-4)
    ours = volume_of([dcmread(path) for path in sorted(tmp_path.iterdir())])
    np.testing.assert_array_equal(ours.voxels, voxels)
    np.testing.assert_allclose(ours.affine, volume.affine, atol=1e-6)
    for image, frame in zip(images, volume.frames, strict=True):
        (source,) = image.SourceImageSequence
        assert source.ReferencedSOPInstanceUID == frame.instance.SOPInstanceUID
        assert source.get("ReferencedFrameNumber") == frame.number
        assert source.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"


@pytest.mark.parametrize(
    ("case", "expected"),
    [("tenths", (1, 0.1, 0)), ("wide", (0, 1, 3000)), ("floats", (1, 1, 0)), ("bytes", (1, 1, 0))],
)
def test_the_rescale_gives_the_values_back(
    volume: Volume, case: str, expected: tuple[int, float, float], tmp_path: Path
) -> None:
    values, step = {
        "tenths": (denoised(volume) / 10, 0.1),
        "wide": (denoised(volume).astype(np.int32) % 60000 + 3000, None),
        "floats": (denoised(volume).astype(np.float32), None),
        "bytes": ((denoised(volume) % 256).astype(np.uint8), None),
    }[case]
    values.flat[:2] = {"tenths": (-1, 1), "wide": (3000, 63000)}.get(case, (0, 1))
    images = series_of(volume, values, step=step)
    for image in images:
        assert (image.PixelRepresentation, image.RescaleSlope, image.RescaleIntercept) == expected
    read, _ = read_by_itk(images, tmp_path)
    np.testing.assert_allclose(read, values, atol=1e-9)


def test_it_says_what_it_is_and_who_made_it(volume: Volume, tmp_path: Path) -> None:
    images = series_of(volume, denoised(volume), derivation=SMOOTHING, padding=-2000)
    first, source = images[0], volume.sources[0]
    assert list(first.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
    assert first.SeriesDescription == "Denoised (AI): Chest phantom"
    assert first.DerivationDescription == "Denoised: made by artificial intelligence (ct_lung_density 1.2.0)"
    assert [item.CodeValue for item in first.DerivationCodeSequence] == ["113087", "123110"]
    assert (first.SOPClassUID, first.SeriesNumber) == (source.SOPClassUID, 9010)
    assert (first.RescaleType, first.PixelPaddingValue) == ("HU", -2000)
    assert (first.WindowCenter, first.WindowWidth) == (-600, 1500)
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "KVP", "ConvolutionKernel", "SliceLocation"):
        assert first[keyword].value == source[keyword].value
    assert first.SeriesInstanceUID != source.SeriesInstanceUID
    assert len({image.SeriesInstanceUID for image in images}) == 1
    assert len({image.SOPInstanceUID for image in images}) == len(images)
    again = series_of(volume, denoised(volume), derivation=SMOOTHING, padding=-2000)
    bytes_of = [written(one[3], tmp_path, name).read_bytes() for name, one in (("a", images), ("b", again))]
    assert bytes_of[0] == bytes_of[1]
    assert series_of(volume, denoised(volume), number=2)[0].SOPInstanceUID != first.SOPInstanceUID


def test_of_a_synthetic_ct_of_an_mr_nothing_is_said_to_be_acquired(tmp_path: Path) -> None:
    (instance,) = as_enhanced(phantom(), modality="MR")
    volume = volume_of([instance])
    images = series_of(volume, denoised(volume), what="Synthetic CT", kind="synthetic", modality="CT")
    assert images[0].SOPClassUID.name == "CT Image Storage"
    assert (images[0].Modality, images[0].KVP, images[0].RescaleType) == ("CT", None, "HU")
    assert images[0].DerivationDescription.endswith(", not acquired")
    assert not {"ConvolutionKernel", "MagneticFieldStrength", "EchoTime"} & set(images[0].dir())
    found = found_by_dciodvfy(written(images[0], tmp_path, "ct"))
    assert [problem for problem in found if problem.severity == "error"] == []


def test_loss_and_contrast_come_along(volume: Volume) -> None:
    sources = copy.deepcopy(list(volume.sources))
    for source in sources:
        source.LossyImageCompression, source.LossyImageCompressionRatio = "01", "10"
        source.LossyImageCompressionMethod = "ISO_10918_1"
        source.ContrastBolusAgent, source.ContrastBolusRoute = "Iodine", "IV"
    lossy = volume_of(sources)
    image = series_of(lossy, denoised(lossy))[2]
    assert (image.LossyImageCompression, image.LossyImageCompressionRatio) == ("01", 10)
    assert (image.ContrastBolusAgent, image.ContrastBolusRoute) == ("Iodine", "IV")
    synthetic = series_of(lossy, denoised(lossy), kind="synthetic")[2]
    assert synthetic.LossyImageCompression == "01"
    assert "ContrastBolusAgent" not in synthetic


@pytest.mark.parametrize("series", [*SERIES, "enhanced CT", "enhanced MR"])
def test_dciodvfy_finds_no_error_in_what_is_derived_of_any_series(
    series: str, test_data: Path, tmp_path: Path
) -> None:
    if series.startswith("enhanced"):
        volume = volume_of(as_enhanced(phantom(), modality=series[-2:]))
    else:
        volume = volume_of([frame.instance for frame in slices_of(read_folder(test_data / series))[:3]])
    for kind in ("processed", "synthetic"):
        image = series_of(volume, volume.voxels, kind=kind)[1]
        check(image)
        found = found_by_dciodvfy(written(image, tmp_path, kind))
        assert [problem for problem in found if problem.severity == "error"] == []


def test_refuses_what_would_be_wrong(volume: Volume) -> None:
    voxels = denoised(volume)
    with pytest.raises(GeometryError, match=r"the derived voxels are \(9, 32, 40\)"):
        series_of(volume, voxels[1:])
    with pytest.raises(InputError, match="no whole numbers"):
        series_of(volume, voxels + 0.25)
    with pytest.raises(InputError, match="steps of 0"):
        series_of(volume, voxels, step=0.0)
    with pytest.raises(InvalidResult, match="16 bits hold 65536"):
        series_of(volume, voxels.astype(np.float64), step=0.001)
    spoiled = voxels.astype(np.float32)
    spoiled[0, 0, 0] = np.inf
    with pytest.raises(InvalidResult, match="no numbers"):
        series_of(volume, spoiled)
    sources = copy.deepcopy(list(volume.sources))
    for source in sources:
        source.SOPClassUID, source.Modality = "1.2.840.10008.5.1.4.1.1.128", "PT"
    with pytest.raises(InputError, match="neither CT nor MR"):
        series_of(volume_of(sources), voxels)
