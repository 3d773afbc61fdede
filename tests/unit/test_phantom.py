"""The phantoms: is what they claim to be the truth true, whatever the grid, and is their DICOM valid?"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy import ndimage

from isocenter_operators.errors import GeometryError, InputError
from isocenter_operators.testing import (
    Organ,
    Phantom,
    ThoraxPhantom,
    abdomen_phantom,
    as_datasets,
    head_phantom,
    thorax_phantom,
    write_series,
)

SMALL_SIZE = (128, 128, 64)
SMALL_SPACING_MM = (2.8, 2.8, 4.7)
FLIPS = ["".join(letters) for letters in itertools.product("LR", "PA", "SI")]


@pytest.fixture(scope="module")
def phantom() -> ThoraxPhantom:
    return thorax_phantom()


@pytest.fixture(scope="module")
def small() -> ThoraxPhantom:
    return thorax_phantom(size=SMALL_SIZE, spacing_mm=SMALL_SPACING_MM, noise_hu=0)


def positions_mm(phantom: ThoraxPhantom, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Patient coordinates (N, 3) of the voxels of a mask (Z, Y, X)."""
    index = np.argwhere(mask)[:, ::-1]  # (z, y, x) -> (x, y, z)
    return index @ phantom.affine[:3, :3].T + phantom.affine[:3, 3]


def read_back(datasets: list[Dataset]) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Hounsfield units and affine by the standard's own equation, in the order of InstanceNumber."""
    datasets = sorted(datasets, key=lambda each: int(each.InstanceNumber))
    hu = np.stack(
        [each.pixel_array * int(each.RescaleSlope) + int(each.RescaleIntercept) for each in datasets]
    )
    row_mm, column_mm = (float(part) for part in datasets[0].PixelSpacing)
    along_row, along_column = np.array(datasets[0].ImageOrientationPatient, float).reshape(2, 3)
    first, last = (np.array(each.ImagePositionPatient, float) for each in (datasets[0], datasets[-1]))
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = along_row * column_mm, along_column * row_mm
    affine[:3, 2], affine[:3, 3] = (last - first) / (len(datasets) - 1), first
    return hu.astype(np.int16), affine


def test_truth_is_what_the_written_voxels_say(phantom: ThoraxPhantom) -> None:
    voxel_ml = abs(np.linalg.det(phantom.affine[:3, :3])) / 1000
    for lung, inside in (
        (phantom.truth.right, phantom.labels == 1),
        (phantom.truth.left, phantom.labels == 2),
        (phantom.truth.both, phantom.labels > 0),
    ):
        hu = phantom.hu[inside]
        assert lung.volume_mL == pytest.approx(hu.size * voxel_ml)
        assert lung.mean_hu == pytest.approx(hu.astype(float).mean())
        assert lung.laa_950_percent == pytest.approx(100 * (hu <= -951).mean())
        assert lung.p15_hu == np.quantile(hu, 0.15, method="inverted_cdf")


def test_lungs_are_unequal_and_the_left_one_lies_left(phantom: ThoraxPhantom) -> None:
    right_x = positions_mm(phantom, phantom.labels == 1)[:, 0]
    left_x = positions_mm(phantom, phantom.labels == 2)[:, 0]
    assert right_x.max() < left_x.min()  # LPS: x grows towards the patient's left
    share = phantom.truth.right.volume_mL / phantom.truth.both.volume_mL
    assert 0.52 < share < 0.58
    assert 3000 < phantom.truth.both.volume_mL < 6000


def test_each_lung_and_the_airways_are_one_piece(phantom: ThoraxPhantom) -> None:
    for mask in (phantom.labels == 1, phantom.labels == 2, phantom.airways):
        assert ndimage.label(mask)[1] == 1


def test_airways_run_from_the_neck_into_both_lungs_but_are_not_lung(phantom: ThoraxPhantom) -> None:
    assert phantom.airways[-1].any()
    assert not phantom.labels[phantom.airways].any()
    for lung in (1, 2):
        hull = ndimage.binary_closing(phantom.labels == lung, iterations=6)
        assert np.count_nonzero(hull & phantom.airways) > 50
    lumen = ndimage.binary_erosion(phantom.airways, iterations=2)
    assert phantom.hu[lumen].mean() == pytest.approx(-990, abs=2)


def test_walls_of_the_airways_keep_air_and_lung_apart(phantom: ThoraxPhantom) -> None:
    walls = ndimage.binary_dilation(phantom.airways) & ~phantom.airways
    assert np.percentile(phantom.hu[walls], 95) < 200
    leaks = walls & (phantom.hu < -900)
    assert np.count_nonzero(leaks) < 0.002 * np.count_nonzero(walls)


def test_vessels_and_nodule_belong_to_the_lung(phantom: ThoraxPhantom) -> None:
    assert np.all(phantom.labels[phantom.nodule] == 1)
    volume_mm3 = np.count_nonzero(phantom.nodule) * 1.4 * 1.4 * 2.5
    assert volume_mm3 == pytest.approx(np.pi / 6 * 12**3, rel=0.1)
    core = ndimage.binary_erosion(phantom.nodule)
    assert phantom.hu[core].mean() == pytest.approx(60, abs=10)
    inner = ndimage.binary_erosion(phantom.labels > 0, iterations=4) & ~phantom.nodule
    assert np.count_nonzero(inner & (phantom.hu > -100)) > 3000


def test_scan_holds_the_traps_it_promises(phantom: ThoraxPhantom) -> None:
    air = (phantom.hu < -800) & (phantom.labels == 0) & ~phantom.airways
    trunk = np.zeros_like(air)
    trunk[:40, 70:186, 50:206] = True
    bubble = positions_mm(phantom, air & trunk)
    assert 15 < len(bubble) * 4.9e-3 < 120  # mL of gas in the stomach
    assert bubble[:, 0].mean() > 30
    below_mm = ndimage.distance_transform_edt(phantom.labels[:, 70:186, 50:206] == 0, (2.5, 1.4, 1.4))
    assert 3 < below_mm[:40][(air & trunk)[:40, 70:186, 50:206]].min() < 10
    table = phantom.hu[:, -25:][air[:, -25:]]
    assert np.count_nonzero((table > -960) & (table < -880)) > 10000
    assert not phantom.labels[:, [0, -1]].any()
    assert not phantom.labels[:, :, [0, -1]].any()
    assert not phantom.labels[[0, -1]].any()


def test_density_follows_gravity(small: ThoraxPhantom) -> None:
    healthy = (small.labels > 0) & ~small.emphysema
    depth = positions_mm(small, healthy)[:, 1]
    hu = small.hu[healthy]
    assert np.median(hu[depth < -60]) == pytest.approx(-872, abs=4)
    assert np.median(hu[depth > 50]) == pytest.approx(-844, abs=4)


@pytest.mark.parametrize("orientation", FLIPS)
def test_all_eight_flips_show_the_same_body(small: ThoraxPhantom, orientation: str) -> None:
    flipped = thorax_phantom(
        size=SMALL_SIZE, spacing_mm=SMALL_SPACING_MM, noise_hu=0, orientation=orientation
    )
    steps = tuple(
        slice(None, None, 1 if letter in "LPS" else -1) for letter in orientation[::-1]
    )  # (z, y, x)
    assert np.array_equal(flipped.hu[steps], small.hu)
    assert np.array_equal(flipped.labels[steps], small.labels)
    assert np.array_equal(flipped.organs[steps], small.organs)
    assert flipped.truth == small.truth
    assert positions_mm(flipped, flipped.labels == 2)[:, 0].min() > 0


@pytest.mark.parametrize("orientation", ["LSP", "PSL", "SLP"], ids=["coronal", "sagittal", "columns up"])
def test_other_planes_show_the_same_body(small: ThoraxPhantom, orientation: str) -> None:
    order = ["LPS".index(letter) for letter in orientation]
    turned = thorax_phantom(
        size=tuple(np.take(SMALL_SIZE, order).tolist()),
        spacing_mm=tuple(np.take(SMALL_SPACING_MM, order).tolist()),
        noise_hu=0,
        orientation=orientation,
    )
    array_axes = order[::-1]  # which of the patient's axes each of (Z, Y, X) runs along
    back = turned.labels.transpose([array_axes.index(axis) for axis in (2, 1, 0)])
    assert back.shape == small.labels.shape
    assert np.count_nonzero(back != small.labels) < 5  # rounding on the very surface
    organs = turned.organs.transpose([array_axes.index(axis) for axis in (2, 1, 0)])
    assert np.count_nonzero(organs != small.organs) < 20


@pytest.mark.parametrize(
    ("size", "spacing_mm", "oblique_deg"),
    [
        ((90, 80, 75), (4.0, 4.0, 4.0), 10.0),
        ((180, 180, 60), (2.0, 2.0, 5.0), 0.0),
        ((110, 90, 200), (3.3, 3.3, 1.5), -7.0),
    ],
)
def test_any_grid_shows_the_same_body(
    phantom: ThoraxPhantom,
    size: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    oblique_deg: float,
) -> None:
    other = thorax_phantom(size=size, spacing_mm=spacing_mm, oblique_deg=oblique_deg)
    for name in ("right", "left"):
        here, there = getattr(phantom.truth, name), getattr(other.truth, name)
        assert there.volume_mL == pytest.approx(here.volume_mL, rel=0.003)
        label = {"right": 1, "left": 2}[name]
        assert ndimage.label(other.labels == label)[1] == 1
        assert there.p15_hu == pytest.approx(here.p15_hu, abs=6)  # larger voxels hold more of the surface


# What each organ is drawn with, in HU; the lungs and the airways blend with what is in and around them.
PAINTED_HU = {
    Organ.HEART: {42},
    Organ.AORTA: {42},
    Organ.LIVER: {60},
    Organ.SPLEEN: {48},
    Organ.STOMACH: {50, 12, -1000},
    Organ.VERTEBRAE: {700, 400, 220},
}


def test_the_organs_are_what_was_drawn(small: ThoraxPhantom) -> None:
    """Every voxel of an organ has its intensity, and what has that intensity and touches the organ belongs to it."""
    for organ, painted_hu in PAINTED_HU.items():
        inside = small.organs == organ
        apart = ndimage.binary_dilation(small.labels > 0) | ndimage.binary_dilation(
            small.airways, iterations=2
        )
        seen = np.unique(small.hu[inside & ~apart])
        assert set(seen.tolist()) == painted_hu, organ.name
        outside = ndimage.binary_dilation(inside) & (small.organs == 0) & ~apart
        if organ not in (Organ.STOMACH, Organ.VERTEBRAE):  # which have walls of what is around them, too
            assert not np.isin(small.hu[outside], list(painted_hu)).any(), organ.name
    for lung in (Organ.RIGHT_LUNG, Organ.LEFT_LUNG):
        assert np.array_equal(small.organs == lung, small.labels == lung)
    assert np.array_equal(small.organs == Organ.AIRWAYS, small.airways)


def test_the_organs_lie_where_they_belong(phantom: ThoraxPhantom) -> None:
    middle = {organ: positions_mm(phantom, phantom.organs == organ).mean(axis=0) for organ in Organ}  # LPS
    left, back, head = ({organ: middle[organ][axis] for organ in Organ} for axis in range(3))
    assert left[Organ.LIVER] < -20 < 5 < left[Organ.HEART] < left[Organ.STOMACH] < left[Organ.SPLEEN]
    assert abs(left[Organ.VERTEBRAE]) < 2 < left[Organ.AORTA]
    assert back[Organ.HEART] < back[Organ.AORTA] < back[Organ.VERTEBRAE]
    assert head[Organ.LIVER] < head[Organ.HEART] < head[Organ.AIRWAYS]
    for organ in set(Organ) - {Organ.VERTEBRAE}:  # these are several
        pieces, count = ndimage.label(phantom.organs == organ)
        assert np.bincount(pieces.ravel())[1:].max() > 0.98 * np.count_nonzero(pieces), (organ.name, count)


@pytest.mark.parametrize(("orientation", "oblique_deg"), [("LPS", 14.0), ("RAI", -9.0), ("SLA", 11.0)])
def test_mirrored_and_oblique_grids_show_the_same_organs(
    phantom: ThoraxPhantom, orientation: str, oblique_deg: float
) -> None:
    turned = thorax_phantom(
        size=(190, 190, 190), spacing_mm=(2.4, 2.4, 2.4), orientation=orientation, oblique_deg=oblique_deg
    )
    for organ in (Organ.RIGHT_LUNG, Organ.LEFT_LUNG, Organ.HEART, Organ.AORTA):  # those that no edge cuts off
        here, there = (positions_mm(each, each.organs == organ) for each in (phantom, turned))
        if organ != Organ.AORTA:
            assert len(there) * 2.4**3 == pytest.approx(len(here) * 4.9, rel=0.01), organ.name
            np.testing.assert_allclose(there.mean(axis=0), here.mean(axis=0), atol=0.5)
        # Voxel by voxel: the organ at the same place of the patient on the other grid.
        index = np.linalg.inv(phantom.affine) @ np.c_[there, np.ones(len(there))].T
        x, y, z = np.rint(index[:3]).astype(int)
        known = np.all(
            [(n >= 0) & (n < size) for n, size in zip((z, y, x), phantom.organs.shape, strict=True)], axis=0
        )
        same = phantom.organs[z[known], y[known], x[known]] == organ
        assert same.mean() > 0.94, organ.name  # the others lie on its surface


def test_a_smaller_patient_is_the_same_one_smaller(phantom: ThoraxPhantom) -> None:
    child = thorax_phantom(stature=0.8)
    assert np.array_equal(child.affine, phantom.affine)
    assert child.digest != phantom.digest
    for organ in (Organ.RIGHT_LUNG, Organ.LEFT_LUNG, Organ.HEART):
        sizes = [np.count_nonzero(each.organs == organ) for each in (child, phantom)]
        assert sizes[0] == pytest.approx(0.8**3 * sizes[1], rel=0.01), organ.name
        here, there = (positions_mm(each, each.organs == organ).mean(axis=0) for each in (phantom, child))
        np.testing.assert_allclose(there, 0.8 * here, atol=0.5)
    assert child.truth.left.volume_mL == pytest.approx(0.8**3 * phantom.truth.left.volume_mL, rel=0.01)


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.3, 1.0])
def test_emphysema_is_the_chosen_share_of_the_parenchyma(fraction: float) -> None:
    def make(share: float) -> ThoraxPhantom:
        return thorax_phantom(
            size=(96, 96, 50), spacing_mm=(3.7, 3.7, 6.0), noise_hu=0, emphysema_fraction=share
        )

    parenchyma = make(1.0).emphysema
    diseased = make(fraction)
    wanted = fraction * np.count_nonzero(parenchyma)
    assert np.count_nonzero(diseased.emphysema) == pytest.approx(wanted, abs=2)
    assert not np.any(diseased.emphysema & ~parenchyma)
    assert np.array_equal(
        diseased.hu[diseased.emphysema], np.full_like(diseased.hu[diseased.emphysema], -980)
    )
    inside = diseased.labels > 0
    low = (diseased.hu < -950) & inside
    # No other voxel is as light, but for the rims of bronchi, which hold some of the lumen's air.
    assert np.count_nonzero(low & ~diseased.emphysema) < 0.002 * np.count_nonzero(inside)


def test_emphysema_lies_in_patches_and_mostly_in_the_upper_lungs(phantom: ThoraxPhantom) -> None:
    pieces, count = ndimage.label(phantom.emphysema)
    sizes_mm3 = np.bincount(pieces.ravel())[1:] * 4.9
    assert count > 100
    assert np.median(sizes_mm3[sizes_mm3 > 50]) < 2000
    assert np.sum(sizes_mm3[sizes_mm3 > 50]) > 0.9 * sizes_mm3.sum()
    z = positions_mm(phantom, phantom.emphysema)[:, 2]
    lung_z = positions_mm(phantom, phantom.labels > 0)[:, 2]
    assert np.median(z) > np.median(lung_z) + 15


def test_noise_has_the_chosen_deviation(phantom: ThoraxPhantom) -> None:
    liver = phantom.hu[15:25, 110:130, 70:85].astype(float)
    assert liver.std() == pytest.approx(20, rel=0.05)
    assert liver.mean() == pytest.approx(60, abs=2)


def test_same_parameters_give_the_same_voxels_and_another_seed_does_not() -> None:
    def make(seed: int) -> ThoraxPhantom:
        return thorax_phantom(size=(64, 64, 32), spacing_mm=(5.6, 5.6, 9.0), seed=seed)

    first, again, other = make(7), make(7), make(8)
    assert np.array_equal(first.hu, again.hu)
    assert first.digest == again.digest
    assert not np.array_equal(first.emphysema, other.emphysema)
    assert first.digest != other.digest


def test_moved_field_of_view_cuts_the_lungs_off() -> None:
    bases = thorax_phantom(size=(64, 64, 20), spacing_mm=(5.6, 5.6, 5.0), centre_mm=(0, 0, -90))
    assert bases.labels[-1].any()
    assert not bases.labels[0].any()
    outside = thorax_phantom(size=(64, 64, 8), spacing_mm=(5.6, 5.6, 5.0), centre_mm=(0, 0, -190))
    assert outside.truth.both.volume_mL == 0
    assert np.isnan(outside.truth.both.mean_hu)


@pytest.mark.parametrize("orientation", ["LPS", "LPI", "RAS", "LIP"])
@pytest.mark.parametrize("oblique_deg", [0.0, 9.0])
def test_series_reads_back_to_the_same_voxels_and_geometry(
    tmp_path: Path, orientation: str, oblique_deg: float
) -> None:
    phantom = thorax_phantom(
        size=(48, 40, 12), spacing_mm=(7.5, 7.3, 9.1), orientation=orientation, oblique_deg=oblique_deg
    )
    paths = write_series(phantom, tmp_path / "series")
    hu, affine = read_back([pydicom.dcmread(path) for path in paths])
    assert np.array_equal(hu, phantom.hu)
    np.testing.assert_allclose(affine, phantom.affine, atol=1e-8)
    assert sorted(paths) != paths
    assert sorted(paths) == sorted((tmp_path / "series").iterdir())


def test_uids_are_unique_repeatable_and_new_for_another_seed() -> None:
    phantom = thorax_phantom(size=(16, 16, 8), spacing_mm=(22, 22, 38))
    first, again, other = as_datasets(phantom), as_datasets(phantom), as_datasets(phantom, uid_seed="b")
    second = as_datasets(phantom, series_number=2)

    def uids(datasets: list[Dataset], keyword: str) -> set[str]:
        return {str(each[keyword].value) for each in datasets}

    assert len(uids(first, "SOPInstanceUID")) == 8
    assert uids(first, "SOPInstanceUID") == uids(again, "SOPInstanceUID")
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert not uids(first, keyword) & uids(other, keyword)
    assert uids(first, "StudyInstanceUID") == uids(second, "StudyInstanceUID")
    assert not uids(first, "SeriesInstanceUID") & uids(second, "SeriesInstanceUID")
    assert not uids(first, "SOPInstanceUID") & uids(second, "SOPInstanceUID")
    changed = replace(phantom, digest=thorax_phantom(size=(16, 16, 8), spacing_mm=(22, 22, 37)).digest)
    assert not uids(first, "StudyInstanceUID") & uids(as_datasets(changed), "StudyInstanceUID")


@pytest.mark.parametrize("orientation", ["LPS", "RAI", "PIL"])
def test_dciodvfy_has_nothing_to_say(tmp_path: Path, orientation: str) -> None:
    dciodvfy = shutil.which("dciodvfy")
    if dciodvfy is None:
        if os.environ.get("ISOCENTER_REQUIRE_TEST_DATA") == "1":
            pytest.fail("dciodvfy is not installed (Debian package dicom3tools)")
        pytest.skip("dciodvfy is not installed (Debian package dicom3tools)")
    phantom = thorax_phantom(
        size=(32, 32, 4), spacing_mm=(11, 11, 60), orientation=orientation, oblique_deg=5
    )
    path = write_series(phantom, tmp_path)[2]
    answer = subprocess.run([dciodvfy, "-new", str(path)], capture_output=True, text=True, check=False)
    assert (answer.stdout + answer.stderr).split() == ["CTImage"]  # what it is, and no word more
    assert answer.returncode == 0


@pytest.mark.parametrize(("make", "body_part"), [(head_phantom, "HEAD"), (abdomen_phantom, "ABDOMEN")])
def test_head_and_abdomen_hold_gas_in_a_body(
    tmp_path: Path, make: Callable[[], Phantom], body_part: str
) -> None:
    other = make()
    outside, _ = ndimage.label(other.hu < -500)
    gas = (outside > 0) & (outside != outside[0, 0, 0])
    gas_ml = np.count_nonzero(gas) * abs(np.linalg.det(other.affine[:3, :3])) / 1000
    assert 20 < gas_ml < 1500
    paths = write_series(other, tmp_path)
    hu, _ = read_back([pydicom.dcmread(path) for path in paths])
    assert np.array_equal(hu, other.hu)
    assert pydicom.dcmread(paths[0]).BodyPartExamined == body_part


@pytest.mark.parametrize("orientation", ["LLS", "LP", "XPS", "", "LPSA"])
def test_wrong_orientation_is_named(orientation: str) -> None:
    with pytest.raises(GeometryError, match="orientation"):
        thorax_phantom(size=(8, 8, 8), orientation=orientation)


@pytest.mark.parametrize(
    "wrong",
    [{"emphysema_fraction": 1.1}, {"noise_hu": -1.0}, {"nodule_diameter_mm": 60.0}, {"stature": 2.0}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_wrong_parameter_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        thorax_phantom(size=(8, 8, 8), **wrong)  # type: ignore[arg-type]
