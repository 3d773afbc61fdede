"""There and back: an asymmetric phantom through every result that has places, in all 48 orders and directions of the
axes, oblique, tilted, classic and enhanced; read back by other people's programs, voxel by voxel against the truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.pixels import pixel_array
from read_back import Placed, dcmqi, on_grid, read_nrrd, read_seg, read_series
from result_cases import ALGORITHM, SEGMENTS, identity_of, written

from isocenter_operators.dicom.results.derived_series import derived_series
from isocenter_operators.dicom.results.parametric_map import PROBABILITY, parametric_map
from isocenter_operators.dicom.results.profile import SegmentationKind
from isocenter_operators.dicom.results.seg import fractional_segmentation, segmentation
from isocenter_operators.dicom.results.seg_reader import read_segmentation
from isocenter_operators.dicom.series.geometry import Volume, volume_of
from isocenter_operators.testing import ThoraxPhantom, as_datasets, as_enhanced, thorax_phantom

AXES = [
    "".join(letters[axis] for letters, axis in zip(signs, order, strict=True))
    for order in permutations(range(3))
    for signs in product(("LPS", "RAI"), repeat=3)
]
SHUFFLED = [4, 2, 0, 8, 6, 1, 9, 7, 3, 5]


@dataclass(frozen=True)
class Case:
    """The truth on the phantom's own grid, and the volume that was read of its images."""

    phantom: ThoraxPhantom
    volume: Volume
    labels: NDArray[np.uint8]  # (Z, Y, X), on the volume's grid

    @property
    def made_by(self) -> dict[str, Any]:
        return {
            "frames": self.volume.frames,
            "algorithm": ALGORITHM,
            "identity": identity_of(self.volume),
        }


def case_of(name: str) -> Case:
    kind, _, parameter = name.partition(" ")
    phantom = small(
        orientation=kind if kind in AXES else "LPS", oblique_deg=20.0 if kind == "oblique" else 0.0
    )
    if kind == "tilted":
        affine = phantom.affine.copy()
        affine[1, 2] += float(parameter.split()[0])
        phantom = replace(phantom, affine=affine)
    images = as_enhanced(phantom, instances=2, order=SHUFFLED) if "enhanced" in name else as_datasets(phantom)
    volume = volume_of(images)
    reversed_ = float(phantom.affine[:3, 2] @ volume.affine[:3, 2]) < 0
    labels = np.ascontiguousarray(phantom.labels[::-1] if reversed_ else phantom.labels)
    return Case(phantom, volume, labels)


def small(**parameters: Any) -> ThoraxPhantom:
    # Another spacing along each axis, whichever way it runs, and lungs that no flip or turn takes into themselves.
    return thorax_phantom(size=(40, 32, 10), spacing_mm=(9.0, 10.5, 12.0), noise_hu=0.0, **parameters)


@pytest.mark.parametrize("name", [*AXES, "oblique", "enhanced", "oblique enhanced"])
def test_every_voxel_comes_back_to_its_place(name: str, tmp_path: Path) -> None:
    case = case_of(name)
    assert np.unique(case.labels).tolist() == [0, 1, 2]
    assert_labels_come_back("BINARY", case, tmp_path / "binary")
    if name not in AXES or name in AXES[::5]:  # the same frames in another coding: some of each order
        assert_labels_come_back("LABELMAP", case, tmp_path / "label map")
        assert_fractions_come_back(case, tmp_path / "fractional")
    assert_map_comes_back(case, tmp_path / "map")
    assert_series_comes_back(case, tmp_path / "series")


@pytest.mark.parametrize("name", ["tilted 4", "tilted -6", "tilted 4 enhanced"])
def test_every_frame_of_a_tilted_gantry_comes_back_to_its_slice(name: str) -> None:
    """ITK's images, which dcmqi writes, have no shear: here each frame is looked at where it says that it lies."""
    case = case_of(name)
    made_by = {**case.made_by, "segments": SEGMENTS}
    steps = graded(case.labels, case.volume.voxels)
    values = ((case.volume.voxels + 1024.0) / 4095).astype(np.float32)
    for result, truth in (
        (segmentation(labels=case.labels, **made_by), [case.phantom.labels == n for n in (1, 2)]),
        (segmentation(labels=case.labels, kind="LABELMAP", **made_by), [case.phantom.labels]),
        (fractional_segmentation(fractions=steps, **made_by), graded(case.phantom.labels, case.phantom.hu)),
        (
            parametric_map(values=values, quantity=PROBABILITY, **case.made_by),
            [((case.phantom.hu + 1024.0) / 4095).astype(np.float32)],
        ),
    ):
        seen = 0
        for index, group in enumerate(result.PerFrameFunctionalGroupsSequence):
            position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
            x, y, z = np.linalg.solve(case.phantom.affine[:3, :3], position - case.phantom.affine[:3, 3])
            assert (x, y, z) == pytest.approx((0, 0, round(z)), abs=1e-3)
            segment = group.get("SegmentIdentificationSequence")
            number = int(segment[0].ReferencedSegmentNumber) - 1 if segment else 0
            np.testing.assert_array_equal(pixel_array(result, index=index), truth[number][round(z)])
            seen += 1
        assert seen == sum(part.any() for whole in truth for part in whole)


def assert_labels_come_back(kind: SegmentationKind, case: Case, folder: Path) -> None:
    folder.mkdir()
    seg = segmentation(labels=case.labels, kind=kind, segments=SEGMENTS, **case.made_by)
    placed = read_seg(written(seg, folder, "seg"), folder)
    np.testing.assert_array_equal(on_the_phantom(placed, case), case.phantom.labels, kind)
    stored = read_segmentation(seg)
    ours = stored.label_map().astype(np.int16), stored.grid.affine
    np.testing.assert_array_equal(on_the_phantom(ours, case), case.phantom.labels, kind)


def assert_fractions_come_back(case: Case, folder: Path) -> None:
    folder.mkdir()
    steps = graded(case.labels, case.volume.voxels)
    seg = fractional_segmentation(fractions=steps, segments=SEGMENTS, **case.made_by)
    path = written(seg, folder, "seg")
    dcmqi("segimage2itkimage", "--inputDICOM", str(path), "--outputDirectory", str(folder), "-t", "nrrd")
    stored = read_segmentation(seg)
    for number, truth in enumerate(graded(case.phantom.labels, case.phantom.hu), 1):
        theirs = read_nrrd(folder / f"{number}.nrrd")
        np.testing.assert_array_equal(on_the_phantom(theirs, case), truth)
        ours = np.rint(stored.mask(number) * 255).astype(np.int16), stored.grid.affine
        np.testing.assert_array_equal(on_the_phantom(ours, case), truth)


def graded(labels: NDArray[np.uint8], hu: NDArray[Any]) -> NDArray[np.uint8]:
    """Of each segment 1 to 255 where it is, by the voxel's value, else 0: uint8 (2, Z, Y, X)."""
    steps = np.clip((hu.astype(int) + 1024) // 5, 1, 255)
    return np.stack([np.where(labels == number, steps, 0) for number in (1, 2)]).astype(np.uint8)


def on_the_phantom(placed: Placed, case: Case) -> NDArray[np.int16]:
    return on_grid(placed, case.phantom.labels.shape, case.phantom.affine)


def assert_map_comes_back(case: Case, folder: Path) -> None:
    folder.mkdir()
    values = ((case.volume.voxels + 1024.0) / 4095).astype(np.float32)
    path = written(parametric_map(values=values, quantity=PROBABILITY, **case.made_by), folder, "map")
    dcmqi("paramap2itkimage", "--inputDICOM", str(path), "--outputDirectory", str(folder), "-t", "nrrd")
    read, affine = read_nrrd(next(folder.glob("*.nrrd")))
    truth = ((case.phantom.hu + 1024.0) / 4095).astype(np.float32)
    for index in np.argwhere(case.phantom.labels > 0)[::7]:
        point = case.phantom.affine @ (*index[::-1], 1)
        there = np.rint(np.linalg.solve(affine, point)[:3]).astype(int)
        assert read[tuple(there[::-1])] == truth[tuple(index)]


def assert_series_comes_back(case: Case, folder: Path) -> None:
    """Values that no other voxel near has, all above 0: `on_grid` moves those only."""
    folder.mkdir()
    series = derived_series(voxels=case.volume.voxels + 2000, what="Shifted", modality="CT", **case.made_by)
    for image in series:
        written(image, folder, image.SOPInstanceUID)
    read, affine = read_series(folder)
    np.testing.assert_array_equal(
        on_the_phantom((read.astype(np.int16), affine), case), case.phantom.hu + 2000
    )
