"""The network's kernels for one batch of windows, recorded once and started again as one."""

from __future__ import annotations

import torch

__all__ = ["CudaGraph"]

_FIRST_RUNS = 3  # before the recording: libraries choose their algorithms, and allocate, in the first


class CudaGraph:
    """Records at the first batch, in the precision of that moment; every other has its size.

    Raises what torch raises where a network can not be recorded, as one that looks at its own values on the CPU.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self._network = network
        self._recorded: tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor] | None = None

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        if self._recorded is None:
            self._recorded = self._record(windows)
        graph, given, found = self._recorded
        given.copy_(windows)
        graph.replay()
        return found.clone()  # the next batch is written over it

    def _record(self, windows: torch.Tensor) -> tuple[torch.cuda.CUDAGraph, torch.Tensor, torch.Tensor]:
        given = windows.clone()
        beside = torch.cuda.Stream(windows.device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(windows.device))
        # Autocast keeps weights that it has cast until it ends; the graph would go on reading where they were.
        uncached = torch.autocast(
            "cuda",
            dtype=torch.get_autocast_dtype("cuda"),
            enabled=torch.is_autocast_enabled("cuda"),
            cache_enabled=False,
        )
        with torch.cuda.device(windows.device), uncached:
            with torch.cuda.stream(beside):
                for _ in range(_FIRST_RUNS):
                    self._network(given)
            torch.cuda.current_stream(windows.device).wait_stream(beside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                found = self._network(given)
        return graph, given, found
