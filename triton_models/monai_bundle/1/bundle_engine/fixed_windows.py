"""Windows of the one size that a computation was prepared for go to it, all others to the network as it is."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
from monai.data import MetaTensor
from monai.inferers import Inferer, SlidingWindowInferer

__all__ = ["Computation", "FixedWindows", "fixed_window"]

Computation = Callable[
    [torch.Tensor], torch.Tensor
]  # (batch, channels, X, Y, Z) to (batch, classes, X, Y, Z)


class FixedWindows(torch.nn.Module):
    """`compute` takes `batch` windows (channels, X, Y, Z) at a time, no more and no fewer, in float32.

    A batch that is not full is filled with zeros, whose answers are dropped.
    """

    def __init__(
        self, network: torch.nn.Module, window: tuple[int, ...], batch: int, compute: Computation
    ) -> None:
        super().__init__()
        self.network = network
        self._window = window
        self._batch = batch
        self._compute = compute

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        plain = windows.as_tensor() if isinstance(windows, MetaTensor) else windows
        if tuple(plain.shape[1:]) != self._window:
            answer: torch.Tensor = self.network(windows)
            return answer
        return torch.cat([self._answers(some.float()) for some in plain.split(self._batch)])

    def _answers(self, windows: torch.Tensor) -> torch.Tensor:
        missing = self._batch - len(windows)
        if missing:
            windows = torch.cat([windows, windows.new_zeros((missing, *self._window))])
        return self._compute(windows.contiguous())[: self._batch - missing]


def fixed_window(inferer: Inferer, seen: Collection[tuple[int, ...]]) -> tuple[int, ...]:
    """The size (channels, X, Y, Z) that every window has, of those `seen`; () where the sizes follow the volume's."""
    if not isinstance(inferer, SlidingWindowInferer) or len(set(seen)) != 1:
        return ()
    roi = inferer.roi_size if not isinstance(inferer.roi_size, int) else (inferer.roi_size,)
    return next(iter(seen)) if all(size is not None and size > 0 for size in roi) else ()
