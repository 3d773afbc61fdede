"""Class scores on the network's grid to labels on the source grid: interpolated, then decided, and almost for free.

What Invertd does to each class (trilinear interpolation, borders continued) and AsDiscrete then decides is what comes
out here, without interpolating what can not change the answer. Between eight voxels of the network's grid that all have
the same best class, that class is the best everywhere: each interpolated score is the same weighted mean of eight, and
in none of them was another one larger. Where they differ only those classes can win whose largest of the eight scores
reaches what some class has in all eight. Of 105 classes on 512 x 512 x 400 voxels that is one score in a thousand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Invertd

from bundle_engine.workflow import BundleError

__all__ = ["Inversion", "best_of", "inversion_of", "refuse_nan"]

_OPERATIONS = ("Orientation", "SpatialResample")  # what is undone; SpatialResample is also what Spacing notes
_UNDECIDED = -1
_CHUNK_VOXELS = 1 << 22  # of the source grid at a time
_CHUNK_CELLS = 1 << 16
_ALIGNED = 1e-6  # of a voxel


class Inversion:
    """The labels of a source grid, from scores that come slab by slab along the first axis of the network's grid."""

    def __init__(
        self, to_network: torch.Tensor, size: Sequence[int], network_size: Sequence[int], device: torch.device
    ) -> None:
        """to_network: float64 (4, 4), from indices of the source grid to indices of the network's, axis by axis.

        size: of the source grid; network_size: of the network's, both (x, y, z) of their own axes.
        """
        scale = to_network[:3, :3]
        # Which axis of the source grid each axis of the network's goes along.
        self._axes = [int(place) for place in scale.abs().argmax(dim=1)]
        self._lower: list[
            torch.Tensor
        ] = []  # of each axis of the network's: the voxel below each place of the source
        self._weight: list[torch.Tensor] = []  # and how far each lies towards the voxel above
        for axis, length in enumerate(network_size):
            source = self._axes[axis]
            places = (
                torch.arange(size[source], dtype=torch.float64) * scale[axis, source] + to_network[axis, 3]
            )
            places = places.clamp(0, length - 1)
            lower = places.floor().clamp(max=max(0, length - 2))
            self._lower.append(lower.long().to(device))
            self._weight.append((places - lower).float().to(device))
        shape = [size[axis] for axis in self._axes]
        self._labels = torch.empty(
            shape, dtype=torch.int16, device=device
        )  # in the order of the network's axes
        self._depth = network_size[0]
        self._edge: torch.Tensor | None = None  # the last plane of the slab before

    def add(self, start: int, scores: torch.Tensor) -> None:
        """The next slab: scores (classes, x, Y, Z) from place `start` of the network's first axis on."""
        block = scores if self._edge is None else torch.cat([self._edge, scores], dim=1)
        first = start if self._edge is None else start - 1
        after = start + scores.shape[1]
        self._edge = scores[:, -1:].clone()
        lower = self._lower[0]
        # The last cell of all is theirs too who lie on the last plane; of one plane there is no cell.
        within = (lower >= first) & (lower + 1 < after) if self._depth > 1 else lower >= first
        places = within.nonzero()[:, 0]
        if not len(places):
            return
        slab = _Slab(block)
        per_place = max(1, self._labels[0].numel())
        for chunk in torch.split(places, max(1, _CHUNK_VOXELS // per_place)):
            self._labels[chunk] = slab.decided(
                [lower[chunk] - first, *self._lower[1:]], [self._weight[0][chunk], *self._weight[1:]]
            )

    def labels(self) -> torch.Tensor:
        """int16 on the source grid (x, y, z), when every slab was added."""
        return self._labels.permute(*(self._axes.index(axis) for axis in range(3)))


class _Slab:
    """Scores (classes, x, Y, Z), and of each cell between eight of their voxels what is known without interpolating."""

    def __init__(self, scores: torch.Tensor) -> None:
        # An axis of one voxel has cells too: between that voxel and itself.
        for axis in (1, 2, 3):
            if scores.shape[axis] == 1:
                scores = torch.cat([scores, scores], dim=axis)
        self._scores = scores.contiguous()
        best = best_of(scores)
        least, most = best, best
        for axis in range(3):
            count = best.shape[axis] - 1
            least = torch.minimum(least.narrow(axis, 0, count), least.narrow(axis, 1, count))
            most = torch.maximum(most.narrow(axis, 0, count), most.narrow(axis, 1, count))
        self._cells = torch.where(least == most, least, _UNDECIDED)

    def decided(self, lower: Sequence[torch.Tensor], weight: Sequence[torch.Tensor]) -> torch.Tensor:
        """Labels, int16, at the places whose cells and weights these are, axis by axis."""
        cells = self._cells
        for axis in (2, 1, 0):  # the last first, while there are few: what is copied after it are whole rows
            cells = cells.index_select(axis, lower[axis])
        undecided = cells == _UNDECIDED
        where = undecided.nonzero(as_tuple=True)
        if len(where[0]):
            places = [each[found] for each, found in zip(lower, where, strict=True)]
            weights = [each[found] for each, found in zip(weight, where, strict=True)]
            cells[undecided] = self._interpolated(places, weights)
        return cells

    def _interpolated(self, places: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]) -> torch.Tensor:
        """The best class at each place, of those that can be it."""
        _, _, height, width = self._scores.shape
        base = (places[0] * height + places[1]) * width + places[2]
        cells, cell_of = torch.unique(base, return_inverse=True)
        corners = torch.tensor(
            [(x * height + y) * width + z for x in (0, 1) for y in (0, 1) for z in (0, 1)], device=base.device
        )
        flat = self._scores.flatten(1)
        best = torch.full(base.shape, -torch.inf, dtype=flat.dtype, device=base.device)
        labels = torch.zeros(base.shape, dtype=torch.int16, device=base.device)
        for number, can_win in enumerate(_candidates(flat, cells, corners)):
            chosen = can_win[cell_of].nonzero()[:, 0]
            if not len(chosen):
                continue
            value = _between(flat[number], base[chosen], corners, [each[chosen] for each in weights])
            better = value > best[chosen]
            chosen = chosen[better]
            best[chosen] = value[better]
            labels[chosen] = number
        return labels


def best_of(scores: torch.Tensor) -> torch.Tensor:
    """argmax over the first axis, int16: class by class, which a CPU reads in order. Raises BundleError for NaN."""
    best, labels = scores[0].clone(), torch.zeros(scores.shape[1:], dtype=torch.int16, device=scores.device)
    for number, score in enumerate(scores[1:], 1):
        labels.masked_fill_(score > best, number)
        torch.maximum(best, score, out=best)
    refuse_nan(best)  # which has those of every class
    return labels


def refuse_nan(scores: torch.Tensor) -> None:
    """Of NaN the background would be made, without a word. Raises BundleError."""
    if bool(torch.isnan(scores).any()):
        raise BundleError(
            "the network's scores are no numbers (NaN): its weights may be damaged, or its precision too low for these "
            "images"
        )


def _candidates(flat: torch.Tensor, cells: torch.Tensor, corners: torch.Tensor) -> Iterator[torch.Tensor]:
    """Of each class in turn, in which of the cells it may be the best somewhere: bool (cells,)."""
    can_win = torch.empty((len(flat), len(cells)), dtype=torch.bool, device=flat.device)
    for first in range(0, len(cells), _CHUNK_CELLS):
        chunk = cells[first : first + _CHUNK_CELLS]
        least = most = flat[:, chunk + corners[0]]
        for corner in corners[1:]:
            value = flat[:, chunk + corner]
            least, most = torch.minimum(least, value), torch.maximum(most, value)
        can_win[:, first : first + _CHUNK_CELLS] = most >= least.amax(dim=0)
    return iter(can_win)


def _between(
    flat: torch.Tensor, base: torch.Tensor, corners: torch.Tensor, weights: Sequence[torch.Tensor]
) -> torch.Tensor:
    """One class' scores, interpolated between the corners of the cells that begin at `base`."""
    values = [flat[base + corner] for corner in corners]
    for weight in reversed(weights):  # the last axis is the innermost
        values = [
            torch.lerp(low, high, weight.to(low.dtype))
            for low, high in zip(values[::2], values[1::2], strict=True)
        ]
    return values[0]


def inversion_of(inverse: Invertd, image_key: str, image: MetaTensor, given: MetaTensor) -> Inversion | None:
    """What the inverse does to scores on the grid of `image`; None where it is more than linear resampling along axes.

    image_key: under which the transforms have it. image: what the network saw, (channels, X, Y, Z); given: what it was
    made of, (X, Y, Z) or with channels.
    """
    if tuple(inverse.orig_keys) != (image_key,) or not all(
        _is_known(operation) for operation in image.applied_operations
    ):
        return None
    device = image.device
    image_affine, affine = (each.affine.to("cpu", torch.float64) for each in (image, given))
    to_network = torch.linalg.inv(image_affine) @ affine
    along = to_network[:3, :3].abs()
    strongest = along.amax(dim=1)
    others = along.sum(dim=1) - strongest
    size, network_size = tuple(given.shape[-3:]), tuple(image.shape[-3:])
    if len(set(along.argmax(dim=1).tolist())) != 3 or bool((others * max(size) > _ALIGNED).any()):
        return None
    return Inversion(to_network, size, network_size, device)


def _is_known(operation: Any) -> bool:
    if operation.get("class") not in _OPERATIONS:
        return False
    if operation["class"] == "Orientation":
        return True
    extra = operation.get("extra_info", {})
    settings = (str(extra.get("mode")), str(extra.get("padding_mode")), extra.get("align_corners"))
    return settings[0] == "bilinear" and settings[1] == "border" and settings[2] in (False, "none", None)
