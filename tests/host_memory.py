"""CUDA without a GPU: what the transport asks of it, in the host's memory."""

from __future__ import annotations

import ctypes
from typing import Any

__all__ = ["HostMemory"]


class HostMemory:
    """A `Cuda` whose GPU is the host's memory. `full`: it has no room; `broken`: nothing is copied any more."""

    device = 1

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}
        self.full = self.broken = False

    def allocate(self, size: int) -> int:
        if self.full:
            raise OSError("cudaMalloc: cudaErrorMemoryAllocation")
        buffer = ctypes.create_string_buffer(size)
        self.held[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(self, address: int) -> None:
        del self.held[address]

    def handle(self, address: int) -> bytes:
        return address.to_bytes(64, "little")

    def copy(self, to: int, source: int, size: int) -> None:
        if self.broken:
            raise OSError("cudaMemcpy: cudaErrorIllegalAddress")
        ctypes.memmove(to, source, size)
