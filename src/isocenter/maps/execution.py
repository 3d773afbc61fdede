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
from io import FileIO
from pathlib import Path
from typing import IO, Literal

from isocenter.maps.cgroup import Cgroup, cgroup
from isocenter.maps.limits import Limits
from isocenter.maps.memory_watch import memory_of_tree
from isocenter.maps.output_watch import OutputWatch
from isocenter.maps.standby import Standby
from isocenter_operators.standby import BEGIN

__all__ = ["Command", "Ending", "Execution", "MemoryGuard", "execute"]

Ending = Literal["ended", "timed out", "out of memory", "wrote too much", "never begun"]
MemoryGuard = Literal["the kernel's control group", "watching its processes", "the engine"]

_LAUNCH = Path(__file__).with_name("launch.py")
_LOOK_S = 0.1
_LOOK_AT_REST_S = 1.0
_LISTEN_S = 5.0
_LEAVES_WITHIN_S = 30.0
_TAIL = 20  # lines
_LINE_AT_MOST = 4096  # bytes of a line that are kept
_LOG_AT_MOST = 64 << 20  # bytes
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH")  # what a sandbox needs to be started
# By proc(5), where the machine's memory is at an end: a run in one that was started in advance is only run again.
_FIRST_TO_GO = 1000
_KILLED = 137  # by SIGKILL, as shells and engines tell it


@dataclass(frozen=True)
class Execution:
    """How it went. `tail`: the last lines that it said. Memory in bytes; None where nobody counted it.

    seconds: from when it was let begin, where it waited for that. "never begun": it ended while it waited.
    """

    ending: Ending
    exit_code: int
    seconds: float
    memory_guard: MemoryGuard
    memory_peak: int | None
    tail: Sequence[str]


@dataclass(frozen=True)
class Command:
    """What is run, and who hears of it.

    log: the file for all it says. output: the folder that it may write to. engine_limits: it is an engine, which sees
    to memory and CPU itself, and gets this process's environment. say: called with each line.
    checkpoint: called again and again; what it raises ends the run, and is raised by `execute`. end: of an engine, what
    ends the container that the command runs. memory_exceeded: of an engine, whether what failed had asked for too much.
    standby: it is started in advance, and its standard input tells it to begin; its time counts from then.
    """

    words: Sequence[str]
    log: Path
    output: Path | None = None
    engine_limits: bool = False
    say: Callable[[str], None] | None = None
    checkpoint: Callable[[], None] | None = None
    end: Callable[[], None] | None = None
    memory_exceeded: Callable[[], bool] | None = None
    standby: Standby | None = None


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


def _launched(words: Sequence[str], group: Cgroup | None, *, in_advance: bool) -> list[str]:
    """The command, in the group from its first instruction on."""
    entrances = map(str, group.entrances) if group is not None else ()
    mine = [str(os.getpid()), str(_FIRST_TO_GO if in_advance else 0)]
    return [sys.executable, "-I", "-S", str(_LAUNCH), *mine, *entrances, "--", *words]


def _environment() -> dict[str, str]:
    """Of a sandbox: its first process can be looked at from within, and in a worker's environment are passwords."""
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}


def _executed(command: Command, limits: Limits, group: Cgroup | None, guard: MemoryGuard) -> Execution:
    bound = _bound_to(limits) if guard == "watching its processes" else []
    process = subprocess.Popen(
        _launched([*bound, *command.words], group, in_advance=command.standby is not None),
        env=None if command.engine_limits else _environment(),
        # Podman's monitor leaves a file named "oom" where it was started: in this run's folder, not the user's.
        cwd=command.log.parent if command.engine_limits else None,
        stdin=subprocess.DEVNULL if command.standby is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is ours to pass on
    )
    assert process.stdout is not None
    listener = _Listener(process.stdout, command.log, _listeners(command))
    output = None if command.output is None else OutputWatch(command.output, limits.output)
    watch = _Watch(process, limits, group, guard == "watching its processes", output)
    try:
        ending = watch.until_end(command.checkpoint, command.standby)
    finally:
        if command.end is not None and process.poll() is None:
            _leave(process, command.end)
        elif command.end is not None and process.returncode < 0:
            command.end()  # the command was killed, and what it ran goes on
        with suppress(ProcessLookupError):
            process.kill()  # its child is the first process of a namespace, and ends with it
        process.wait()
        if process.stdin is not None:
            with suppress(BrokenPipeError):
                process.stdin.close()
        exceeded = group is not None and group.memory_exceeded
        if group is not None:
            group.end()
        listener.join(_LISTEN_S)
    code = process.returncode if process.returncode >= 0 else 128 - process.returncode
    if guard == "the engine" and ending == "ended" and code != 0:
        # Nobody but the kernel ends a container so.
        exceeded = process.returncode == _KILLED or (
            command.memory_exceeded is not None and command.memory_exceeded()
        )
    if ending == "ended" and code != 0 and exceeded:
        ending = "out of memory"
    if output is not None and output.exceeded():  # at its end, or as it was ended
        ending = "wrote too much"
    return Execution(ending, code, watch.seconds, guard, watch.peak, tuple(listener.tail))


def _leave(process: subprocess.Popen[bytes], end: Callable[[], None]) -> None:
    """Have an engine's command end itself, and what it runs or is about to run.

    Killed while it makes a container, Podman leaves one alive that it does not know any more.
    """
    process.terminate()
    give_up = time.monotonic() + _LEAVES_WITHIN_S
    while time.monotonic() < give_up:
        end()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_S)
            break
    end()  # what was made in the meantime


def _listeners(command: Command) -> Sequence[Callable[[str], None]]:
    heard = None if command.standby is None else command.standby.hear
    return [each for each in (heard, command.say) if each is not None]


class _Watch:
    """Looks at a process again and again."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        limits: Limits,
        group: Cgroup | None,
        count: bool,
        output: OutputWatch | None,
    ) -> None:
        self._process = process
        self._limits = limits
        self._group = group
        self._count = count
        self._output = output
        self._counted: int | None = None
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began

    @property
    def peak(self) -> int | None:
        """The most memory in bytes that was seen."""
        return self._counted

    def until_end(self, checkpoint: Callable[[], None] | None, standby: Standby | None) -> Ending:
        if standby is not None and not self._begun(standby):
            return "never begun"
        self._began = time.monotonic()
        limit_s = math.inf if self._limits.time_s is None else self._limits.time_s
        while True:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_LOOK_S)
                self._look()
                return "ended"
            if checkpoint is not None:
                checkpoint()
            if self.seconds > limit_s:
                return "timed out"
            if self._look() and self._count:
                return "out of memory"
            if self._wrote_too_much():
                return "wrote too much"

    def _begun(self, standby: Standby) -> bool:
        """Whether it was let begin, and told so. It is over where it ends, or holds more than it may, before that."""
        state, idle = standby.state, time.monotonic() + standby.idle_s
        while state in ("starting", "ready"):
            state = standby.wait(state, _LOOK_S if state == "starting" else _LOOK_AT_REST_S)
            if self._process.poll() is not None or (self._look() and self._count) or self._wrote_too_much():
                standby.end()
                return False
            unwelcome = time.monotonic() > idle or not standby.has_room(self._process.pid)
            if unwelcome and standby.end_idle():
                return False
        if state == "begun":
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):  # it has ended in this moment, as will be seen
                self._process.stdin.write(f"{BEGIN}\n".encode())
                self._process.stdin.flush()
        return state == "begun"

    def _wrote_too_much(self) -> bool:
        return self._output is not None and self._output.exceeded(self._process.pid)

    def _look(self) -> bool:
        """Whether it holds more than it may."""
        seen = memory_of_tree(self._process.pid) if self._count else self._group and self._group.memory_peak
        if seen:
            self._counted = max(seen, self._counted or 0)
        return bool(seen and seen > self._limits.memory)


class _Listener:
    """Reads what a process says, so that it never waits for somebody to listen, and where no log can be written."""

    def __init__(self, stream: IO[bytes], log: Path, say: Sequence[Callable[[str], None]]) -> None:
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
        with self._stream, self._opened() as log:
            while line := self._stream.readline(_LINE_AT_MOST):
                if written < _LOG_AT_MOST:
                    with suppress(OSError):  # the disk is full
                        written += log.write(line)
                told = line.decode("utf-8", "replace").rstrip()
                self.tail.append(told)
                for say in self._say:
                    say(told)

    def _opened(self) -> FileIO:
        try:
            return self._log.open("ab", buffering=0)
        except OSError:
            return Path(os.devnull).open("ab", buffering=0)
