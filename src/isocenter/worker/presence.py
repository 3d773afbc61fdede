"""How a worker shows that it is there: a file in the data folder with its process number, and when that was started.

In a container every life of a worker has the same number: a file that a killed one has left is told by the other.
"""

from __future__ import annotations

import os
from pathlib import Path

from isocenter.settings import Settings

__all__ = ["announce", "missing", "withdraw"]


def _file(settings: Settings) -> Path:
    return settings.data_dir / "run" / f"{settings.worker.name}.pid"


def announce(settings: Settings) -> None:
    """Say that this process takes jobs."""
    file = _file(settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}")
    draft.write_text(f"{os.getpid()} {_started(os.getpid())}")
    draft.replace(file)


def withdraw(settings: Settings) -> None:
    _file(settings).unlink(missing_ok=True)


def missing(settings: Settings) -> str | None:
    """None while a worker is there, otherwise one sentence."""
    try:
        pid, started = map(int, _file(settings).read_text().split())
    except (FileNotFoundError, ValueError):
        return "the worker is still loading its applications"
    return None if _started(pid) == started else "the worker has ended"


def _started(pid: int) -> int:
    """When this process was started, in the kernel's ticks since its own start (proc(5), stat); 0: there is none."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    state, *numbers = told.rpartition(")")[2].split()  # the program's name may hold anything
    return 0 if state == "Z" else int(numbers[18])
