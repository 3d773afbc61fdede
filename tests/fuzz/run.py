"""Drives workers through cases and notes how each ends: in order, or in a way that must not be."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.mutations import Case
from fuzz.originals import PATIENT

__all__ = ["DECODER_LIMIT_MB", "GROWTH_MB", "LIMIT_MB", "Ending", "Report", "Worker", "run"]

_ARCHIVE = ("refused by the archive", "ended the archive")  # the worker never sees these
LIMIT_MB = 1500  # of a worker; most of its 0.4 GB at rest are its libraries
GROWTH_MB = 250  # of a worker from its first case to its last: nothing of a case may stay with it
DECODER_LIMIT_MB = 1024 + 128  # what decoder.py allows for a frame of these sizes, and the program itself
GOOD = ("processed", "not applicable", "refused", "out of memory", "surprise", *_ARCHIVE)
_PATIENCE_S = 180.0
_PARTS = [part for name in ("PatientName", "ReferringPhysicianName") for part in PATIENT[name].split("^")]
_SECRETS = [*PATIENT.values(), *_PARTS]


@dataclass(frozen=True)
class Ending:
    """How one case ended."""

    case: Case
    outcome: str
    reason: str
    peak_mb: int

    @property
    def wrong(self) -> str:
        """What must not be, or nothing."""
        if self.outcome not in GOOD:
            return self.outcome
        if self.outcome != "processed" and not self.reason:
            return "no reason"
        if any(secret.lower() in self.reason.lower() for secret in _SECRETS):
            return "the reason quotes the patient"
        if self.peak_mb > LIMIT_MB:
            return f"{self.peak_mb} MB, of {LIMIT_MB}"
        return ""


@dataclass
class Report:
    """All endings."""

    endings: list[Ending] = field(default_factory=list)
    decoders_peak_mb: int = 0
    grown_mb: int = 0  # of any worker, from its first case to its last

    @property
    def wrong(self) -> list[str]:
        """What must not be, in words."""
        wrong = [f"{each.case}: {each.wrong}; {each.reason}" for each in self.endings if each.wrong]
        if self.grown_mb > GROWTH_MB:
            wrong.append(f"a worker grew by {self.grown_mb} MB; {GROWTH_MB} MB are allowed")
        if self.decoders_peak_mb > DECODER_LIMIT_MB:
            wrong.append(f"a decoder took {self.decoders_peak_mb} MB of {DECODER_LIMIT_MB}")
        return wrong

    @property
    def counts(self) -> Counter[str]:
        return Counter(each.outcome for each in self.endings)

    def table(self) -> str:
        """Counts by mutation and outcome."""
        outcomes = sorted(self.counts)
        rows = {each.case.mutation: Counter[str]() for each in self.endings}
        for each in self.endings:
            rows[each.case.mutation][each.outcome] += 1
        lines = [f"{'':45}" + "".join(f"{outcome:>16}" for outcome in outcomes)]
        for name, counts in [*sorted(rows.items()), ("all", self.counts)]:
            lines.append(f"{name:45}" + "".join(f"{counts[outcome]:16}" for outcome in outcomes))
        peak = max((each.peak_mb for each in self.endings), default=0)
        lines.append(
            f"{len(self.endings)} cases, {len(self.wrong)} things wrong: a worker took {peak} MB of {LIMIT_MB}, "
            f"grew by {self.grown_mb} MB of {GROWTH_MB}; a decoder took {self.decoders_peak_mb} MB "
            f"of {DECODER_LIMIT_MB}"
        )
        return "\n".join(lines)


class Worker:
    """One process that is given tasks."""

    def __init__(self, log: Path, limit_mb: int = LIMIT_MB) -> None:
        reading, writing = os.pipe()
        folders = [str(Path(__file__).parents[1]), *filter(None, sys.path)]
        with log.open("ab") as opened:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "fuzz.worker", str(limit_mb), str(writing)],
                stdin=subprocess.PIPE,
                stdout=opened,
                stderr=opened,
                pass_fds=(writing,),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
            )
        os.close(writing)
        self._answers = os.fdopen(reading, "rb", buffering=0)
        self._left = b""
        self.said = self._line()
        self.first_mb = self.last_mb = 0

    def ask(self, task: dict[str, Any]) -> dict[str, Any]:
        """How the task ended; "died" or "timed out" when the worker did."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(task).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return self._died()
        answer = self._line()
        self.last_mb = int(answer.get("rss_mb", 0))
        self.first_mb = self.first_mb or self.last_mb
        return answer

    def end(self) -> int:
        """End the worker; what its decoders took at most, in MB."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        last = self._line() if self._process.poll() is None else {}
        self._process.wait()
        self._answers.close()
        return int(last.get("decoders_peak_mb", 0))

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def _line(self) -> dict[str, Any]:
        while b"\n" not in self._left:
            if not select.select([self._answers], [], [], _PATIENCE_S)[0]:
                self._process.kill()
                self._process.wait()
                return {"outcome": "timed out", "reason": f"no answer in {_PATIENCE_S:.0f} s"}
            part = self._answers.read(65536)
            if not part:
                return self._died()
            self._left += part
        line, _, self._left = self._left.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _died(self) -> dict[str, Any]:
        return {"outcome": "died", "reason": f"the worker ended with code {self._process.wait()}"}


def run(
    cases: Iterable[Case], *, workers: int, log: Path, told: Callable[[Ending], None] = lambda _: None
) -> Report:
    """Each case in one of so many workers; one that dies is noted, and replaced."""
    report, lock, left = Report(), threading.Lock(), iter(cases)

    def work() -> None:
        worker = Worker(log)
        grown, peak = 0, 0
        with tempfile.TemporaryDirectory(prefix="isocenter-fuzz-", dir=_memory()) as folder:
            while (case := _next(left, lock)) is not None:
                answer = worker.ask(_task(case, Path(folder)))
                ending = Ending(case, answer["outcome"], answer["reason"], int(answer.get("peak_mb", 0)))
                with lock:
                    report.endings.append(ending)
                    told(ending)
                if not worker.alive or answer["outcome"] in ("died", "timed out"):
                    worker.end()
                    worker = Worker(log)
            grown = worker.last_mb - worker.first_mb
            peak = worker.end()
        with lock:
            report.decoders_peak_mb = max(report.decoders_peak_mb, peak)
            report.grown_mb = max(report.grown_mb, grown)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report.endings.sort(key=lambda each: each.case.number)
    return report


def _next(cases: Iterator[Case], lock: threading.Lock) -> Case | None:
    with lock:
        return next(cases, None)


def _task(case: Case, folder: Path) -> dict[str, str]:
    for old in ("in", "out"):
        shutil.rmtree(folder / old, ignore_errors=True)
        (folder / old).mkdir()
    write(case.files, folder / "in")
    return {"folder": str(folder / "in"), "sink": str(folder / "out")}


def write(files: Sequence[bytes], folder: Path) -> None:
    for index, content in enumerate(files):
        (folder / f"{index}.dcm").write_bytes(content)


def _memory() -> str | None:
    """Where files cost no disk, on Linux."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
