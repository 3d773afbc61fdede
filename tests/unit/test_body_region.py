"""What a scan shows, told from its pixels: real scans, phantoms in any orientation, and what is no body."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from scipy import ndimage
from scipy.spatial import ConvexHull

from isocenter_operators.dicom.gate.body_region import BodyRegions, regions_in, structure_in
from isocenter_operators.dicom.gate.overview import overview_of
from isocenter_operators.dicom.gate.region_tag import regions_of_tag, tag_of
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.series.geometry import Volume, volume_of
from isocenter_operators.testing import abdomen_phantom, head_phantom, thorax_phantom

AXIAL = {"size": (150, 120, 100), "spacing_mm": (2.3, 2.3, 3.0)}
CORONAL = {"size": (150, 100, 120), "spacing_mm": (2.3, 3.0, 2.3)}
GRID = np.diag([2.0, 2.0, 3.0, 1.0])


def seen(voxels: NDArray[np.int16], affine: NDArray[np.float64]) -> BodyRegions:
    return regions_in(overview_of(voxels, affine))


@cache
def real(folder: Path) -> Volume:
    images = (dcmread(path) for path in folder.iterdir())
    return volume_of([image for image in images if "PixelData" in image])


def part(volume: Volume, z: slice = slice(None), xy: slice = slice(None)) -> BodyRegions:
    """What a cut-out of a volume shows."""
    affine = volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ (xy.start or 0, xy.start or 0, z.start or 0)
    return seen(volume.voxels[z, xy, xy], affine)


def test_a_real_chest_and_its_parts(test_data: Path) -> None:
    chest = real(test_data / "ct-chest-275" / "image")
    whole = part(chest)
    assert whole.regions == ("chest", "abdomen")
    assert whole.extent_mm["chest"] == pytest.approx(215, abs=10)  # from apex to costophrenic angle
    assert whole.extent_mm["abdomen"] < 70  # the upper liver
    assert part(chest, slice(60, 140)).regions == ("chest",)
    heart = part(chest, xy=slice(130, 390))  # 20 cm: the walls of the chest are cut off
    assert heart.regions == ("chest", "abdomen")
    assert heart.extent_mm["chest"] == pytest.approx(215, abs=15)
    # The lowest neck and the shoulders, with the tips of the lungs: as large as an abdomen, and none.
    assert part(chest, slice(225, None)).kind == "unknown"
    assert part(chest, slice(248, None)).kind == "unknown"


def test_a_real_abdomen_with_the_bases_of_the_lungs(test_data: Path) -> None:
    abdomen = real(test_data / "ct-abdomen-41" / "image")
    whole = part(abdomen)
    assert whole.regions == ("chest", "abdomen")
    assert whole.extent_mm["chest"] == pytest.approx(78, abs=8)
    assert whole.extent_mm["abdomen"] == pytest.approx(144, abs=8)
    assert part(abdomen, slice(0, 22)).regions == ("abdomen",)


@pytest.mark.parametrize("series", ["S2010", "S3010"])
def test_a_head_at_a_tilt_dry_and_filled(series: str, test_data: Path) -> None:
    head = real(test_data / "ct-head-phantom" / series)
    dry = part(head)
    assert dry.regions == ("head",)
    coarser = head.affine @ np.diag([2.0, 2.0, 1.0, 1.0])
    filled = seen(_filled(head.voxels[:, ::2, ::2]), coarser)
    assert filled.regions == ("head",)
    assert filled.extent_mm["head"] >= 120


def _filled(voxels: NDArray[np.int16]) -> NDArray[np.int16]:
    """The plastic skull with a brain in it, a scalp of fat on it and no holder around it, with noise."""
    filled = voxels.copy()
    for plane in filled:
        bone = ndimage.binary_closing(np.pad(plane > 0, 12), iterations=10)[12:-12, 12:-12]
        labels, count = ndimage.label(bone)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        sizes[0] = 0
        if sizes.max() < 200:
            plane[:] = -1000
            continue
        points = np.argwhere(labels == sizes.argmax())
        hull = ConvexHull(points).equations  # (sides, 3): inside where all are negative
        rows, columns = np.indices(plane.shape)
        distance = np.max([a * rows + b * columns + c for a, b, c in hull], axis=0)
        inner = np.where(plane < 0, 35, plane)
        plane[:] = np.where(distance > 6, -1000, np.where(distance > 0, -60, inner))
    noise = np.random.default_rng(0).normal(0, 20, filled.shape)
    return (filled + noise).astype(np.int16)


@pytest.mark.parametrize(
    ("orientation", "grid", "oblique_deg"),
    [
        ("LPS", AXIAL, 0.0),
        ("RAI", AXIAL, 0.0),
        ("LIP", CORONAL, 0.0),
        ("PIL", {"size": (120, 100, 150), "spacing_mm": (2.3, 3.0, 2.3)}, 0.0),
        ("LPS", AXIAL, 15.0),
    ],
)
def test_any_orientation_shows_the_same(
    orientation: str, grid: dict[str, object], oblique_deg: float
) -> None:
    phantom = thorax_phantom(orientation=orientation, oblique_deg=oblique_deg, **grid)  # type: ignore[arg-type]
    found = seen(phantom.hu, phantom.affine)
    heights_mm = phantom.affine[2, :3] @ np.argwhere(phantom.labels)[:, ::-1].T
    counts, _ = np.histogram(heights_mm, np.arange(heights_mm.min(), heights_mm.max(), 4))
    areas_cm2 = counts * np.linalg.det(phantom.affine[:3, :3]) / 4 / 100
    with_lung_mm = 4 * np.count_nonzero(np.abs(areas_cm2) > 20)  # 3 % of a section; the tips do not count
    assert found.extent_mm["chest"] == pytest.approx(with_lung_mm, abs=12)
    assert found.extent_mm["abdomen"] == pytest.approx(76, abs=12)
    assert "head" not in found.regions


def test_severe_emphysema_is_still_lung() -> None:
    phantom = thorax_phantom(emphysema_fraction=0.8, noise_hu=60, **AXIAL)  # type: ignore[arg-type]
    assert "chest" in seen(phantom.hu, phantom.affine).regions


def test_phantoms_of_other_parts() -> None:
    head, abdomen = head_phantom(), abdomen_phantom()
    assert seen(head.hu, head.affine).regions == ("head",)
    assert seen(abdomen.hu, abdomen.affine).regions == ("abdomen",)  # its bowel gas is as large as lung bases


def _water_box() -> NDArray[np.int16]:
    box = np.full((60, 150, 150), -1000, np.int16)
    box[10:50, 30:120, 30:120] = 0
    return box


def _noise(mean: float, sd: float) -> NDArray[np.int16]:
    return np.random.default_rng(0).normal(mean, sd, (60, 150, 150)).astype(np.int16)


@pytest.mark.parametrize(
    ("voxels", "why"),
    [
        (np.full((60, 150, 150), -1000, np.int16), "air"),
        (_noise(-1000, 20), "air"),
        (_noise(0, 500), "noise"),
        (_noise(40, 10), "noise"),
        (_water_box(), "without bone, fat or lung"),
        (_water_box() + _noise(0, 30), "without bone, fat or lung"),
    ],
)
def test_what_is_no_body(voxels: NDArray[np.int16], why: str) -> None:
    found = seen(voxels, GRID)
    assert (found.kind, found.regions) == ("not a body", ())
    assert why in found.reason


def test_what_can_not_be_told_is_not_guessed() -> None:
    """Two legs: bone and fat, but no spine, no lung, no skull."""
    rows, columns = np.indices((150, 150))
    legs = np.full((60, 150, 150), -1000, np.int16)
    for middle in (40, 110):
        distance = np.hypot(rows - 75, columns - middle)
        legs[:, distance < 33] = -100
        legs[:, distance < 28] = 55
        legs[:, distance < 7] = 900
    assert seen(legs, GRID).kind == "unknown"


def test_mr_is_told_from_noise_only(test_data: Path) -> None:
    t2 = real(test_data / "mr-abdomen" / "t2_image")
    assert structure_in(overview_of(t2.voxels, t2.affine)).kind == "unknown"
    assert structure_in(overview_of(np.abs(_noise(0, 100)), GRID)).kind == "not a body"


def test_the_tags_words() -> None:
    image = Dataset()
    image.SeriesInstanceUID = image.SOPInstanceUID = "2.25.1"
    assert tag_of(Frame(image)) == ""
    image.AnatomicRegionSequence = [Dataset()]
    image.AnatomicRegionSequence[0].CodeValue = "416775004"
    assert tag_of(Frame(image)) == "CHESTABDPELVIS"
    for written, term in (
        ("chest ", "CHEST"),
        ("NECKCHESTABDOMEN", "NECKCHESTABDOMEN"),
        ("Mueller^Eva", "no defined term"),
    ):
        image.BodyPartExamined = written
        assert tag_of(Frame(image)) == term
    assert regions_of_tag("CHESTABDPELVIS") == {"chest", "abdomen"}
    assert regions_of_tag("KNEE") == frozenset()
    assert regions_of_tag("no defined term") is None
