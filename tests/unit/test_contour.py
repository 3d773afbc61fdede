"""Outlines of label maps: whoever fills them, by whichever rule, gets the pixels back, and their area."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset
from scipy import ndimage

from isocenter_operators.dicom.results.contour import in_patient, outlines
from isocenter_operators.dicom.series.frame import Frame

Polygons = Sequence[NDArray[np.float64]]


def centres_inside(polygon: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The even-odd rule at the centres of the pixels, row by row, with the crossings of a ray to the left."""
    inside = np.zeros(shape, bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        for y in range(max(0, int(np.ceil(min(y0, y1)))), min(shape[0], int(np.ceil(max(y0, y1))))):
            inside[y] ^= np.arange(shape[1]) > x0 + (y - y0) * (x1 - x0) / (y1 - y0)
    return inside


def rounded_and_filled(polygon: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """As readers do that draw with whole pixels, edges included."""
    image = Image.new("1", shape[::-1])
    corners = [tuple(point) for point in np.rint(polygon).astype(int).tolist()]
    ImageDraw.Draw(image).polygon(corners, fill=1, outline=1)
    return np.array(image)


def area(polygon: NDArray[np.float64]) -> float:
    x, y = polygon.T
    return float(x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2


def filled(
    polygons: Polygons,
    shape: tuple[int, int],
    fill: Callable[[NDArray[np.float64], tuple[int, int]], NDArray[np.bool_]],
) -> NDArray[np.bool_]:
    """All polygons; each pixel in at most one, so that uniting them and excluding one by another is the same."""
    layers = [fill(polygon, shape) for polygon in polygons]
    assert np.sum(layers, axis=0).max() <= 1
    return np.any(layers, axis=0)


def planes() -> list[NDArray[np.uint8]]:
    """Noise, blobs, and what outlines go wrong at: pixels that touch at corners, holes in a row, islands in holes."""
    random = np.random.default_rng(4)
    made = [random.integers(0, 4, (23, 31)).astype(np.uint8) for _ in range(10)]
    for sigma in (0.5, 1, 2, 3):
        field = ndimage.gaussian_filter(random.normal(size=(40, 50)), sigma)
        made.append(np.digitize(field, np.quantile(field, (0.3, 0.6, 0.9))).astype(np.uint8))
    board = np.indices((8, 8)).sum(axis=0).astype(np.uint8) % 2
    rings = np.minimum.reduce(np.meshgrid(*[np.minimum(np.arange(15), np.arange(14, -1, -1))] * 2))
    holes = np.ones((7, 12), np.uint8)
    holes[2, 2::3] = holes[4, 1::2] = 0  # in one row: the cut of one must not end in the middle of another
    return [*made, board, 1 - board, (rings % 2).astype(np.uint8), 1 - (rings % 2).astype(np.uint8), holes]


def test_filling_the_outlines_gives_the_pixels_back_by_any_rule() -> None:
    for plane in planes():
        found = outlines(plane)
        assert list(found) == [value for value in np.unique(plane) if value]
        for value, polygons in found.items():
            wanted = plane == value
            for fill in (centres_inside, rounded_and_filled):
                np.testing.assert_array_equal(filled(polygons, plane.shape, fill), wanted)
            assert sum(map(area, polygons)) == pytest.approx(wanted.sum(), rel=0.01)


def test_outlines_have_corners_only_and_one_polygon_for_each_connected_part() -> None:
    for plane in planes():
        for value, polygons in outlines(plane).items():
            _, parts = ndimage.label(plane == value)
            assert len(polygons) == parts
            for polygon in polygons:
                steps = np.abs(np.roll(polygon, -1, axis=0) - polygon) > 0
                assert (steps.sum(axis=1) == 1).all()
    assert [len(polygon) for polygon in outlines(np.full((9, 5), 7, np.uint16))[7]] == [4]


def test_the_whole_plane_its_border_and_nothing() -> None:
    assert outlines(np.zeros((4, 5), np.uint8)) == {}
    corner = np.zeros((4, 5), np.uint16)
    corner[3, 4] = 40000
    (polygon,) = outlines(corner)[40000]
    np.testing.assert_allclose(polygon, [[3.5, 2.5], [4.5, 2.5], [4.5, 3.5], [3.5, 3.5]], atol=0.01)


def test_a_point_lies_in_the_patient_where_the_frame_says() -> None:
    instance = Dataset()
    instance.SeriesInstanceUID, instance.SOPInstanceUID = "2.25.1", "2.25.2"
    instance.ImagePositionPatient = [10, 20, 30]
    instance.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]  # rows run to the back, columns to the feet
    instance.PixelSpacing = [3, 2]  # between rows, between columns
    points = in_patient(np.array([[0.0, 0.0], [5.0, 7.5]]), Frame(instance))
    np.testing.assert_allclose(points, [[10, 20, 30], [10, 20 + 5 * 2, 30 - 7.5 * 3]])
