"""Runs child processes: starts them, waits until they serve, starts again what dies, and stops them all.

A child has a process group of its own, so that Ctrl-C reaches it through the supervisor only, and is told by the
kernel when the supervisor is gone, however that ended: nothing is left behind.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

from isocenter.stack.child import Child, end_group
from isocenter_operators.errors import ConfigurationError, Unavailable

__all__ = ["Supervisor"]

_TICK_S = 0.1
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_SETTLED_S = 60.0  # a child that lived this long is started again at once
_LOOK_EVERY_S = 5.0  # at a child that serves
_LOG_LINES = 8
_LOG_BYTES = 20_000_000
_PR_SET_PDEATHSIG = 1

# Looked up here: between fork and exec is no place for it.
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None


@dataclass
class _Run:
    """One child as it stands."""

    child: Child
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_again_at: float = 0.0
    look_again_at: float = 0.0
    failed_looks: int = 0  # in a row, of a child that had served
    pause_s: float = _FIRST_PAUSE_S
    ready: bool = False
    missing: str = "it was not started yet"


class Supervisor:
    """Watches `children` from a thread of its own; `say` is told, in one sentence each, what happens to them.

        with Supervisor(children, environment=os.environ, say=print) as stack:
            stack.wait_until_ready()
            ...

    The children start together, in the order given, and stop one after the other in reverse order.
    """

    def __init__(
        self, children: Sequence[Child], *, environment: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        self._runs = [_Run(child) for child in children]
        self._environment = dict(environment)
        self._say = say
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._failure: Exception | None = None
        # The kernel's signal is bound to the thread that started a child: so one thread does it all.
        self._thread = threading.Thread(target=self._work, name="supervisor", daemon=True)

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop every child. Returns when none is left."""
        self._stop.set()
        self._thread.join()

    @property
    def failure(self) -> Exception | None:
        """Why the supervisor gave up, if it did."""
        return self._failure

    def wait_until_ready(self, stop: threading.Event | None = None) -> bool:
        """Wait for the first time that all serve; False when `stop` was set before that.

        Raises Unavailable, naming the child, what it lacks and the last lines of its log.
        """
        with self._changed:
            while not all(run.ready for run in self._runs):
                if self._failure is not None:
                    raise self._failure
                if stop is not None and stop.is_set():
                    return False
                self._changed.wait(_TICK_S)
        return True

    def pid(self, name: str) -> int | None:
        """The process number of a child that runs."""
        for run in self._runs:
            if run.child.name == name and run.process is not None:
                return run.process.pid
        return None

    def _work(self) -> None:
        try:
            for run in self._runs:
                self._launch(run)
            self._until_ready()
            while not self._stop.wait(_TICK_S):
                for run in self._runs:
                    self._look_after(run)
        except Exception as error:  # noqa: BLE001 - handed to whoever waits for the stack
            self._failure = error
        finally:
            self._stop_all()
            with self._changed:
                self._changed.notify_all()

    def _until_ready(self) -> None:
        while not self._stop.is_set() and not all(run.ready for run in self._runs):
            for run in self._runs:
                if not run.ready:
                    self._look_at_start(run)
            self._stop.wait(_TICK_S)

    def _look_at_start(self, run: _Run) -> None:
        """A child that does not get ready at the first start is a fault, not something to try for ever."""
        code = run.process.poll() if run.process else None
        if code is not None:
            raise Unavailable(f"{run.child.name} ended while starting ({_ended(code)}){_log_tail(run.child)}")
        self._ask(run)
        if not run.ready and time.monotonic() - run.started_at > run.child.ready_within_s:
            raise Unavailable(
                f"{run.child.name} did not get ready within {run.child.ready_within_s:g} s: {run.missing}"
                f"{_log_tail(run.child)}"
            )

    def _look_after(self, run: _Run) -> None:
        now = time.monotonic()
        if run.process is None:
            if now >= run.start_again_at:
                self._launch_again(run)
            return
        code = run.process.poll()
        if code is not None:
            end_group(run.process)
            self._start_later(run, f"ended ({_ended(code)})")
        elif not run.ready:
            self._ask(run)
            if run.ready:
                self._say(f"{run.child.name} is back")
            elif now - run.started_at > run.child.ready_within_s:
                self._stop_one(run)
                self._start_later(run, f"did not get ready: {run.missing}")
        elif now >= run.look_again_at:
            self._look_at_service(run)

    def _look_at_service(self, run: _Run) -> None:
        """A child that hangs does not end by itself. One look may fail on a busy machine, many in a row do not."""
        run.look_again_at = time.monotonic() + _LOOK_EVERY_S
        missing = run.child.ready()
        run.failed_looks = run.failed_looks + 1 if missing else 0
        if missing and run.failed_looks >= run.child.looks_before_restart:
            self._stop_one(run)
            self._start_later(run, f"does not serve any more: {missing}")

    def _start_later(self, run: _Run, why: str) -> None:
        now = time.monotonic()
        if now - run.started_at > _SETTLED_S:
            run.pause_s = _FIRST_PAUSE_S
        self._say(
            f"{run.child.name} {why}; starting it again in {run.pause_s:g} s, its log is {run.child.log}"
        )
        run.process, run.ready, run.failed_looks = None, False, 0
        run.start_again_at = now + run.pause_s
        run.pause_s = min(run.pause_s * 2, _LONGEST_PAUSE_S)

    def _launch_again(self, run: _Run) -> None:
        try:
            run.child = run.child.anew() if run.child.anew is not None else run.child
        except ConfigurationError as error:
            self._say(f"{run.child.name} is started as it was before: {error}")
        try:
            self._launch(run)
        except OSError as error:  # no room for its log, no memory for another process
            self._start_later(run, f"can not be started: {error.strerror}")

    def _ask(self, run: _Run) -> None:
        missing = run.child.ready()
        run.missing = missing or ""
        if missing is None:
            run.ready = True
            run.look_again_at = time.monotonic() + _LOOK_EVERY_S
            with self._changed:
                self._changed.notify_all()

    def _launch(self, run: _Run) -> None:
        child = run.child
        child.log.parent.mkdir(parents=True, exist_ok=True)
        if child.log.exists() and child.log.stat().st_size > _LOG_BYTES:
            child.log.replace(child.log.with_suffix(".log.1"))
        with child.log.open("ab") as log:
            run.process = subprocess.Popen(
                child.argv,
                env={**self._environment, **child.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
                umask=0o077,  # images, logs and the database are nobody else's business
                preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 - one call into the C library, nothing else
            )
        run.started_at = time.monotonic()

    def _stop_all(self) -> None:
        for run in reversed(self._runs):
            self._stop_one(run)

    def _stop_one(self, run: _Run) -> None:
        if run.process is None:
            return
        if run.process.poll() is None:
            run.process.send_signal(run.child.stop_signal)
            try:
                run.process.wait(run.child.stop_within_s)
            except subprocess.TimeoutExpired:
                self._say(f"{run.child.name} did not stop within {run.child.stop_within_s:g} s; killed")
                run.process.kill()
                run.process.wait()
        end_group(run.process)
        run.process = None


def _die_with(parent: int) -> Callable[[], None] | None:
    """What a child does before it becomes its program: ask for SIGTERM when the supervisor is gone."""
    prctl = _PRCTL
    if prctl is None:
        return None

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)  # it went away in between

    return ask


def _ended(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _log_tail(child: Child) -> str:
    try:
        lines = child.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    except OSError:
        lines = []
    if not lines:
        return f"; its log {child.log} is empty"
    return f"; the last lines of {child.log}:\n  " + "\n  ".join(lines)
