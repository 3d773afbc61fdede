"""How a worker shows that it is there: a file in the data folder with its process number, and when that was started.

In a container every life of a worker has the same number: a file that a killed one has left is told by the other.
Its time of change is that until which the worker need not be heard of again: to set it takes no room on a full disk.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from isocenter.settings import Settings

__all__ = ["announce", "beat", "missing", "withdraw"]

_SILENT_S = 60.0  # at most; a busy machine may let it wait


def _file(settings: Settings) -> Path:
    return settings.data_dir / "run" / f"{settings.worker.name}.pid"


def announce(settings: Settings) -> None:
    """Say that this process takes jobs."""
    file = _file(settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}")
    draft.write_text(f"{os.getpid()} {_started(os.getpid())}")
    os.utime(draft, (until := time.time() + _SILENT_S, until))
    draft.replace(file)


def beat(settings: Settings, at_work_s: float = 0.0) -> None:
    """Say that this process goes on; it may be silent for so long besides, in a job. Raises OSError."""
    until = time.time() + _SILENT_S + at_work_s
    with suppress(FileNotFoundError):  # it is leaving, or has not said that it takes jobs
        os.utime(_file(settings), (until, until))


def withdraw(settings: Settings) -> None:
    _file(settings).unlink(missing_ok=True)


def missing(settings: Settings) -> str | None:
    """None while a worker is there, otherwise one sentence."""
    file = _file(settings)
    try:
        pid, started = map(int, file.read_text().split())
        silent_s = time.time() - file.stat().st_mtime
    except (FileNotFoundError, ValueError):
        return "the worker is still loading its applications"
    if _started(pid) != started:
        return "the worker has ended"
    return f"the worker hangs: it was silent for {silent_s + _SILENT_S:.0f} s" if silent_s > 0 else None


def _started(pid: int) -> int:
    """When this process was started, in the kernel's ticks since its own start (proc(5), stat); 0: there is none."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    state, *numbers = told.rpartition(")")[2].split()  # the program's name may hold anything
    return 0 if state == "Z" else int(numbers[18])
