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

from bundle_engine.lattice import Lattice, lattice_of
from bundle_engine.regridding import is_linear
from bundle_engine.workflow import BundleError

__all__ = ["Inversion", "best_of", "inversion_of", "refuse_nan"]

_UNDECIDED = -1
# Of the source grid at a time: on a CPU what stays in its cache, on a GPU what keeps it busy.
_CHUNK_VOXELS = {"cpu": 1 << 19, "cuda": 1 << 22}
_CHUNK_CELLS = 1 << 16


class Inversion:
    """The labels of a source grid, from scores that come slab by slab along the first axis of the network's grid."""

    def __init__(
        self, lattice: Lattice, size: Sequence[int], network_size: Sequence[int], device: torch.device
    ) -> None:
        """lattice: where the voxels of the source grid lie in the network's.

        size: of the source grid; network_size: of the network's, both (x, y, z) of their own axes.
        """
        self._axes, self._size = lattice.axes, tuple(size)
        self._along = [
            _Axis(lower.to(device), weight.float().to(device), max(1, length - 1))
            for lower, weight, length in zip(lattice.lower, lattice.weight, network_size, strict=True)
        ]
        # The network's axes in the order in which the source grid lies in memory: z, y, x of its own.
        self._in_memory = tuple(self._axes.index(axis) for axis in (2, 1, 0))
        self._stored: torch.Tensor | None = None  # (z, y, x) of the source grid
        self._device = device
        self._depth = network_size[0]
        self._edge: torch.Tensor | None = None  # the last plane of the slab before

    def add(self, start: int, scores: torch.Tensor) -> None:
        """The next slab: scores (classes, x, Y, Z) from place `start` of the network's first axis on."""
        block = scores if self._edge is None else torch.cat([self._edge, scores], dim=1)
        first = start if self._edge is None else start - 1
        self._edge = scores[:, -1:].clone()
        if block.shape[1] == 1 and self._depth > 1:
            return  # no cell yet: it ends with the next slab's first plane
        slab = _Slab(block)
        lower = self._along[0].lower
        within = ((lower >= first) & (lower < first + slab.cells.shape[0])).nonzero()[:, 0]
        if not len(within):
            return
        # The places of a slab's cells are neighbours, whichever way the axis goes.
        low, high = int(within[0]), int(within[-1]) + 1
        stored = self._store(len(scores))
        cells = slab.cells.to(stored.dtype).permute(self._in_memory)
        for axis in (2, 1, 0):  # the last one while there is least of it
            along = self._in_memory[axis]
            places = lower[low:high] - first if along == 0 else self._along[along].lower
            cells = cells.index_select(axis, places)
        stored.narrow(self._in_memory.index(0), low, high - low).copy_(cells)
        self._decide(slab, first, stored)

    def _store(self, classes: int) -> torch.Tensor:
        """Where the labels are gathered, in as few bytes as hold them."""
        if self._stored is None:
            dtype = torch.uint8 if classes < 256 else torch.int16
            self._stored = torch.empty(self._size[::-1], dtype=dtype, device=self._device)
        return self._stored

    def _decide(self, slab: _Slab, first: int, stored: torch.Tensor) -> None:
        """The places in cells whose voxels differ."""
        x, y, z = self._along
        filled = [x.count[first : first + slab.cells.shape[0]] > 0, y.count > 0, z.count > 0]
        undecided = slab.cells == _UNDECIDED
        for axis, some in enumerate(filled):
            shape = [1, 1, 1]
            shape[axis] = -1
            undecided &= some.view(shape)
        chunk = _CHUNK_VOXELS.get(undecided.device.type, 1 << 22)
        step_x, step_y, step_z = (stored.stride(self._in_memory.index(axis)) for axis in range(3))
        for alike, (in_x, in_y, in_z) in self._alike(undecided.nonzero(), first):
            for cells in torch.split(alike, max(1, chunk // (in_x * in_y * in_z))):
                at_x, at_y, at_z = cells[:, 0] + first, cells[:, 1], cells[:, 2]
                labels = slab.interpolated(
                    cells, x.weight[at_x, :in_x], y.weight[at_y, :in_y], z.weight[at_z, :in_z]
                )
                places = (
                    (x.places[at_x, :in_x] * step_x)[:, :, None, None]
                    + (y.places[at_y, :in_y] * step_y)[:, None, :, None]
                    + (z.places[at_z, :in_z] * step_z)[:, None, None, :]
                )
                stored.view(-1).scatter_(0, places.flatten(), labels.to(stored.dtype).flatten())

    def _alike(self, cells: torch.Tensor, first: int) -> Iterator[tuple[torch.Tensor, tuple[int, int, int]]]:
        """Cells with as many places along x, y and z, and how many.

        Elsewhere than on a CPU, where nothing was measured, all are taken together, with places that are not there.
        """
        x, y, z = self._along
        if cells.device.type != "cpu":
            yield cells, (x.width, y.width, z.width)
            return
        counts = x.count[cells[:, 0] + first], y.count[cells[:, 1]], z.count[cells[:, 2]]
        kinds = (counts[0] * (y.width + 1) + counts[1]) * (z.width + 1) + counts[2]
        for kind in torch.unique(kinds):
            these = (kinds == kind).nonzero()[:, 0]
            in_x, in_y, in_z = (int(each[these[0]]) for each in counts)
            yield cells.index_select(0, these), (in_x, in_y, in_z)

    def labels(self) -> torch.Tensor:
        """On the source grid (x, y, z), when every slab was added: uint8, or int16 where there are more classes."""
        if self._stored is None:
            raise ValueError("no slab was added")
        return self._stored.permute(2, 1, 0)


class _Axis:
    """The places of the source grid along one axis of the network's, and which of them lie in each of its cells.

    `count` (cells,); `places` and `weight` (cells, width): where fewer lie in a cell, its last stands for the others.
    """

    def __init__(self, lower: torch.Tensor, weight: torch.Tensor, cells: int) -> None:
        self.lower = lower
        self.count = torch.bincount(lower, minlength=cells)
        self.width = int(self.count.max())
        order = torch.argsort(lower, stable=True)
        first = self.count.cumsum(0) - self.count
        number = torch.arange(self.width, device=lower.device).minimum((self.count - 1).clamp(min=0)[:, None])
        self.places = order[(first[:, None] + number).clamp(max=len(order) - 1)]
        self.weight = weight[self.places]


class _Slab:
    """Scores (classes, x, Y, Z); `cells`, int16: of each cell between eight of their voxels the label of all that lies
    in it, or that this is not known without interpolating."""

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
        self.cells = torch.where(least == most, least, _UNDECIDED)

    def interpolated(self, cells: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        """The best class at each place in some cells, of those that can be it: int16 (cells, places in x, y, z).

        cells: (cells, 3). weights: of each axis, of the places in each cell (cells, places).
        """
        _, _, height, width = self._scores.shape
        base = (cells[:, 0] * height + cells[:, 1]) * width + cells[:, 2]
        corners = torch.tensor(
            [(x * height + y) * width + z for x in (0, 1) for y in (0, 1) for z in (0, 1)], device=base.device
        )
        flat = self._scores.flatten(1)
        shape = (len(cells), *(each.shape[1] for each in weights))
        best = torch.full(shape, -torch.inf, dtype=flat.dtype, device=base.device)
        labels = torch.zeros(shape, dtype=torch.int16, device=base.device)
        for number, can_win in enumerate(_candidates(flat, base, corners)):
            chosen = can_win.nonzero()[:, 0]
            if not len(chosen):
                continue
            values = flat[number][base[chosen][:, None] + corners].view(-1, 2, 2, 2)
            value = _between(values, [each[chosen] for each in weights])
            before = best.index_select(0, chosen)
            better = value > before
            best.index_copy_(0, chosen, torch.where(better, value, before))
            labels.index_copy_(0, chosen, labels.index_select(0, chosen).masked_fill_(better, number))
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


def _between(values: torch.Tensor, weights: Sequence[torch.Tensor]) -> torch.Tensor:
    """One class' scores between the corners of cells: from (cells, 2, 2, 2) to (cells, places in x, y, z).

    The last axis comes first, when there is least of it.
    """
    x, y, z = (each.to(values.dtype) for each in weights)
    values = torch.lerp(values[..., :1], values[..., 1:], z[:, None, None, :])
    values = torch.lerp(values[:, :, :1], values[:, :, 1:], y[:, None, :, None])
    return torch.lerp(values[:, :1], values[:, 1:], x[:, :, None, None])


def inversion_of(inverse: Invertd, image_key: str, image: MetaTensor, given: MetaTensor) -> Inversion | None:
    """What the inverse does to scores on the grid of `image`; None where it is more than linear resampling along axes.

    image_key: under which the transforms have it. image: what the network saw, (channels, X, Y, Z); given: what it was
    made of, (X, Y, Z) or with channels.
    """
    if tuple(inverse.orig_keys) != (image_key,) or not all(
        _is_known(operation) for operation in image.applied_operations
    ):
        return None
    size, network_size = tuple(given.shape[-3:]), tuple(image.shape[-3:])
    lattice = lattice_of(image.affine, given.affine, network_size, size)
    return None if lattice is None else Inversion(lattice, size, network_size, image.device)


def _is_known(operation: Any) -> bool:
    return operation.get("class") == "Orientation" or (
        operation.get("class") == "SpatialResample" and is_linear(operation)
    )
