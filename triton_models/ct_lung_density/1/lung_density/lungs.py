"""The two lungs on the small grid: found, told apart, and filled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from .extent import refuse_cut_off
from .morphology import ball_close, components, cross_dilate, cross_erode, fill_holes
from .refusal import Refusal
from .trachea import LUNG_HU

__all__ = ["LEFT", "RIGHT", "aerated", "check_plausible", "find_lungs"]

RIGHT, LEFT = 1, 2
_PARENCHYMA_HU = (-960, -600)  # what gas in stomach and bowel, or outside, does not hold
_PARENCHYMA_SHARE = 0.15  # of a lung's inner voxels, at least; also in severe emphysema
_SMALLEST_ML = 250.0  # of one lung
_LARGEST_ML = 5500.0
_LARGEST_RATIO = 4.0  # of one lung to the other
_SMALLEST_PART_ML = 2.0  # of what belongs to a lung but is not connected to it
_BOTH_SIDES_SHARE = 0.2  # of one component on the other side of the trachea: two lungs that touch
_CLOSING_MM = 6.0  # vessels and nodules at the surface up to twice as thick are filled
_LARGEST_HOLE_MM2 = 350.0  # in one plane; a larger one may be the dome of the liver
_EROSIONS_MM = 16.0

_Mask = NDArray[np.bool_]
_Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class _Part:
    """A connected, air-filled part of the body."""

    label: int
    volume_ml: float
    box: tuple[slice, slice, slice]
    parenchyma_share: float

    @property
    def lung_like(self) -> bool:
        return self.parenchyma_share >= _PARENCHYMA_SHARE


def aerated(hu: Tensor, inside: Tensor, airways: Tensor) -> Tensor:
    """What in the body holds air and is no airway: torch.bool (S, P, L)."""
    return (hu < LUNG_HU) & inside & ~airways


def find_lungs(hu: Tensor, air: Tensor, trachea_l: int | None, spacing_mm: Sequence[float]) -> _Labels:
    """1 right, 2 left, with vessels and nodules filled: uint8 (S, P, L).

    trachea_l: where the trachea lies, as an index along L; None where none was found.
    Raises Refusal.
    """
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    parts, labels = _parts(hu, air, voxel_ml)
    lung_like = [part for part in parts if part.lung_like]
    if not lung_like or lung_like[0].volume_ml < _SMALLEST_ML:
        raise Refusal(_nothing_found(parts))
    refuse_cut_off(np.isin(labels, [part.label for part in lung_like if part.volume_ml >= _SMALLEST_ML]))
    if trachea_l is None:
        raise Refusal("no trachea was found above the lungs, so airways could not be told from lung")
    pair = _pair(labels, lung_like, trachea_l, spacing_mm)
    pair = _with_smaller_parts(pair, labels, lung_like[1:])
    return _filled(pair, spacing_mm)


def _nothing_found(parts: Sequence[_Part]) -> str:
    if not parts:
        return "no lungs found in this series (no air-filled space inside the body)"
    return (
        "no lungs found in this series (the largest air-filled space inside the body holds "
        f"{parts[0].volume_ml:.0f} mL{'' if parts[0].lung_like else ' of gas, not of lung'})"
    )


def _parts(hu: Tensor, air: Tensor, voxel_ml: float) -> tuple[list[_Part], NDArray[np.int32]]:
    """The connected parts of at least _SMALLEST_PART_ML, the largest first, and the array of their labels."""
    labels, count = components(air.cpu().numpy())
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    inner = cross_erode(air)
    low, high = _PARENCHYMA_HU
    textured = (inner & (hu > low) & (hu < high)).cpu().numpy()
    share = np.bincount(labels[textured], minlength=count + 1) / np.maximum(
        np.bincount(labels[inner.cpu().numpy()], minlength=count + 1), 1
    )
    boxes = ndimage.find_objects(labels)
    large = [int(i) for i in np.argsort(-sizes, kind="stable") if sizes[i] * voxel_ml >= _SMALLEST_PART_ML]
    return [_Part(i, float(sizes[i]) * voxel_ml, boxes[i - 1], float(share[i])) for i in large], labels


def _pair(
    labels: NDArray[np.int32], parts: Sequence[_Part], middle: int, spacing_mm: Sequence[float]
) -> _Labels:
    """Right and left lung, each one connected part: uint8 (S, P, L)."""
    first = parts[0]
    in_box = labels[first.box] == first.label
    on_right = np.count_nonzero(in_box[:, :, : max(0, middle - first.box[2].start)]) / np.count_nonzero(
        in_box
    )
    pair = np.zeros(labels.shape, np.uint8)
    if _BOTH_SIDES_SHARE < on_right < 1 - _BOTH_SIDES_SHARE:
        pair[first.box] = _separated(in_box, middle - first.box[2].start, spacing_mm)
        return pair
    side = RIGHT if on_right > 0.5 else LEFT
    pair[first.box][in_box] = side
    for second in parts[1:]:
        other = labels[second.box] == second.label
        centre = second.box[2].start + float(np.nonzero(other)[2].mean())
        if second.volume_ml >= _SMALLEST_ML and (centre < middle) != (side == RIGHT):
            pair[second.box][other] = RIGHT + LEFT - side
            return pair
    name, missing = ("right", "left") if side == RIGHT else ("left", "right")
    raise Refusal(
        f"only the {name} lung was found ({first.volume_ml:.0f} mL); no {missing} lung with air in it lies inside "
        "the image"
    )


def _separated(fused: _Mask, middle: int, spacing_mm: Sequence[float]) -> _Labels:
    """Two lungs that touch, cut where they hang together by least: eroded until they part, then grown back."""
    core = torch.from_numpy(np.pad(fused, 1))
    for _ in range(max(1, int(_EROSIONS_MM / min(spacing_mm)))):
        core = cross_erode(core)
        labels, _ = components(core.numpy())
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        two = np.argsort(-sizes, kind="stable")[:2]
        if len(two) < 2 or sizes[two[1]] < 0.2 * sizes[two[0]]:
            continue
        at = [float(np.nonzero(labels == label)[2].mean()) - 1 for label in two]
        if min(at) < middle < max(at):
            right, left = (labels == two[int(np.argmin(at))], labels == two[int(np.argmax(at))])
            grown = _grown_back(
                torch.from_numpy(right), torch.from_numpy(left), torch.from_numpy(np.pad(fused, 1))
            )
            return grown[1:-1, 1:-1, 1:-1]
    raise Refusal("the right and the left lung could not be told apart: they hang together over a large area")


def _grown_back(right: Tensor, left: Tensor, within: Tensor) -> _Labels:
    """Both grow at the same pace until they meet or `within` is full."""
    while True:
        free = within & ~right & ~left
        new_right = cross_dilate(right) & free
        new_left = cross_dilate(left) & free & ~new_right
        if not (new_right.any() or new_left.any()):
            return (right.byte() * RIGHT + left.byte() * LEFT).numpy()
        right, left = right | new_right, left | new_left


def _with_smaller_parts(pair: _Labels, labels: NDArray[np.int32], parts: Sequence[_Part]) -> _Labels:
    """Adds parts of a lung that disease has cut off from the rest.

    Bowel full of stool looks the same, so a part must lie between the lung's own surfaces on every side but
    below: not past them to the side, in front or behind, and above the lung's lowest third.
    """
    boxes = dict(zip((RIGHT, LEFT), ndimage.find_objects(pair, LEFT), strict=True))
    for part in parts:
        where = labels[part.box] == part.label
        if pair[part.box][where].any():
            continue
        for side, box in boxes.items():
            lowest = box[0].start + (box[0].stop - box[0].start) / 3
            within = all(
                mine.start >= its.start and mine.stop <= its.stop
                for mine, its in zip(part.box, box, strict=True)
            )
            if within and part.box[0].start > lowest:
                pair[part.box][where] = side
                break
    return pair


def _filled(pair: _Labels, spacing_mm: Sequence[float]) -> _Labels:
    """Each lung with its vessels, nodules and small bronchi."""
    result = pair.copy()
    margin = [int(_CLOSING_MM / spacing) + 2 for spacing in spacing_mm]
    for side, tight in zip((RIGHT, LEFT), ndimage.find_objects(pair, LEFT), strict=True):
        box = _grown_box(tight, margin, pair.shape)
        # At the ends of the scan a lung goes on: what closes it must not see an end there.
        lung = np.pad(pair[box] == side, [(count, count) for count in margin], mode="edge")
        closed = ball_close(torch.from_numpy(lung), _CLOSING_MM, spacing_mm).numpy()
        closed = closed[tuple(slice(count, -count) for count in margin)]
        result[box][_holes_filled(closed, spacing_mm) & (result[box] == 0)] = side
    return result


def _grown_box(
    box: Sequence[slice], margin: Sequence[int], shape: Sequence[int]
) -> tuple[slice, slice, slice]:
    s, p, l = (  # noqa: E741
        slice(max(0, part.start - more), min(length, part.stop + more))
        for part, more, length in zip(box, margin, shape, strict=True)
    )
    return s, p, l


def _holes_filled(lung: _Mask, spacing_mm: Sequence[float]) -> _Mask:
    filled = fill_holes(lung)
    for axis in range(3):
        across_mm2 = float(np.prod([spacing for other, spacing in enumerate(spacing_mm) if other != axis]))
        filled = fill_holes(filled, planes_of=axis, largest_voxels=int(_LARGEST_HOLE_MM2 / across_mm2))
    return filled


def check_plausible(right_ml: float, left_ml: float) -> None:
    """Raises Refusal where these are not the volumes of two lungs."""
    smaller, larger = sorted((right_ml, left_ml))
    seen = f"right {right_ml:.0f} mL, left {left_ml:.0f} mL"
    if smaller < _SMALLEST_ML or larger > _LARGEST_ML or larger > _LARGEST_RATIO * smaller:
        raise Refusal(f"no two plausible lungs found ({seen})")
