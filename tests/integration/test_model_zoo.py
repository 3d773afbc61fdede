"""Every bundle of the Model Zoo that is at hand, from its import to its results, by the commands that a user types.

The bundles are unmodified, their weights drawn by chance. What the SEG says is what `monai.bundle` by itself saves for
the same voxels. The short-axis bundle is in `test_models`. The large ones are slow: `make zoo`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import isocenter, site
from numpy.typing import NDArray
from pydicom import dcmread
from zoo import as_the_author_runs_it, with_weights

from isocenter_operators.dicom.catalogue import segments_of
from isocenter_operators.dicom.results.seg_reader import read_segmentation
from isocenter_operators.dicom.rules.validate import dciodvfy, problems
from isocenter_operators.dicom.series.geometry import Volume, volume_of
from isocenter_operators.testing import abdomen_phantom, write_series

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.integration


def lower_abdomen(folder: Path, test_data: Path) -> Path:
    """The middle of the eight lowest slices of a real CT: 9 windows, where the whole of all 41 would be 50."""
    images = [dcmread(file) for file in (test_data / "ct-abdomen-41" / "image").iterdir()]
    folder.mkdir()
    for number, image in enumerate(sorted(images, key=lambda each: float(each.ImagePositionPatient[2]))[:8]):
        beside, size = image.Rows // 4, image.Rows // 2  # of slices that are square, and axial
        image.PixelData = image.pixel_array[beside:-beside, beside:-beside].tobytes()
        image.Rows = image.Columns = size
        along = [beside * float(spacing) for spacing in image.PixelSpacing]
        x, y, z = image.ImagePositionPatient
        image.ImagePositionPatient = [float(x) + along[1], float(y) + along[0], z]
        image.save_as(folder / f"{number}.dcm")
    return folder


def small_phantom(folder: Path, test_data: Path) -> Path:
    """A part of the abdomen in one window of 96 voxels in each direction, whatever the bundle's grid."""
    write_series(abdomen_phantom(size=(48, 40, 24), spacing_mm=(2.9, 2.9, 5.5)), folder)
    return folder


def labels_of(file: Path, volume: Volume, named: dict[str, str]) -> NDArray[np.uint8]:
    """The SEG's labels (Z, Y, X) on the volume's grid, by the numbers that the bundle has for them."""
    segments, _ = segments_of({int(number): name for number, name in named.items()})
    numbers = {segment.label: segment.number for segment in segments}
    seg = read_segmentation(dcmread(file))
    shift = np.linalg.solve(volume.affine, seg.grid.affine[:, 3])
    first = round(float(shift[2]))
    labels = np.zeros(volume.voxels.shape, np.uint8)
    for segment in seg.segments:
        mask = seg.mask(segment.number)
        labels[first : first + len(mask)][mask] = numbers[segment.label]
    return labels


@pytest.mark.parametrize(
    ("name", "series", "segments"),
    [
        ("spleen_ct_segmentation", lower_abdomen, 1),
        pytest.param("wholeBody_ct_segmentation", small_phantom, 104, marks=pytest.mark.slow),
        pytest.param("swin_unetr_btcv_segmentation", small_phantom, 13, marks=pytest.mark.slow),
    ],
)
def test_a_bundle_of_the_zoo_gives_what_its_author_gets(
    name: str, series: Any, segments: int, tmp_path: Path, test_data: Path
) -> None:
    place = site(tmp_path)
    bundle = with_weights(name, tmp_path / "zoo")
    images = series(tmp_path / "images", test_data)
    imported = isocenter(place, "models", "import", bundle, "--name", name.lower())
    assert imported["code"] == []
    assert len(imported["description"]["labels"]) == segments
    done = isocenter(place, "run", name.lower(), images, "--out", place / "results")
    assert done["status"] == "done", done["reason"]
    files = {dcmread(file).Modality: file for file in (place / "results").glob("*.dcm")}
    assert {"SEG", "SR"} <= set(files)
    for file in files.values():
        assert [each for each in (*problems(file), *(dciodvfy(file) or ())) if each.severity == "error"] == []
    volume = volume_of([dcmread(file) for file in images.iterdir()])
    theirs = as_the_author_runs_it(bundle, volume.voxels, volume.affine, tmp_path / "author")
    ours = labels_of(files["SEG"], volume, imported["description"]["labels"])
    assert len(np.unique(theirs)) > 1  # or any two answers would agree
    assert (ours == theirs).mean() >= 0.999
