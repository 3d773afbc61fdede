"""The parts of a service, each a process that can be killed, frozen and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from isocenter.stack.child import end_group

__all__ = ["Part"]

_READY_WITHIN_S = 240.0  # on two cores that do twenty things at once


class Part:
    """One process, with a process group of its own. Whoever holds `held` may use it, nobody else."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        environment: Callable[[], Mapping[str, str]],
        log: Path,
        missing: Callable[[], str | None],
    ) -> None:
        self.name = name
        self.log = log
        self.starts = 0
        self.held = threading.RLock()
        self._argv = tuple(argv)
        self._environment = environment
        self._missing = missing
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        """Start it unless it lives; `wait` waits until it serves."""
        if self.lives:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                env={**os.environ, **self._environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        self.starts += 1

    def wait(self, within_s: float = _READY_WITHIN_S) -> None:
        """Until it serves. One that ends meanwhile, as a worker without its database does, is started again."""
        give_up = time.monotonic() + within_s
        while (missing := self._missing()) is not None or not self.lives:
            assert time.monotonic() < give_up, f"{self.name} does not serve: {missing}\n{self.tail()}"
            if not self.lives:
                self.start()
            time.sleep(0.2)

    def kill(self) -> None:
        """SIGKILL, to all of its group."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            end_group(self._process)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def limit_files(self, most_bytes: int | None) -> None:
        """No file may grow beyond this; None lifts it. What a full disk is where none can be mounted."""
        if self.lives and self.pid is not None:
            hard = psutil.Process(self.pid).rlimit(psutil.RLIMIT_FSIZE)[1]
            psutil.Process(self.pid).rlimit(
                psutil.RLIMIT_FSIZE, (hard if most_bytes is None else most_bytes, hard)
            )

    def tail(self, lines: int = 12) -> str:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join([f"--- {self.log}", *text.splitlines()[-lines:]])

    def _signal(self, number: signal.Signals) -> None:
        if self.lives and self._process is not None:
            self._process.send_signal(number)
