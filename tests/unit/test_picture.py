"""Result pictures: true proportions, the right way round for any acquisition, and no patient in them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from result_cases import LEFT, RIGHT, findings_of, phantom_case, pictures_of

from isocenter_operators.dicom.findings import Findings
from isocenter_operators.dicom.results.drawing import SIZE
from isocenter_operators.dicom.results.plane import Sampling, Section, largest_sections
from isocenter_operators.dicom.series.geometry import Volume
from isocenter_operators.errors import InvalidResult

AXIAL = {"size": (96, 80, 24), "spacing_mm": (3.8, 3.8, 12.0)}
CORONAL = {"size": (96, 90, 32), "spacing_mm": (3.8, 3.4, 9.5)}
SAGITTAL = {"size": (80, 90, 38), "spacing_mm": (3.8, 3.4, 9.6)}
ACQUISITIONS = [
    ("LPS", AXIAL),
    ("RAS", AXIAL),
    ("LPI", AXIAL),
    ("RAI", AXIAL),
    ("LIP", CORONAL),
    ("RSA", CORONAL),
    ("PIL", SAGITTAL),
    ("ASR", SAGITTAL),
]


def coloured(picture: Dataset, rgb: tuple[int, int, int]) -> NDArray[np.intp]:
    """(rows, columns) of the pixels of a segment's outline, above the table."""
    near = np.abs(picture.pixel_array.astype(int) - rgb).sum(axis=2) < 40
    near[-300:] = False
    return np.argwhere(near)


def made(orientation: str, geometry: dict[str, object]) -> tuple[Volume, NDArray[np.uint8], list[Dataset]]:
    volume, labels = phantom_case(orientation=orientation, **geometry)
    return volume, labels, list(pictures_of(volume, labels, findings_of(volume, labels)))


@pytest.mark.parametrize(("orientation", "geometry"), ACQUISITIONS)
def test_right_is_left_and_head_is_up_for_every_acquisition(
    orientation: str, geometry: dict[str, object]
) -> None:
    _, _, (coronal, axial) = made(orientation, geometry)
    for picture in (coronal, axial):
        right, left = coloured(picture, RIGHT.display_rgb), coloured(picture, LEFT.display_rgb)
        assert min(len(right), len(left)) > 200, "both lungs must be outlined"
        assert right[:, 1].mean() < SIZE / 2 < left[:, 1].mean()
    # The lungs taper towards the head: the upper quarter of the coronal outline is narrower than the middle.
    outline = np.vstack([coloured(coronal, RIGHT.display_rgb), coloured(coronal, LEFT.display_rgb)])
    top, bottom = outline[:, 0].min(), outline[:, 0].max()
    widths = [
        np.ptp(outline[np.abs(outline[:, 0] - (top + share * (bottom - top))) < 6, 1])
        for share in (0.06, 0.6)
    ]
    assert widths[0] < 0.75 * widths[1]
    assert list(coronal.PatientOrientation) == ["L", "F"]
    assert list(axial.PatientOrientation) == ["L", "P"]


@pytest.mark.parametrize(("orientation", "geometry"), [ACQUISITIONS[0], ACQUISITIONS[4], ACQUISITIONS[6]])
def test_proportions_are_millimetres(orientation: str, geometry: dict[str, object]) -> None:
    volume, labels, (coronal, axial) = made(orientation, geometry)
    points = np.argwhere(labels > 0)[:, ::-1] @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    width, depth, height = np.ptp(points, axis=0)
    sections = largest_sections(labels, volume.affine, ("coronal", "axial"))
    for picture, section, across in zip((coronal, axial), sections, (height, depth), strict=True):
        assert section.size_mm[0] <= width + 2 * 40 + max(volume.spacing_mm) + 1
        assert section.size_mm[1] <= across + 2 * 40 + max(volume.spacing_mm) + 1
        outline = np.vstack([coloured(picture, segment.display_rgb) for segment in (RIGHT, LEFT)])
        down_px, right_px = np.ptp(outline, axis=0)
        shown = _extent_in(section, labels, volume)
        assert down_px / right_px == pytest.approx(shown[0] / shown[1], rel=0.05)


def _extent_in(section: Section, labels: NDArray[np.uint8], volume: Volume) -> tuple[float, float]:
    """Height and width in mm of what is labelled in the section, sampled at 1 mm by nearest voxel."""
    width, height = (round(length) for length in section.size_mm)
    points = section.points(width, height)
    index = np.rint((points - volume.affine[:3, 3]) @ np.linalg.inv(volume.affine[:3, :3]).T).astype(int)
    x, y, z = (np.clip(index[..., i], 0, labels.shape[2 - i] - 1) for i in range(3))
    inside = np.argwhere(labels[z, y, x] > 0)
    down, right = np.ptp(inside, axis=0)
    return float(down), float(right)


def test_sampling_is_linear_and_knows_its_outside() -> None:
    z, y, x = np.mgrid[0:6, 0:7, 0:8]
    array = (100 * z + 10 * y + x).astype(np.int16)
    affine = np.array(
        [[0, 0, -3.0, 5], [2.0, 0, 0.4, 6], [0, -1.5, 0, 7], [0, 0, 0, 1]]
    )  # rotated, flipped, sheared
    index = np.array([[[1.25, 2.5, 3.75], [7, 6, 5], [0, 0, 0], [8.6, 3, 3]]])
    points = index @ affine[:3, :3].T + affine[:3, 3]
    values = Sampling(affine, array.shape, points)(array, outside=-1)
    np.testing.assert_allclose(values, [[375 + 25 + 1.25, 567, 0, -1]], atol=1e-3)


def test_shows_the_slice_with_the_largest_area() -> None:
    volume, labels = phantom_case()
    areas = (labels > 0).sum(axis=(1, 2))
    (axial,) = largest_sections(labels, volume.affine, ("axial",))
    assert axial.origin_mm[2] == pytest.approx(
        volume.affine[2, 3] + volume.affine[2, 2] * int(areas.argmax())
    )


def test_the_picture_names_no_patient() -> None:
    volume, labels = phantom_case()
    findings = findings_of(volume, labels)
    first = pictures_of(volume, labels, findings)
    for source in volume.sources:
        source.PatientName, source.PatientID = "Doe^Jane", "12345"
    second = pictures_of(volume, labels, findings)
    for before, after in zip(first, second, strict=True):
        assert before.PixelData == after.PixelData
        assert (after.BurnedInAnnotation, str(after.PatientName)) == ("NO", "Doe^Jane")
    assert {str(p.SeriesInstanceUID) for p in second} == {str(first[0].SeriesInstanceUID)}


def test_numbers_and_notes_change_the_picture() -> None:
    volume, labels = phantom_case()
    findings = findings_of(volume, labels)
    group = findings.groups[0]
    other = dataclasses.replace(group.measurements[0], value=group.measurements[0].value + 100)
    changed = dataclasses.replace(group, measurements=(other, *group.measurements[1:]))
    base, numbers, notes = (
        pictures_of(volume, labels, found)[0].pixel_array
        for found in (
            findings,
            Findings((changed, *findings.groups[1:])),
            dataclasses.replace(findings, notes=("cut off " * 60,)),
        )
    )
    rows = np.unique(np.argwhere((base != numbers).any(axis=2))[:, 0])
    assert len(rows) > 0
    assert np.ptp(rows) < 44, "one number differs: one row of the table"
    assert (base != notes).any()
    assert base.shape == notes.shape == (SIZE, SIZE, 3)


def test_refuses_an_empty_label_map() -> None:
    volume, labels = phantom_case()
    with pytest.raises(InvalidResult, match="empty"):
        pictures_of(volume, np.zeros_like(labels), findings_of(volume, labels))


def test_of_many_regions_the_first_are_listed_and_the_image_keeps_its_room() -> None:
    volume, labels, (_, axial) = made(*ACQUISITIONS[0])
    few = findings_of(volume, labels)
    many = Findings(tuple(dataclasses.replace(few.groups[n % 2], label=f"Part {n}") for n in range(104)))
    _, crowded = pictures_of(volume, labels, many)
    assert min(len(coloured(crowded, segment.display_rgb)) for segment in (RIGHT, LEFT)) > 60
    assert not np.array_equal(crowded.pixel_array, axial.pixel_array)
