"""Studies per hour through the whole service with 1, 2 and 4 workers, and its memory over 300 studies.

    PYTHONPATH=tests python benchmarks/throughput.py [--studies 100] [--long 300]

The real stack: Orthanc, Triton, PostgreSQL, `ct_lung_density`. Phantoms of 80 slices wait in the queue while the
workers are held (SIGSTOP); the clock runs from their release to the last result. All workers share one instance
of the model on Triton, and the cores of the machine.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import sqlalchemy as sa
from comparison import Comparison, machine, write_results
from postgres import Server, running_postgres
from pydicom.dataset import Dataset
from rich.console import Console
from series import embedded_settings

from isocenter.database import engine
from isocenter.ledger import Ledger
from isocenter.settings import Settings
from isocenter.stack.up import Stack, stack
from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.testing import Phantom, as_datasets, thorax_phantom

WORKERS = (1, 2, 4)
SIZE, SPACING_MM = (128, 128, 80), (2.8, 2.8, 3.9)
GROWTH_PERCENT, LEAST_FOR_GROWTH = 5.0, 300
_QUEUED_WITHIN_S, _ENDED_WITHIN_S = 600.0, 3600.0
_ALL = 1_000_000


@dataclass(frozen=True)
class Run:
    """`memory_mb`: of each process of ours, after each study that ended, resident."""

    studies: int
    seconds: float
    memory_mb: Mapping[str, Sequence[float]]

    @property
    def per_hour(self) -> float:
        return self.studies / self.seconds * 3600

    @property
    def growth_percent(self) -> dict[str, float]:
        """From the end of the first third to the end; of each the median of a tenth, as single jobs come and go."""
        return {name: _growth_percent(values) for name, values in self.memory_mb.items()}


def _growth_percent(values: Sequence[float]) -> float:
    third, tenth = len(values) // 3, max(1, len(values) // 10)
    before = float(np.median(values[third : third + tenth]))
    return 100 * (float(np.median(values[-tenth:])) - before) / before


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=100, help="with 2 and 4 workers")
    parser.add_argument("--long", type=int, default=300, help="with 1 worker, whose memory is watched")
    given = parser.parse_args()
    console = Console()
    phantom = thorax_phantom(size=SIZE, spacing_mm=SPACING_MM)
    runs: dict[int, Run] = {}
    with running_postgres() as server:
        for workers in WORKERS:
            studies = given.long if workers == 1 else given.studies
            runs[workers] = _run(server, phantom, workers, studies, console)
            console.print(
                f"{workers} workers: {runs[workers].per_hour:.0f} studies an hour ({studies} studies)"
            )
            _write(runs)  # what took an hour is not lost where the next does not come to its end
    if runs[1].studies < LEAST_FOR_GROWTH:
        console.print(f"memory is told of {LEAST_FOR_GROWTH} studies and more")
        return 0
    growth = runs[1].growth_percent
    console.print("memory, from the first third to the end: " + _told(growth))
    return 0 if max(growth.values()) < GROWTH_PERCENT else 1


def _run(server: Server, phantom: Phantom, workers: int, studies: int, console: Console) -> Run:
    with embedded_settings() as embedded, tempfile.TemporaryDirectory() as folder:
        settings = _settings(embedded, server, Path(folder), workers)
        with stack(settings, say=lambda text: console.print(text, style="dim")) as running:
            running.supervisor.wait_until_ready()
            with _held(running):
                _store(running.settings, phantom, studies)
                _wait_until_queued(running.settings, studies)
            return _drained(running, studies)


def _settings(embedded: Settings, server: Server, folder: Path, workers: int) -> Settings:
    told = embedded.model_dump(exclude={"file"})
    told |= {
        "data_dir": folder,
        "database_url": server.new_database(),
        "worker": {"processes": workers},
        "routing": {"settle_s": 1.0},
        "limits": {"free_disk_mb": 0},
        "routes": [{"name": "all", "application": "ct_lung_density", "when": {"Modality": "^CT$"}}],
    }
    return Settings.model_validate(told)


@contextmanager
def _held(running: Stack) -> Iterator[None]:
    processes = [pid for name, pid in _pids(running).items() if name.startswith("worker")]
    _signal(processes, signal.SIGSTOP)
    while _in_a_transaction(running.settings):  # what a held worker has locked, nobody else gets
        _signal(processes, signal.SIGCONT)
        time.sleep(0.5)
        _signal(processes, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(processes, signal.SIGCONT)


def _signal(processes: Sequence[int], number: signal.Signals) -> None:
    for process in processes:
        os.kill(process, number)


def _in_a_transaction(settings: Settings) -> bool:
    """One of ours; the queue's own are bounded by it."""
    time.sleep(0.5)  # others, which go on, end theirs
    query = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%' "
        "AND application_name NOT LIKE 'dbos%'"
    )
    with engine(settings.database).connect() as connection:
        return bool(connection.execute(query).scalar())


def _pids(running: Stack) -> dict[str, int]:
    processes = running.settings.worker.processes
    workers = ["worker"] if processes == 1 else [f"worker-{number}" for number in range(1, processes + 1)]
    found = {name: running.supervisor.pid(name) for name in (*workers, "gateway", "triton")}
    return {name: pid for name, pid in found.items() if pid is not None}


def _store(settings: Settings, phantom: Phantom, studies: int) -> None:
    with DICOMwebClient(settings.orthanc.dicomweb_url) as archive:
        for number in range(studies):
            archive.store(_study(phantom, number))


def _study(phantom: Phantom, number: int) -> list[Dataset]:
    images = as_datasets(
        Phantom(phantom.hu, phantom.affine, phantom.body_part, digest=f"throughput/{number}")
    )
    for image in images:
        image.PatientID = f"THROUGHPUT-{number}"
    return images


def _wait_until_queued(settings: Settings, studies: int) -> None:
    ledger, give_up = Ledger(settings.database), time.monotonic() + _QUEUED_WITHIN_S
    while (waiting := len(ledger.newest(_ALL, "queued"))) < studies:
        if time.monotonic() > give_up:
            raise SystemExit(f"{waiting} of {studies} jobs wait after {_QUEUED_WITHIN_S:g} s")
        time.sleep(0.5)


def _drained(running: Stack, studies: int) -> Run:
    ledger, started = Ledger(running.settings.database), time.monotonic()
    memory_mb: dict[str, list[float]] = {}
    counted = 0
    while counted < studies:
        ended = [each for each in ledger.newest(_ALL) if each.state is not None]
        failed = [each for each in ended if each.state != "done"]
        if failed:
            raise SystemExit(f"job {failed[0].job_id[:12]} is {failed[0].state}")
        if len(ended) > counted:
            counted = len(ended)
            for name, megabytes in _resident_mb(running).items():
                memory_mb.setdefault(name, []).append(megabytes)
        elif time.monotonic() - started > _ENDED_WITHIN_S:
            raise SystemExit(f"{counted} of {studies} jobs have ended after {_ENDED_WITHIN_S:g} s")
        time.sleep(0.2)
    return Run(studies, time.monotonic() - started, memory_mb)


def _resident_mb(running: Stack) -> dict[str, float]:
    """Of the workers together, of the gateway, of Triton with its models' processes."""
    found: dict[str, float] = {}
    for name, pid in _pids(running).items():
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        kind = "workers" if name.startswith("worker") else name
        found[kind] = found.get(kind, 0.0) + sum(each.memory_info().rss for each in family) / 1e6
    return found


def _told(growth: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {percent:+.1f} %" for name, percent in growth.items())


def _write(runs: Mapping[int, Run]) -> None:
    results = {}
    for workers, run in runs.items():
        of_one = None if workers == 1 else runs[1].seconds / runs[1].studies
        seconds = run.seconds / run.studies
        name = f"a study, {workers} worker{'s' if workers > 1 else ''}"
        comparison = Comparison(name, seconds, of_one, "s", "1 worker" if of_one else "", machine())
        results[name] = comparison.as_json() | {
            "studies": run.studies,
            "per_hour": round(run.per_hour),
            # Of fewer studies it says nothing: what is loaded for the first is still coming in.
            "memory_growth_percent": {kind: round(value, 1) for kind, value in run.growth_percent.items()}
            if run.studies >= LEAST_FOR_GROWTH
            else None,
        }
    write_results(results)


if __name__ == "__main__":
    sys.exit(main())
