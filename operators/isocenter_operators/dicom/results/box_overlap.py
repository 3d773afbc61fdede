"""Two sets of boxes in the same images: which of the one are found in the other, and how far these agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.dicom.findings import Box

__all__ = ["SAME_BOX_IOU", "BoxOverlap", "box_overlaps"]

# What detection of nodules counts as found: the first threshold of MONAI's COCOMetric, and the one that nnDetection
# (Baumgartner et al., MICCAI 2021, doi:10.1007/978-3-030-87240-3_51) is measured with, since a roughly right place is
# what a reader needs, and in three dimensions lesions do not lie over one another.
SAME_BOX_IOU = 0.1


@dataclass(frozen=True)
class BoxOverlap:
    """The boxes of one kind. `ious`: intersection over union of each pair that is one finding, the largest first."""

    kind: str
    one_only: int
    other_only: int
    ious: tuple[float, ...]


def box_overlaps(
    one: Sequence[tuple[str, Box]], other: Sequence[tuple[str, Box]], *, at_least: float = SAME_BOX_IOU
) -> tuple[BoxOverlap, ...]:
    """Each kind that either of the two has: kinds of other names are never one finding.

    A pair is one finding from an IoU of `at_least` on, above 0. Pairs are made from the largest IoU on, and each box is
    in one at most. MONAI's `matching_batch` goes by the detections' scores instead, for whom the other side is the
    truth; here neither is, and the result is the same whichever comes first.
    """
    found = []
    for kind in dict.fromkeys(kind for kind, _ in (*one, *other)):
        first, second = ([box for each, box in boxes if each == kind] for boxes in (one, other))
        ious = _pairs(_ious(first, second), at_least)
        found.append(BoxOverlap(kind, len(first) - len(ious), len(second) - len(ious), ious))
    return tuple(found)


def _pairs(ious: NDArray[np.float64], at_least: float) -> tuple[float, ...]:
    """ious: (one, other)."""
    left, made = ious.copy(), []
    while left.size and left.max() >= at_least:
        row, column = np.unravel_index(left.argmax(), left.shape)
        made.append(float(left[row, column]))
        left[row, :] = left[:, column] = -1.0
    return tuple(made)


def _ious(one: Sequence[Box], other: Sequence[Box]) -> NDArray[np.float64]:
    """(one, other), 0 to 1."""
    (low, high), (other_low, other_high) = _corners(one), _corners(other)
    sides = np.minimum(high[:, None], other_high[None]) - np.maximum(low[:, None], other_low[None])
    shared = sides.clip(min=0).prod(axis=2)
    volumes = [(top - bottom).prod(axis=1) for bottom, top in ((low, high), (other_low, other_high))]
    both = volumes[0][:, None] + volumes[1][None] - shared
    return np.asarray(shared / both, np.float64)


def _corners(boxes: Sequence[Box]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the largest x, y and z: (N, 3) each, mm."""
    middles = np.array([box.centre_mm for box in boxes], np.float64).reshape(-1, 3)
    halves = np.array([box.size_mm for box in boxes], np.float64).reshape(-1, 3) / 2
    return middles - halves, middles + halves
