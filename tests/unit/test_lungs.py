"""What the model ct_lung_density computes, without Triton: against the phantom's truth, and on real scans."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from isocenter_operators.dicom.series.geometry import volume_of
from isocenter_operators.dicom.series.read import read_folder
from isocenter_operators.testing.phantom import ThoraxPhantom, abdomen_phantom, head_phantom, thorax_phantom

sys.path.insert(0, str(Path(__file__).parents[2] / "triton_models" / "ct_lung_density" / "1"))
from lung_density import Analysis, InvalidAffine, analyse

Volume = NDArray[np.int16]  # (Z, Y, X)
Affine = NDArray[np.float64]

SMALL = {"size": (150, 120, 100), "spacing_mm": (2.3, 2.3, 3.0)}
RIGHT, LEFT = 1, 2


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the model runs: with more, each pass waits for threads whose core another process has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@cache
def phantom(**parameters: Any) -> ThoraxPhantom:
    return thorax_phantom(**(SMALL | parameters))


def analysed(hu: Volume, affine: Affine, device: str = "cpu") -> Analysis:
    return analyse(torch.from_numpy(np.ascontiguousarray(hu)).to(device), affine)


def flipped(array: NDArray[Any], affine: Affine, axes: tuple[int, ...]) -> tuple[NDArray[Any], Affine]:
    """Turned round along axes of (Z, Y, X), with the affine that keeps every voxel where it is in the patient."""
    turned = affine.copy()
    for axis in axes:
        turned[:3, 3] += turned[:3, 2 - axis] * (array.shape[axis] - 1)
        turned[:3, 2 - axis] *= -1
    return np.flip(array, axes), turned


def cropped(thorax: ThoraxPhantom, axis: int, start: int, stop: int | None = None) -> tuple[Volume, Affine]:
    """The part of the phantom from `start` to `stop` along an axis of (Z, Y, X)."""
    affine = thorax.affine.copy()
    affine[:3, 3] += affine[:3, 2 - axis] * start
    return thorax.hu[(slice(None),) * axis + (slice(start, stop),)], affine


def extent(thorax: ThoraxPhantom, axis: int) -> tuple[int, int]:
    """First and last plane with lung."""
    planes = np.flatnonzero((thorax.labels > 0).any(axis=tuple(other for other in range(3) if other != axis)))
    return int(planes[0]), int(planes[-1])


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)))


def assert_accurate(analysis: Analysis, thorax: ThoraxPhantom, *, volume_percent: float = 1.0) -> None:
    assert analysis.applicable, analysis.reason
    labels = analysis.labels.numpy()
    for label, row, truth in zip(
        (RIGHT, LEFT), analysis.measurements, (thorax.truth.right, thorax.truth.left), strict=False
    ):
        volume_ml, mean_hu, laa_percent, p15_hu = row
        assert dice(labels == label, thorax.labels == label) > 0.98
        assert volume_ml == pytest.approx(truth.volume_mL, rel=volume_percent / 100)
        assert laa_percent == pytest.approx(truth.laa_950_percent, abs=0.5)
        assert mean_hu == pytest.approx(truth.mean_hu, abs=4)
        assert p15_hu == pytest.approx(truth.p15_hu, abs=2)


def assert_refused(analysis: Analysis, reason: str) -> None:
    assert not analysis.applicable
    assert reason in analysis.reason
    assert not analysis.labels.any()
    assert np.isnan(analysis.measurements).all()
    assert np.shape(analysis.measurements) == (3, 4)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"noise_hu": 40.0, "emphysema_fraction": 0.3},
        {"emphysema_fraction": 0.9},
        {"emphysema_fraction": 0.0, "noise_hu": 0.0},
        {"size": (256, 190, 60), "spacing_mm": (1.4, 1.4, 5.0)},
        {"size": (350, 260, 290), "spacing_mm": (1.0, 1.0, 1.0), "noise_hu": 40.0},
        {"size": (700, 520, 60), "spacing_mm": (0.49, 0.49, 5.0)},
        {"size": (256, 120, 76), "spacing_mm": (1.4, 2.5, 4.0), "orientation": "LIP"},
        {"size": (76, 256, 120), "spacing_mm": (4.0, 1.4, 2.5), "orientation": "ARS"},
        {"oblique_deg": 15.0},
    ],
    ids=str,
)
def test_the_phantoms_truth_is_found(parameters: dict[str, Any]) -> None:
    thorax = phantom(**parameters)
    assert_accurate(analysed(thorax.hu, thorax.affine), thorax)


@pytest.mark.parametrize(
    "axes", [tuple(a for a, on in enumerate(o) if on) for o in product((0, 1), repeat=3)]
)
def test_every_flip_gives_the_same_voxels_and_numbers(axes: tuple[int, ...]) -> None:
    thorax = phantom()
    straight = analysed(thorax.hu, thorax.affine)
    assert_accurate(straight, thorax)
    turned = analysed(*flipped(thorax.hu, thorax.affine, axes))
    assert np.array_equal(np.flip(turned.labels.numpy(), axes), straight.labels.numpy())
    assert turned.measurements == straight.measurements


@pytest.mark.parametrize("axes", [(0,), (1,), (2,)])
def test_a_flip_of_sides_that_no_block_divides_gives_the_same(axes: tuple[int, ...]) -> None:
    thorax = phantom(size=(345, 261, 81), spacing_mm=(1.0, 1.0, 3.5))
    straight = analysed(thorax.hu, thorax.affine)
    turned = analysed(*flipped(thorax.hu, thorax.affine, axes))
    assert np.array_equal(np.flip(turned.labels.numpy(), axes), straight.labels.numpy())


@pytest.mark.parametrize("order", [(0, 2, 1), (1, 0, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_every_order_of_axes_gives_the_same(order: tuple[int, int, int]) -> None:
    thorax = phantom()
    affine = thorax.affine.copy()
    affine[:3, 2::-1] = thorax.affine[:3, 2::-1][:, list(order)]
    turned = analysed(thorax.hu.transpose(order), affine)
    straight = analysed(thorax.hu, thorax.affine)
    assert np.array_equal(turned.labels.numpy(), straight.labels.numpy().transpose(order))
    assert turned.measurements == straight.measurements


def test_both_lungs_are_the_exact_sum_of_each() -> None:
    thorax = phantom()
    analysis = analysed(thorax.hu, thorax.affine)
    right, left, both = analysis.measurements
    values = thorax.hu[analysis.labels.numpy() > 0].astype(np.int64)
    assert both[0] == pytest.approx(right[0] + left[0], rel=1e-12)
    assert both[1] == pytest.approx(values.mean(), rel=1e-12)
    assert both[2] == pytest.approx(100 * np.mean(values < -950), rel=1e-12)
    assert np.mean(values <= both[3]) >= 0.15 > np.mean(values <= both[3] - 1)


def test_twice_is_the_same_whatever_the_threads() -> None:
    thorax = phantom()
    first = analysed(thorax.hu, thorax.affine)
    torch.set_num_threads(3)
    second = analysed(thorax.hu, thorax.affine)
    assert torch.equal(first.labels, second.labels)
    assert first.measurements == second.measurements


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device here")
def test_a_gpu_gives_the_same_as_the_cpu() -> None:
    thorax = phantom(size=(350, 260, 290), spacing_mm=(1.0, 1.0, 1.0))
    cpu = analysed(thorax.hu, thorax.affine)
    gpu = analysed(thorax.hu, thorax.affine, "cuda")
    assert torch.equal(cpu.labels, gpu.labels.cpu())
    assert cpu.measurements == gpu.measurements


def test_airways_are_out_and_nodules_and_vessels_in() -> None:
    thorax = phantom(size=(256, 190, 120), spacing_mm=(1.4, 1.4, 2.5))
    labels = analysed(thorax.hu, thorax.affine).labels.numpy()
    trachea = thorax.airways.copy()
    trachea[: int(extent(thorax, 0)[1] * 0.75)] = False
    assert not labels[trachea].any()
    assert np.count_nonzero(labels[thorax.airways]) < 0.2 * np.count_nonzero(thorax.airways)
    assert np.mean(labels[thorax.nodule] == RIGHT) > 0.95
    vessels = (thorax.labels > 0) & (thorax.hu > -200) & ~thorax.nodule
    assert np.mean(labels[vessels] > 0) > 0.9


def test_lungs_that_touch_are_told_apart() -> None:
    thorax = phantom()
    hu, truth = thorax.hu.copy(), thorax.labels
    z = (extent(thorax, 0)[0] + extent(thorax, 0)[1]) // 2 + 8
    middle = hu.shape[2] // 2
    bridge = (slice(z, z + 10), slice(30, 44), slice(middle - 12, middle + 12))
    hu[bridge] = np.minimum(hu[bridge], -850)
    analysis = analysed(hu, thorax.affine)
    assert analysis.applicable, analysis.reason
    labels = analysis.labels.numpy()
    assert dice(labels == RIGHT, truth == RIGHT) > 0.98
    assert dice(labels == LEFT, truth == LEFT) > 0.98


@pytest.mark.parametrize("end", ["upper", "lower"])
def test_a_little_cut_off_is_measured_with_a_note(end: str) -> None:
    thorax = phantom()
    first, last = extent(thorax, 0)
    window = (0, last - 2) if end == "upper" else (first + 6, None)
    analysis = analysed(*cropped(thorax, 0, *window))
    assert analysis.applicable, analysis.reason
    assert analysis.notes == (f"cut off at the {end} end of the scan",)
    assert analysed(thorax.hu, thorax.affine).notes == ()


def test_half_a_lung_is_refused() -> None:
    thorax = phantom()
    first, last = extent(thorax, 0)
    assert_refused(analysed(*cropped(thorax, 0, 0, last - 15)), "cut off at the top")
    assert_refused(analysed(*cropped(thorax, 0, first + 25)), "cut off at the bottom")
    hu, affine = flipped(*cropped(thorax, 0, 0, last - 15), (0,))
    assert_refused(analysed(hu, affine), "cut off at the top")


@pytest.mark.parametrize("axis", [1, 2])
def test_a_field_of_view_that_cuts_a_lung_is_refused(axis: int) -> None:
    thorax = phantom()
    analysis = analysed(*cropped(thorax, axis, extent(thorax, axis)[0] + 5))
    assert_refused(analysis, "field of view is too small")


def test_one_lung_alone_is_refused() -> None:
    thorax = phantom()
    hu = thorax.hu.copy()
    hu[thorax.labels == RIGHT] = 40
    assert_refused(analysed(hu, thorax.affine), "only the left lung was found")


def test_without_a_trachea_it_is_refused() -> None:
    thorax = phantom()
    hu = thorax.hu.copy()
    hu[thorax.airways] = 30
    assert_refused(analysed(hu, thorax.affine), "no trachea was found")


def test_padding_outside_the_scan_circle_changes_nothing() -> None:
    thorax = phantom(size=(150, 150, 100))
    hu = thorax.hu.copy()
    y, x = np.ogrid[:150, :150]
    hu[:, (y - 75) ** 2 + (x - 75) ** 2 > 74**2] = -3024
    assert_accurate(analysed(hu, thorax.affine), thorax)


def test_what_holds_no_lungs_is_refused() -> None:
    for other in (head_phantom(), abdomen_phantom()):
        assert_refused(analysed(other.hu, other.affine), "no lungs found in this series")
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    shape = (60, 160, 160)
    for value in (-1000, 0, 1000):
        assert_refused(analysed(np.full(shape, value, np.int16), affine), "no lungs found in this series")
    noise = np.random.default_rng(3).integers(-1024, 3000, shape).astype(np.int16)
    assert_refused(analysed(noise, affine), "no lungs found in this series")
    thorax = phantom()
    assert_refused(analysed(thorax.hu + np.int16(1024), thorax.affine), "no lungs found in this series")


def test_a_series_too_small_or_too_coarse_is_refused() -> None:
    thorax = phantom()
    assert_refused(analysed(thorax.hu[:2], thorax.affine), "no lungs fit into this series")
    assert_refused(analysed(thorax.hu[:, :20], thorax.affine), "no lungs fit into this series")
    assert_refused(analysed(thorax.hu, thorax.affine @ np.diag([1, 1, 8, 1])), "24.00 mm")
    assert_refused(analysed(thorax.hu[:1, :1, :1], thorax.affine), "no lungs fit into this series")


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.full((4, 4), np.nan), "no number"),
        (np.zeros((4, 4)), "no length"),
        (np.array([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "parallel"),
    ],
)
def test_an_affine_that_makes_no_volume_is_an_error(affine: Affine, message: str) -> None:
    with pytest.raises(InvalidAffine, match=message):
        analysed(np.zeros((20, 40, 40), np.int16), affine)


def test_a_real_chest(test_data: Path) -> None:
    """LIDC-IDRI-0314: a tumour with loss of volume in the right upper lobe, so the right lung is the smaller one."""
    volume = volume_of(read_folder(test_data / "ct-chest-275" / "image"))
    hu = volume.voxels
    analysis = analysed(hu, volume.affine)
    assert analysis.applicable, analysis.reason
    assert analysis.notes == ()
    right, left, both = analysis.measurements
    assert right == pytest.approx((927, -797, 1.2, -897), rel=0.02, abs=0.1)
    assert left == pytest.approx((1905, -807, 2.9, -901), rel=0.02, abs=0.1)
    assert both[0] == pytest.approx(right[0] + left[0])

    labels = analysis.labels.numpy()
    # x rises to the patient's left, and the spine lies at column 235.
    assert np.nonzero(labels == RIGHT)[2].mean() < 200
    assert np.nonzero(labels == LEFT)[2].mean() > 270
    for z, y, column in ((240, 260, 234), (200, 292, 230)):  # the trachea's lumen
        assert hu[z, y, column] < -950
        assert not labels[z, y - 12 : y + 12, column - 10 : column + 10].any()
    assert not labels[0].any()  # upper abdomen
    assert not labels[-20:].any()  # neck and shoulders
    for side in (RIGHT, LEFT):  # one connected body each, but for less than a hundredth
        parts = np.bincount(ndimage.label(labels == side)[0].ravel())[1:]
        assert parts.max() > 0.99 * parts.sum()


def test_a_real_abdomen_with_the_bases_of_the_lungs(test_data: Path) -> None:
    volume = volume_of(read_folder(test_data / "ct-abdomen-41" / "image"))
    assert_refused(analysed(volume.voxels, volume.affine), "the lungs are cut off at the top of the scan")


@pytest.mark.parametrize("series", ["S2010", "S3010"])
def test_a_real_head(test_data: Path, series: str) -> None:
    (folder,) = [path for path in (test_data / "ct-head-phantom").rglob(series) if path.is_dir()]
    volume = volume_of(read_folder(folder))
    assert_refused(analysed(volume.voxels, volume.affine), "no lungs found in this series")
