"""The figures of an image's quality, against images made to have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread

from isocenter_operators.dicom.gate.acceptance import QualityLimits
from isocenter_operators.dicom.gate.overview import overview_of
from isocenter_operators.dicom.gate.quality import Quality, quality_of
from isocenter_operators.dicom.series.geometry import Volume, volume_of
from isocenter_operators.testing import abdomen_phantom


def measured(voxels: NDArray[np.int16], affine: NDArray[np.float64]) -> Quality:
    return quality_of(voxels, affine, overview_of(voxels, affine))


@pytest.fixture(scope="module")
def abdomen(test_data: Path) -> Volume:
    return volume_of([dcmread(path) for path in (test_data / "ct-abdomen-41" / "image").iterdir()])


def test_a_real_abdomen_is_within_every_limit(abdomen: Volume) -> None:
    quality, limits = measured(abdomen.voxels, abdomen.affine), QualityLimits()
    assert (quality.constant, quality.air_only) == (False, False)
    assert quality.noise_hu == pytest.approx(14.6, abs=1)
    for name, limit in limits.model_dump().items():
        assert limit is None or getattr(quality, name) <= limit, name
    assert quality.cut_percent < 1


def test_noise_is_measured_as_it_was_added(abdomen: Volume) -> None:
    rng = np.random.default_rng(0)
    for added_hu in (50, 200):
        noise = rng.normal(0, added_hu, abdomen.voxels.shape)
        quality = measured((abdomen.voxels + noise).astype(np.int16), abdomen.affine)
        assert quality.noise_hu == pytest.approx(np.hypot(14.6, added_hu), rel=0.1)


def test_a_windowed_image_is_clipped(abdomen: Volume) -> None:
    assert measured(abdomen.voxels.clip(-160, 240), abdomen.affine).clipped_percent > 50
    assert measured(abdomen.voxels, abdomen.affine).clipped_percent < 0.01


def test_a_small_field_of_view_cuts_the_body(abdomen: Volume) -> None:
    assert measured(abdomen.voxels[:, 130:390, 130:390], abdomen.affine).cut_percent > 50
    padded = abdomen.voxels.copy()  # what lies outside a round field of view, as most scanners write it
    rows, columns = np.indices(padded.shape[1:])
    padded[:, np.hypot(rows - 255.5, columns - 255.5) > 130] = -2000
    assert measured(padded, abdomen.affine).cut_percent > 30


def test_metal_is_measured_against_the_body() -> None:
    phantom = abdomen_phantom()
    hu = phantom.hu.copy()
    assert measured(hu, phantom.affine).metal_percent == 0
    body_voxels = 40 * np.pi * (162 / 3.6) * (112 / 3.6)  # an elliptic cylinder
    hu[10:30, 30:50, 40:50] = 3071
    metal_percent = measured(hu, phantom.affine).metal_percent
    assert metal_percent == pytest.approx(100 * 20 * 20 * 10 / body_voxels, rel=0.1)


def test_constant_blank_and_empty_images() -> None:
    phantom = abdomen_phantom()
    constant = measured(np.full((20, 50, 50), 7, np.int16), phantom.affine)
    assert constant.constant
    hu = phantom.hu.copy()
    hu[:4] = -1024
    quality = measured(hu, phantom.affine)
    assert (quality.constant, quality.blank_slices_percent) == (False, 10.0)
    noise = np.random.default_rng(0).normal(-1000, 15, (20, 50, 50)).astype(np.int16)
    assert measured(noise, phantom.affine).air_only
    assert not measured(phantom.hu, phantom.affine).air_only
