"""Both lungs as they should be seen: what the viewer draws, judged by its pixels against the true labels."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from reader import Viewport, coloured

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Segment

RIGHT, LEFT = 1, 2
LUNGS = (
    Segment(RIGHT, "Right lung", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (92, 156, 219), codes.RIGHT),
    Segment(LEFT, "Left lung", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (236, 167, 84), codes.LEFT),
)


def assert_lungs_are_where_they_belong(seen: Viewport, labels: NDArray[np.uint8]) -> None:
    """Each lung in its own colour, covering the pixels of its segment, and only those.

    labels: (Y, X), of the slice that is shown.
    """
    labels = fitted(labels, seen.pixels.shape[:2])
    right, left = (labels == RIGHT, labels == LEFT)
    assert min(right.mean(), left.mean()) > 0.02, "the slice that is shown has no two lungs to speak of"
    # As radiologists hang it: the patient's right is on the left of the screen.
    assert np.argwhere(right)[:, 1].mean() < np.argwhere(left)[:, 1].mean()
    for segment, own, other in ((LUNGS[0], right, left), (LUNGS[1], left, right)):
        found = in_hue_of(segment.display_rgb, seen.pixels)
        assert dice(found, own) > 0.93, segment.label
        assert (found & other).sum() < 0.01 * other.sum(), segment.label


def assert_is_the_picture(seen: Viewport, pictures: Sequence[Dataset]) -> None:
    """The first of a job's pictures, and not its mirror image."""
    first = next(each for each in pictures if each.InstanceNumber == 1)
    expected = fitted(first.pixel_array, seen.pixels.shape[:2]).astype(np.int16)
    difference = np.abs(expected - seen.pixels).mean()
    mirrored = np.abs(expected[:, ::-1] - seen.pixels).mean()
    assert difference < 8  # grey levels; interpolation and the text over the corners remain
    assert mirrored > 3 * difference


def fitted(image: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    """`image`, of square pixels, as a viewport of (rows, columns) shows it: whole, centred, on black."""
    rows, columns = shape
    scale = min(rows / image.shape[0], columns / image.shape[1])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    method = Image.Resampling.NEAREST if image.ndim == 2 else Image.Resampling.BILINEAR
    shown = Image.new("L" if image.ndim == 2 else "RGB", (columns, rows))
    shown.paste(
        Image.fromarray(image).resize(size, method), ((columns - size[0]) // 2, (rows - size[1]) // 2)
    )
    return np.asarray(shown)


def in_hue_of(rgb: tuple[int, int, int], pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where the picture has the hue of `rgb`, within 30 degrees."""
    hues = np.asarray(Image.fromarray(pixels).convert("HSV"))[..., 0] / 255
    distance = np.abs(hues - colorsys.rgb_to_hsv(*(channel / 255 for channel in rgb))[0])
    near: NDArray[np.bool_] = np.minimum(distance, 1 - distance) < 30 / 360
    return coloured(pixels) & near


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())
