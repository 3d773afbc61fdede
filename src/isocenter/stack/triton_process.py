"""Becomes `tritonserver`, after removing what servers that were killed have left in shared memory.

    python -m isocenter.stack.triton_process [--end-with-parent] tritonserver OPTION...

The Python backend keeps one region per model instance and can not remove it when the whole process group is killed.
Each server's regions carry a prefix of its own, beside a file that the server and its stub processes hold locked.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from isocenter_operators.inference.shared_memory import SHARED_MEMORY, abandoned, hold

__all__ = ["remove_leftovers"]

_PREFIX = "isocenter.triton."
_LOCK = ".lock"
_PR_SET_PDEATHSIG = 1  # prctl(2)


def remove_leftovers() -> list[str]:
    """Remove the shared memory of servers of which no process lives; returns the names."""
    removed: list[Path] = []
    for lock in SHARED_MEMORY.glob(f"{_PREFIX}*{_LOCK}"):
        if abandoned(lock):
            removed += [*SHARED_MEMORY.glob(f"{lock.name.removesuffix(_LOCK)}.*")]  # the lock is one of them
    for path in removed:
        path.unlink(missing_ok=True)
    return [path.name for path in removed]


def _end_with_parent(parent: int) -> None:
    """SIGTERM when the thread that started us ends, however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit("the process that wanted Triton has ended")


def main(arguments: list[str]) -> None:
    if arguments[0] == "--end-with-parent":
        _end_with_parent(int(arguments[1]))
        arguments = arguments[2:]
    # Whoever starts us may have blocked signals for itself; the server's own are not.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    remove_leftovers()
    prefix = f"{_PREFIX}{os.getpid()}"
    os.set_inheritable(hold(SHARED_MEMORY / f"{prefix}{_LOCK}"), True)
    option = f"--backend-config=python,shm-region-prefix-name={prefix}."
    os.execv(arguments[0], [*arguments, option])


if __name__ == "__main__":
    main(sys.argv[1:])
