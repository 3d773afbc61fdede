"""What the supervisor knows of one child process."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Child", "end_group"]

_GONE_WITHIN_S = 2.0


@dataclass(frozen=True)
class Child:
    """One process of the stack: how it is started, and how one sees that it is ready.

    `ready` answers None once the child serves, and otherwise one sentence on what is still missing. It returns
    within two seconds and raises nothing.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]  # added to the supervisor's own
    log: Path
    ready: Callable[[], str | None]
    address: str  # what a person is told: "http://127.0.0.1:8042"
    ready_within_s: float = 180.0  # on a machine that starts everything at once, or has little left
    stop_signal: signal.Signals = signal.SIGTERM
    stop_within_s: float = 10.0
    looks_before_restart: int = 12  # that find in a row, five seconds apart, that it does not serve any more
    # What is started in its place when it is started again; None: the same. Raises ConfigurationError.
    anew: Callable[[], Child] | None = None


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a child's process group, such as the stubs of Triton's Python backend, and see it go.

    Until they are gone they hold what they have locked.
    """
    gone_by = time.monotonic() + _GONE_WITHIN_S
    try:
        while time.monotonic() < gone_by:
            os.killpg(process.pid, signal.SIGKILL)
            process.poll()
            time.sleep(0.01)
    except (ProcessLookupError, PermissionError):
        return  # nothing is left of the group
