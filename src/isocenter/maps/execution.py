"""A command run within limits: its words to a log and to whoever listens, its memory and its time watched."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from isocenter.maps.cgroup import Cgroup, cgroup
from isocenter.maps.limits import Limits
from isocenter.maps.memory_watch import memory_of_tree

__all__ = ["Command", "Ending", "Execution", "MemoryGuard", "execute"]

Ending = Literal["ended", "timed out", "out of memory"]
MemoryGuard = Literal["the kernel's control group", "watching its processes", "the engine"]

_LAUNCH = Path(__file__).with_name("launch.py")
_LOOK_S = 0.1
_LISTEN_S = 5.0
_TAIL = 20  # lines
_LINE_AT_MOST = 4096  # bytes of a line that are kept
_LOG_AT_MOST = 64 << 20  # bytes
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH")  # what a sandbox needs to be started
_KILLED = 137  # by SIGKILL, as shells and engines tell it


@dataclass(frozen=True)
class Execution:
    """How it went. `tail`: the last lines that it said. Memory in bytes; None where nobody counted it."""

    ending: Ending
    exit_code: int
    seconds: float
    memory_guard: MemoryGuard
    memory_peak: int | None
    tail: Sequence[str]


@dataclass(frozen=True)
class Command:
    """What is run, and who hears of it.

    log: the file for all it says. engine_limits: it is an engine, which sees to memory and CPU itself, and gets this
    process's environment. say: called with each line.
    checkpoint: called again and again; what it raises ends the run, and is raised by `execute`. end: what else ends it,
    once the command is gone. memory_exceeded: of an engine, whether what failed had asked for too much.
    """

    words: Sequence[str]
    log: Path
    engine_limits: bool = False
    say: Callable[[str], None] | None = None
    checkpoint: Callable[[], None] | None = None
    end: Callable[[], None] | None = None
    memory_exceeded: Callable[[], bool] | None = None


def execute(command: Command, limits: Limits) -> Execution:
    """Run it until it ends, or has to be ended; then nothing that it started runs any more."""
    if command.engine_limits:
        return _executed(command, limits, None, "the engine")
    with cgroup(limits) as group:
        guard: MemoryGuard = "watching its processes" if group is None else "the kernel's control group"
        return _executed(command, limits, group, guard)


def _bound_to(limits: Limits) -> list[str]:
    """Where no group counts the time of the processors: only so many of them."""
    mine = sorted(os.sched_getaffinity(0))
    count = max(1, math.ceil(limits.cpu))
    if count >= len(mine) or shutil.which("taskset") is None:
        return []
    return ["taskset", "--cpu-list", ",".join(map(str, mine[:count]))]


def _launched(words: Sequence[str], group: Cgroup | None) -> list[str]:
    """The command, in the group from its first instruction on."""
    entrances = map(str, group.entrances) if group is not None else ()
    return [sys.executable, "-I", "-S", str(_LAUNCH), *entrances, "--", *words]


def _environment() -> dict[str, str]:
    """Of a sandbox: its first process can be looked at from within, and in a worker's environment are passwords."""
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}


def _executed(command: Command, limits: Limits, group: Cgroup | None, guard: MemoryGuard) -> Execution:
    began = time.monotonic()
    bound = _bound_to(limits) if guard == "watching its processes" else []
    process = subprocess.Popen(
        _launched([*bound, *command.words], group),
        env=None if command.engine_limits else _environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is ours to pass on
    )
    assert process.stdout is not None
    listener = _Listener(process.stdout, command.log, command.say)
    watch = _Watch(process, limits, group, guard == "watching its processes")
    try:
        ending = watch.until_end(command.checkpoint)
    finally:
        broken_off = process.poll() is None
        with suppress(ProcessLookupError):
            process.kill()  # its child is the first process of a namespace, and ends with it
        process.wait()
        if command.end is not None and broken_off:
            command.end()
        exceeded = group is not None and group.memory_exceeded
        if group is not None:
            group.end()
        listener.join(_LISTEN_S)
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    if guard == "the engine" and ending == "ended" and code != 0:
        # Nobody but the kernel ends a container so.
        exceeded = code == _KILLED or (command.memory_exceeded is not None and command.memory_exceeded())
    if ending == "ended" and code != 0 and exceeded:
        ending = "out of memory"
    return Execution(ending, code, time.monotonic() - began, guard, watch.peak, tuple(listener.tail))


class _Watch:
    """Looks at a process again and again."""

    def __init__(
        self, process: subprocess.Popen[bytes], limits: Limits, group: Cgroup | None, count: bool
    ) -> None:
        self._process = process
        self._limits = limits
        self._group = group
        self._count = count
        self._counted: int | None = None

    @property
    def peak(self) -> int | None:
        """The most memory in bytes that was seen."""
        return self._counted

    def until_end(self, checkpoint: Callable[[], None] | None) -> Ending:
        deadline = None if self._limits.time_s is None else time.monotonic() + self._limits.time_s
        while True:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_LOOK_S)
                self._look()
                return "ended"
            if checkpoint is not None:
                checkpoint()
            if deadline is not None and time.monotonic() > deadline:
                return "timed out"
            if self._look() and self._count:
                return "out of memory"

    def _look(self) -> bool:
        """Whether it holds more than it may."""
        seen = memory_of_tree(self._process.pid) if self._count else self._group and self._group.memory_peak
        if seen:
            self._counted = max(seen, self._counted or 0)
        return bool(seen and seen > self._limits.memory)


class _Listener:
    """Reads what a process says, so that it never waits for somebody to listen."""

    def __init__(self, stream: IO[bytes], log: Path, say: Callable[[str], None] | None) -> None:
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self._stream = stream
        self._log = log
        self._say = say
        self._thread = threading.Thread(target=self._listen, name="map", daemon=True)
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _listen(self) -> None:
        written = 0
        with self._stream, self._log.open("ab") as log:
            while line := self._stream.readline(_LINE_AT_MOST):
                if written < _LOG_AT_MOST:
                    written += log.write(line)
                    log.flush()
                told = line.decode("utf-8", "replace").rstrip()
                self.tail.append(told)
                if self._say is not None:
                    self._say(told)
