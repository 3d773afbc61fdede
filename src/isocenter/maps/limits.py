"""How much of the machine a package may take: what it declares, else what the specification assumes."""

from __future__ import annotations

from dataclasses import dataclass

from isocenter.maps.inspection import Needs

__all__ = ["Limits"]

_MEMORY = 1 << 30  # bytes; this and the next two are the specification's
_CPU = 1.0
_SHARED_MEMORY = 64 << 20  # bytes
_PROCESSES = 4096  # a guard against one that only multiplies
_OUTPUT = 4 << 30  # bytes; no manifest states it, and a disk is soon full


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes. `declared`: whether the package, or whoever runs it, stated the memory."""

    memory: int
    cpu: float
    shared_memory: int
    time_s: float | None = None  # None: none
    processes: int = _PROCESSES
    output: int = _OUTPUT
    declared: bool = True

    @classmethod
    def of(
        cls,
        needs: Needs,
        *,
        memory: int | None = None,
        cpu: float | None = None,
        shared_memory: int | None = None,
        time_s: float | None = None,
        output: int | None = None,
    ) -> Limits:
        """What is given here goes before what the package declares. A need without a limit is the limit."""
        stated = memory or needs.memory_limit or needs.memory
        return cls(
            memory=stated or _MEMORY,
            cpu=cpu or needs.cpu_limit or needs.cpu or _CPU,
            shared_memory=shared_memory or needs.shared_memory or _SHARED_MEMORY,
            time_s=time_s or needs.timeout_s,
            output=output or _OUTPUT,
            declared=stated is not None,
        )
