"""The shared memory of one connection to Triton: which regions exist, which are idle, which the server knows.

A fresh region of 145 MB costs its page faults on both sides, so regions are used again. One is lent to one request
at a time and comes back only when the server has said that it is done with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import DTypeLike, NDArray

__all__ = ["Layout", "Region", "RegionPool"]

_ALIGNMENT = 64  # bytes; a cache line
_GRAIN = 16 << 20  # bytes; scans of nearly the same size share regions
_WORTH_SHARING = 64 << 10  # bytes; smaller tensors travel faster inside the request


class Region(Protocol):
    """`size` bytes that the server can open. `server`: tritonclient's, on which `register` and `unregister` raise."""

    name: str
    size: int

    def write(self, array: NDArray[Any], offset: int) -> None: ...

    def read(self, dtype: DTypeLike, shape: tuple[int, ...], offset: int) -> NDArray[Any]:
        """An array of its own."""
        ...

    def register(self, server: Any, timeout_s: float) -> None: ...

    def unregister(self, server: Any, timeout_s: float) -> None: ...

    def remove(self) -> None:
        """Let go of it, after the server has."""
        ...

    def abandon(self) -> None:
        """The server may still write there: nothing else may ever be."""
        ...


@dataclass(frozen=True)
class Layout:
    """Where in one region the large tensors of one request lie: name to (offset, size), bytes."""

    inputs: Mapping[str, tuple[int, int]]
    outputs: Mapping[str, tuple[int, int]]
    size: int

    @classmethod
    def of(cls, inputs: Mapping[str, NDArray[Any]], outputs: Mapping[str, int | None]) -> Layout:
        end = 0

        def place(sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
            nonlocal end
            places = {}
            for name, size in sizes.items():
                if size >= _WORTH_SHARING:
                    places[name] = (end, size)
                    end += -(-size // _ALIGNMENT) * _ALIGNMENT
            return places

        placed_inputs = place({name: array.nbytes for name, array in inputs.items()})
        placed_outputs = place({name: bound or 0 for name, bound in outputs.items()})
        return cls(placed_inputs, placed_outputs, end)

    def write(self, region: Region, inputs: Mapping[str, NDArray[Any]]) -> None:
        for name, (offset, _) in self.inputs.items():
            region.write(inputs[name], offset)


class RegionPool:
    """Regions of one connection and kind. `idle_bytes` is the most that `trim` leaves for later.

    make: a new region of so many bytes; raises StorageFull.
    """

    def __init__(self, idle_bytes: int, make: Callable[[int], Region]) -> None:
        self._idle_bytes = idle_bytes
        self._make = make
        self._idle: list[Region] = []  # the longest idle first
        self._registered: set[str] = set()
        self._lock = threading.Lock()
        self._closed = False

    def take(self, size: int) -> Region:
        """An idle region of at least `size` bytes, the smallest that fits, or a new one. Raises StorageFull."""
        with self._lock:
            fitting = [region for region in self._idle if region.size >= size]
            if fitting:
                region = min(fitting, key=lambda region: region.size)
                self._idle.remove(region)
                return region
        return self._make(-(-size // _GRAIN) * _GRAIN)

    def give(self, region: Region) -> None:
        """Take back a region that the server is done with."""
        with self._lock:
            if not self._closed:
                self._idle.append(region)
                return
        self.discard(region)

    def discard(self, region: Region) -> None:
        """Drop a region that the server may still write to."""
        region.abandon()
        self.set_registered(region, False)

    def trim(self) -> list[Region]:
        """Drop what is idle beyond the limit, for the caller to unregister and remove."""
        with self._lock:
            return self._drop_idle(self._idle_bytes)

    def close(self) -> list[Region]:
        """Drop all that is idle, for the caller to unregister and remove; each other region as it comes back."""
        with self._lock:
            self._closed = True
            return self._drop_idle(0)

    def is_registered(self, region: Region) -> bool:
        with self._lock:
            return region.name in self._registered

    def set_registered(self, region: Region, registered: bool) -> None:
        with self._lock:
            (self._registered.add if registered else self._registered.discard)(region.name)

    def forget_registrations(self) -> None:
        """The server was restarted: it knows none of our regions."""
        with self._lock:
            self._registered.clear()

    def _drop_idle(self, limit: int) -> list[Region]:
        dropped = []
        while sum(region.size for region in self._idle) > limit:
            dropped.append(self._idle.pop(0))
        return dropped
