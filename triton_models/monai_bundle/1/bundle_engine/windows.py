"""Sliding windows over a volume as MONAI has them, whose scores are given out slab by slab.

MONAI's sliding_window_inference keeps every class's score of the whole volume until the last window: 105 classes of
512 x 512 x 400 voxels are 44 GB. Its windows come in order along the first axis. So whatever lies before the next row
of windows is final, can be reduced to labels at once, and makes room for what comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import Inferer, SlidingWindowInferer
from torch.nn import functional

__all__ = ["SlidingWindows", "windows_of"]

_Network = Callable[[torch.Tensor], torch.Tensor]
_Window = tuple[slice, slice, slice]


@dataclass(frozen=True)
class SlidingWindows:
    """What a SlidingWindowInferer was made with. Sizes are (x, y, z)."""

    roi_size: tuple[int, int, int]
    overlap: tuple[float, float, float]
    mode: str
    sigma_scale: float
    padding_mode: str
    cval: float
    batch_size: int

    def slabs(self, image: torch.Tensor, network: _Network) -> Iterator[tuple[int, torch.Tensor]]:
        """The blended scores (classes, x, Y, Z) of an image (channels, X, Y, Z): slabs, each with its first place.

        A slab is written over when the next one is asked for.
        Raises ValueError where the network's answer to a window has another size than the window.
        """
        padded, before = self._padded(image)
        kept = [slice(cut, cut + length) for cut, length in zip(before, image.shape[1:], strict=True)]
        for start, scores in self._slabs(padded, network):
            first, last = max(start, kept[0].start), min(start + scores.shape[1], kept[0].stop)
            if first < last:
                yield first - kept[0].start, scores[:, first - start : last - start, kept[1], kept[2]]

    def _slabs(self, padded: torch.Tensor, network: _Network) -> Iterator[tuple[int, torch.Tensor]]:
        size = padded.shape[1:]
        weights = self._weights(padded)
        counts = self._counts(size, weights)
        scores: torch.Tensor | None = None  # (classes, x from `start` on, Y, Z)
        start = 0
        for row, windows in groupby(self._windows(size), key=lambda window: window[0].start):
            if scores is not None and row > start:
                yield start, scores[:, : row - start].div_(counts[start:row])
                scores = _moved(scores, row - start)
                start = row
            for batch, answers in self._answers(padded, list(windows), network):
                if scores is None:
                    shape = (answers.shape[1], self.roi_size[0], *size[1:])
                    scores = torch.zeros(shape, dtype=padded.dtype, device=padded.device)
                for (_, y, z), answer in zip(batch, answers, strict=True):
                    scores[:, :, y, z] += answer * weights
        if scores is not None:
            yield start, scores[:, : size[0] - start].div_(counts[start:])

    def _padded(self, image: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
        """The image at least as large as a window, and how much was added before each axis."""
        missing = [max(0, window - size) for window, size in zip(self.roi_size, image.shape[1:], strict=True)]
        before = [each // 2 for each in missing]
        if not any(missing):
            return image, before
        pad = [
            side
            for part, all_ in zip(before[::-1], missing[::-1], strict=True)
            for side in (part, all_ - part)
        ]
        value = self.cval if self.padding_mode == "constant" else None
        return functional.pad(image[None], pad, mode=self.padding_mode, value=value)[0], before

    def _weights(self, image: torch.Tensor) -> torch.Tensor:
        weights: torch.Tensor = compute_importance_map(
            self.roi_size,
            mode=self.mode,
            sigma_scale=self.sigma_scale,
            device=image.device,
            dtype=image.dtype,
        )
        return weights

    def _windows(self, size: tuple[int, ...]) -> list[_Window]:
        lengths = zip(self.roi_size, size, self.overlap, strict=True)
        steps = [_step(window, length, overlap) for window, length, overlap in lengths]
        found: list[_Window] = dense_patch_slices(size, self.roi_size, steps)
        return found

    def _counts(self, size: tuple[int, ...], weights: torch.Tensor) -> torch.Tensor:
        counts = torch.zeros(size, dtype=weights.dtype, device=weights.device)
        for window in self._windows(size):
            counts[window] += weights
        return counts

    def _answers(
        self, image: torch.Tensor, windows: list[_Window], network: _Network
    ) -> Iterator[tuple[list[_Window], torch.Tensor]]:
        for first in range(0, len(windows), self.batch_size):
            batch = windows[first : first + self.batch_size]
            answers = network(torch.stack([image[:, x, y, z] for x, y, z in batch]))
            if not isinstance(answers, torch.Tensor) or answers.shape[2:] != self.roi_size:
                raise ValueError("the network's answer has another size than its window")
            yield batch, answers


def windows_of(inferer: Inferer, image: torch.Tensor) -> SlidingWindows | None:
    """What the inferer does to an image (channels, X, Y, Z); None where it is more than plain sliding windows."""
    if type(inferer) is not SlidingWindowInferer or image.ndim != 4:
        return None
    if inferer.with_coord or inferer.roi_weight_map is not None or not isinstance(inferer.sigma_scale, float):
        return None
    roi, overlap = _three(inferer.roi_size), _three(inferer.overlap)
    size = tuple(
        int(want) if want and want > 0 else have for want, have in zip(roi, image.shape[1:], strict=True)
    )
    if not all(0 <= part < 1 for part in overlap):
        return None
    return SlidingWindows(
        roi_size=(size[0], size[1], size[2]),
        overlap=(float(overlap[0]), float(overlap[1]), float(overlap[2])),
        mode=str(getattr(inferer.mode, "value", inferer.mode)),
        sigma_scale=inferer.sigma_scale,
        padding_mode=str(getattr(inferer.padding_mode, "value", inferer.padding_mode)),
        cval=float(inferer.cval),
        batch_size=int(inferer.sw_batch_size),
    )


def _three(value: Any) -> tuple[float, float, float]:
    """One number for every axis, or one for each."""
    if isinstance(value, (int, float)):
        return value, value, value
    first, second, third = value
    return first, second, third


def _step(window: int, length: int, overlap: float) -> int:
    """As monai.inferers.utils._get_scan_interval."""
    if window == length:
        return window
    return max(1, int(window * (1 - overlap)))


def _moved(scores: torch.Tensor, by: int) -> torch.Tensor:
    """Without the first `by` places along x, in the same memory."""
    kept = scores.shape[1] - by
    if kept > 0:
        for place in range(kept):  # one by one: what is copied from is not yet written over
            scores[:, place] = scores[:, place + by]
    scores[:, max(kept, 0) :] = 0
    return scores
