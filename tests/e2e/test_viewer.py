"""What a radiologist sees: OHIF on the gateway in a real browser, judged by its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
from lungs import LEFT, LUNGS, RIGHT, assert_is_the_picture, assert_lungs_are_where_they_belong
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from reader import ARTIFACTS, Viewport, coloured, reader
from scipy import ndimage

from isocenter.settings import OrthancSettings
from isocenter_operators.dicom.findings import Findings
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.picture import overlay_pictures
from isocenter_operators.dicom.results.seg import segmentation
from isocenter_operators.dicom.series.geometry import Volume, volume_of
from isocenter_operators.dicom.series.read import read_folder

pytestmark = pytest.mark.e2e


@dataclass(frozen=True)
class Study:
    """A chest CT with results, as it lies in the archive."""

    uid: str
    volume: Volume
    labels: NDArray[np.uint8]  # (Z, Y, X)
    pictures: tuple[Dataset, ...]


@pytest.fixture(scope="module")
def study(orthanc: OrthancSettings, test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    volume = volume_of(read_folder(test_data / "ct-chest-275" / "image"))
    labels = rough_lungs(volume)
    algorithm = Algorithm("rough lungs", "1")
    identity = JobIdentity.of(
        [str(each.SOPInstanceUID) for each in volume.sources], algorithm, datetime(2026, 1, 2, tzinfo=UTC)
    )
    seg = segmentation(
        labels=labels, frames=volume.frames, segments=LUNGS, algorithm=algorithm, identity=identity
    )
    pictures = overlay_pictures(
        volume=volume,
        labels=labels,
        segments=LUNGS,
        findings=Findings(groups=()),
        algorithm=algorithm,
        identity=identity,
    )
    file = tmp_path_factory.mktemp("study") / "instance.dcm"
    with httpx.Client(base_url=orthanc.rest_url) as archive:
        for instance in (*volume.sources, seg, *pictures):
            instance.save_as(file, enforce_file_format=True)
            archive.post("/instances", content=file.read_bytes()).raise_for_status()
    return Study(str(volume.sources[0].StudyInstanceUID), volume, labels, tuple(pictures))


def rough_lungs(volume: Volume) -> NDArray[np.uint8]:
    """Air inside the body, each piece of a slice on the side where it lies: rough, but right is right. (Z, Y, X)

    The series is axial, its rows run to the patient's left (LPS +x): the right lung has the lower columns.
    """
    assert np.allclose(volume.affine[:3, 0] / np.linalg.norm(volume.affine[:3, 0]), (1, 0, 0))
    parts, _ = ndimage.label(volume.voxels[:, ::2, ::2] < -500)
    outside = np.unique(np.concatenate([parts[:, 0].ravel(), parts[:, -1].ravel(), parts[:, :, 0].ravel()]))
    sizes = np.bincount(parts.ravel())
    sizes[outside] = 0
    in_slice = np.zeros((3, 3, 3), bool)
    in_slice[1] = ndimage.generate_binary_structure(2, 1)
    inside = ndimage.binary_fill_holes(np.isin(parts, np.flatnonzero(sizes > 0.1 * sizes.max())), in_slice)
    pieces, count = ndimage.label(inside, in_slice)
    columns = np.broadcast_to(np.arange(inside.shape[2]), inside.shape)
    means = ndimage.mean(columns, pieces, np.arange(1, count + 1))
    sides = np.concatenate([[0], np.where(means < columns[inside].mean(), RIGHT, LEFT)])
    labels: NDArray[np.uint8] = sides[pieces].astype(np.uint8).repeat(2, 1).repeat(2, 2)
    return labels


def test_the_study_opens_with_both_lungs_coloured_and_the_picture_beside(gateway: str, study: Study) -> None:
    with reader(gateway) as browser:
        browser.open(study.uid)
        images, picture = browser.wait_for(
            lambda seen: len(seen) == 2 and all(coloured(each.pixels).mean() > 0.01 for each in seen),
            "the segmentation and the picture",
        )
        browser.screenshot(ARTIFACTS / "ohif.png")

    assert browser.elsewhere == []
    assert browser.complaints == []
    assert_lungs_are_where_they_belong(images, study.labels[slice_shown(images, study)])
    assert_is_the_picture(picture, study.pictures)


def slice_shown(seen: Viewport, study: Study) -> int:
    """The index of the slice of the volume that the viewport shows."""
    (index,) = (
        index
        for index, source in enumerate(study.volume.sources)
        if int(source.InstanceNumber) == seen.instance_number
    )
    return index
