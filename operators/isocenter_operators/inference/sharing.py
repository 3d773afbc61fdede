"""One kind of memory that a connection may share with its server: its regions, and what trying it has shown."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from isocenter_operators.inference import shared_memory
from isocenter_operators.inference.cuda_memory import Cuda, CudaRegion
from isocenter_operators.inference.regions import RegionPool

__all__ = ["Sharing", "cuda_sharing", "system_sharing"]


@dataclass
class Sharing:
    """`usable`: None until it was tried. `worth_it`: asked once, before the first try; where it says no, that stays."""

    kind: Literal["cuda_shared_memory", "shared_memory"]
    title: str
    pool: RegionPool
    worth_it: Callable[[], bool] | None = None
    usable: bool | None = None
    _asking: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _ruled_out: bool = False

    def may_be_used(self) -> bool:
        with self._asking:
            if self.worth_it is not None:
                self._ruled_out, self.worth_it = not self.worth_it(), None
        if self._ruled_out:
            self.usable = False
        return self.usable is not False

    def try_again(self) -> None:
        """Another server may answer next time."""
        if not self._ruled_out:
            self.usable = None


def system_sharing(idle_bytes: int) -> Sharing:
    return Sharing("shared_memory", "shared memory", RegionPool(idle_bytes, shared_memory.Region))


def cuda_sharing(cuda: Cuda, idle_bytes: int, worth_it: Callable[[], bool] | None) -> Sharing:
    pool = RegionPool(idle_bytes, partial(CudaRegion, cuda))
    return Sharing("cuda_shared_memory", "CUDA shared memory", pool, worth_it)
