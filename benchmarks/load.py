"""`make load`: a hospital's traffic through the whole service, with a queue that is full all the time.

Studies arrive by C-STORE at 2,000 an hour, at random moments, and go through the real stack (`isocenter up` without
Triton) and a trivial application that writes a Segmentation and a report. Before the clock starts, 5,000 studies of
the lowest priority are stored and routed while the worker is held (SIGSTOP), so that its queue is full when it goes
on. Latency is from the last image stored to the job's end, which follows the results' storing.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
from archive_count import current_results
from chaos.installation import ROUTES, install
from comparison import Comparison, machine, write_results
from ports import free_port
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE, evt
from rich.console import Console
from rich.table import Table

from isocenter.arrivals import Arrivals
from isocenter.ledger import Entry, Ledger
from isocenter.route import PRIORITIES
from isocenter.settings import Settings
from isocenter.stack.up import Stack, stack
from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.testing import Phantom, as_datasets

SHARES = {"STAT": 5, "urgent": 10, "routine": 60, "batch": 25}  # percent
LARGE = 0.02  # of the studies have 300 slices
SMALL_SLICES = (5, 40)
SMALL_SIDE, LARGE_SIDE = 128, 256  # pixels
STAT_P95_S = 5.0
GROWTH_MB = 64.0  # of a process of ours, from the first third of the run to its end
FULL = 0.5  # of the preloaded jobs wait all the time
_LARGE_SLICES = 300
_TRIES = 5  # of one study
_BATCH = 60  # instances of one STOW-RS request
_SAMPLE_S = 5.0
_LAST_WITHIN_S = 300.0  # after the last study
_QUEUED_WITHIN_S = 60.0  # one more of the preloaded studies
_ALL = 1_000_000
_OURS = ("worker", "gateway")  # the archive's memory is its own affair


@dataclass(frozen=True)
class Sent:
    """A study and when its last image was stored, in seconds since 1970."""

    study_uid: str
    priority: str
    slices: int
    stored_at: float


@dataclass
class Samples:
    """What one process used: (seconds since the start of the clock, resident megabytes), and seconds of CPU."""

    memory_mb: list[tuple[float, float]] = field(default_factory=list)
    cpu_s: float = 0.0

    @property
    def slope_mb_per_hour(self) -> float:
        """Of the last two thirds: what is loaded at the beginning is no leak."""
        late = self.memory_mb[len(self.memory_mb) // 3 :]
        if len(late) < 3:
            return float("nan")
        seconds, megabytes = zip(*late, strict=True)
        return float(np.polyfit(seconds, megabytes, 1)[0] * 3600)

    @property
    def growth_mb(self) -> float:
        """From the end of the first third to the end; of each the median of a tenth, as single jobs come and go."""
        megabytes = [value for _, value in self.memory_mb]
        third, tenth = len(megabytes) // 3, max(1, len(megabytes) // 10)
        return float(np.median(megabytes[-tenth:]) - np.median(megabytes[third : third + tenth]))

    @property
    def start_most_end(self) -> tuple[float, float, float]:
        megabytes = [value for _, value in self.memory_mb]
        return megabytes[0], max(megabytes), megabytes[-1]

    @property
    def cpu_percent(self) -> float:
        """Of one core."""
        return 100 * self.cpu_s / self.memory_mb[-1][0]


@dataclass(frozen=True)
class Measured:
    """All that is told. `latencies` by priority, in seconds; `waiting` is how many jobs, every half minute."""

    sent: list[Sent]
    latencies: dict[str, list[float]]
    samples: dict[str, Samples]
    waiting: list[int]
    listing_s: float
    paused: int  # studies that were begun before they were complete

    def wrong(self, preload: int) -> list[str]:
        """Which promises were not kept."""
        p95 = _percentile(self.latencies["STAT"], 95)
        wrong = []
        if not p95 < STAT_P95_S:
            wrong.append(f"STAT p95 is {p95:.1f} s: {STAT_P95_S:g} s were promised")
        if not min(self.waiting) > FULL * preload:
            wrong.append(f"only {min(self.waiting)} jobs waited at the least: the queue was not full")
        for name in _OURS:
            if not self.samples[name].growth_mb < GROWTH_MB:
                grown = self.samples[name].growth_mb
                wrong.append(f"the {name} grew by {grown:.0f} MB: {GROWTH_MB:g} MB are allowed")
        return wrong

    @property
    def large(self) -> int:
        return sum(each.slices == _LARGE_SLICES for each in self.sent)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make load", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--per-hour", type=int, default=2000)
    parser.add_argument(
        "--preload", type=int, default=5000, help="waiting batch jobs before the clock starts"
    )
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    console = Console(width=110)
    with tempfile.TemporaryDirectory(prefix="isocenter-load-") as folder:
        settings = _settings(Path(folder))
        with stack(settings, say=console.print) as running:
            running.supervisor.wait_until_ready()
            return _measure(running, given, console)


def _settings(folder: Path) -> Settings:
    return Settings.model_validate(
        {
            "data_dir": folder / "data",
            "apps_dir": install(folder / "apps"),
            "gateway": {"port": free_port()},
            "orthanc": {"http_port": free_port(), "dicom_port": free_port()},
            "triton": {"url": f"127.0.0.1:{free_port()}"},  # nobody asks it
            "routes": ROUTES[:1],
        }
    )


def _measure(running: Stack, given: argparse.Namespace, console: Console) -> int:
    settings, rng = running.settings, random.Random(given.seed)
    ledger = Ledger(settings.database)
    worker = running.supervisor.pid("worker")
    assert worker is not None
    with _held(worker):
        took_s = _preload(settings, ledger, given.preload)
    console.print(f"{given.preload} batch jobs wait after {took_s:.0f} s; the clock starts")
    with _watched(running, ledger) as (samples, waiting):
        sent = _traffic(settings, rng, given.minutes * 60, given.per_hour)
        ended = _ended(settings, ledger, sent)
    _refuse_missing(settings, sent, ended)
    told = Measured(
        sent, _latencies(sent, ended), samples, waiting, _timed_listing(settings), _paused(ledger, sent)
    )
    _tell(console, told, f"{given.per_hour} studies an hour for {given.minutes:g} min")
    _write(
        told,
        f"STAT p95 at {given.per_hour} studies an hour for {given.minutes:g} min, {waiting[0]} jobs waiting",
    )
    wrong = told.wrong(given.preload)
    for line in wrong:
        console.print(line, style="red")
    return 1 if wrong else 0


@contextmanager
def _held(process: int) -> Iterator[None]:
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def _preload(settings: Settings, ledger: Ledger, number: int) -> float:
    """Store so many small studies of the lowest priority, and wait until the router has queued each."""
    started = time.monotonic()
    with DICOMwebClient(settings.orthanc.dicomweb_url) as archive:
        images: list[Dataset] = []
        for each in range(number):
            images += _study(f"preload/{each}", "batch", slices=3, side=16)
            if len(images) >= _BATCH or each == number - 1:
                archive.store(images)
                images = []
    _wait_until_queued(ledger, number)
    return time.monotonic() - started


def _wait_until_queued(ledger: Ledger, number: int) -> None:
    """For as long as more and more are."""
    most, give_up = 0, time.monotonic() + _QUEUED_WITHIN_S
    while (waiting := _waiting(ledger)) < number:
        if waiting > most:
            most, give_up = waiting, time.monotonic() + _QUEUED_WITHIN_S
        elif time.monotonic() > give_up:
            raise SystemExit(f"{waiting} of {number} jobs wait, and no more for {_QUEUED_WITHIN_S:g} s")
        time.sleep(1)


def _waiting(ledger: Ledger) -> int:
    return len(ledger.newest(_ALL, "queued"))


def _traffic(settings: Settings, rng: random.Random, seconds: float, per_hour: int) -> list[Sent]:
    """Send studies at random moments (exponential gaps), several at once where they overlap."""
    pause_s = 3600 / per_hour
    with ThreadPoolExecutor(8) as pool:
        sending = []
        moment, begun, number = rng.expovariate(1 / pause_s), time.monotonic(), 0
        while moment < seconds:
            priority = rng.choices(list(SHARES), list(SHARES.values()))[0]
            large = rng.random() < LARGE
            slices = _LARGE_SLICES if large else rng.randint(*SMALL_SLICES)
            images = _study(f"load/{number}", priority, slices, LARGE_SIDE if large else SMALL_SIDE)
            time.sleep(max(0.0, begun + moment - time.monotonic()))
            sending.append(pool.submit(_send, settings, images, priority))
            moment += rng.expovariate(1 / pause_s)
            number += 1
        return [each.result() for each in sending]


def _study(key: str, priority: str, slices: int, side: int) -> list[Dataset]:
    """A ball in air; each slice shows some of both."""
    z, y, x = np.ogrid[:slices, :side, :side]
    middle = side / 2
    ball = (x - middle) ** 2 + (y - middle) ** 2 + (z - slices / 2) ** 2 / slices < (side / 3) ** 2
    hu = np.where(ball, 40, -1000).astype(np.int16)
    images = as_datasets(Phantom(hu, np.diag([1.0, 1.0, 1.5, 1.0]), "CHEST", digest=key))
    for image in images:
        image.PatientID = f"LOAD-{key}"
        image.StudyDescription = f"{priority} study"
    return images


def _send(settings: Settings, images: Sequence[Dataset], priority: str) -> Sent:
    """C-STORE, as a scanner does it: what the archive did not acknowledge is sent again, on a new association."""
    left = list(images)
    for _ in range(_TRIES):
        entity = AE(ae_title="SCANNER")
        entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        association = entity.associate(
            "127.0.0.1", settings.orthanc.dicom_port, evt_handlers=[(evt.EVT_CONN_OPEN, _without_delay)]
        )
        while left and association.is_established:
            if association.send_c_store(left[0]).get("Status") != 0:
                association.abort()
                break
            left.pop(0)
        stored_at = time.time()
        if not left:
            association.release()
            return Sent(str(images[0].StudyInstanceUID), priority, len(images), stored_at)
    raise SystemExit(f"the archive did not take {len(left)} of {len(images)} images in {_TRIES} tries")


def _without_delay(event: evt.Event) -> None:
    """The end of each image would wait for an acknowledgement of its beginning, which the archive delays."""
    connection = event.assoc.dul.socket.socket
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@contextmanager
def _watched(running: Stack, ledger: Ledger) -> Iterator[tuple[dict[str, Samples], list[int]]]:
    """Look at each process every few seconds, and at how many jobs wait every half minute."""
    names = ("orthanc", "worker", "gateway")
    processes = {name: psutil.Process(running.supervisor.pid(name)) for name in names}
    samples = {name: Samples() for name in names}
    waiting = [_waiting(ledger)]
    begun, stop = time.monotonic(), threading.Event()
    before = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}

    def work() -> None:
        looks = 0
        while not stop.wait(_SAMPLE_S):
            looks += 1
            for name, process in processes.items():
                samples[name].memory_mb.append((time.monotonic() - begun, process.memory_info().rss / 1e6))
            if looks % 6 == 0:
                waiting.append(_waiting(ledger))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield samples, waiting
    finally:
        stop.set()
        thread.join()
        for name, process in processes.items():
            samples[name].cpu_s = sum(process.cpu_times()[:2]) - before[name]


def _ended(settings: Settings, ledger: Ledger, sent: Sequence[Sent]) -> dict[str, Entry]:
    """The newest job of each of these studies, where it has ended; once those of all but the lowest priority have, and
    each of those that have the lowest has a job, be it one that waits.

    A scanner that pauses for longer than the settle time gets a job for what it had sent, and another one for all.
    """
    urgent = {each.study_uid for each in sent if each.priority != "batch"}
    studies = {each.study_uid for each in sent}
    arrivals = Arrivals(settings.database)
    give_up = time.monotonic() + _LAST_WITHIN_S
    while True:
        arriving = studies & {each.study_uid for each in arrivals.settling()}
        newest: dict[str, Entry] = {}
        for each in ledger.newest(_ALL):
            if each.study_uid in studies:
                newest.setdefault(each.study_uid, each)
        over = {uid: each for uid, each in newest.items() if each.state is not None and uid not in arriving}
        if urgent <= over.keys() and studies <= newest.keys() - arriving and not ledger.to_supersede():
            return over
        if time.monotonic() > give_up:
            raise SystemExit(
                f"{_LAST_WITHIN_S:g} s after the last study was sent, {len(urgent - over.keys())} have no ended job, "
                f"and {len(studies - newest.keys())} have no job at all"
            )
        time.sleep(1)


def _paused(ledger: Ledger, sent: Sequence[Sent]) -> int:
    return sum(len(ledger.of_study(each.study_uid)) > 1 for each in sent)


def _latencies(sent: Sequence[Sent], ended: dict[str, Entry]) -> dict[str, list[float]]:
    latencies: dict[str, list[float]] = defaultdict(list)
    for each in sent:
        entry = ended.get(each.study_uid)
        if entry is not None and entry.ended is not None:
            if entry.state != "done":
                raise SystemExit(f"job {entry.job_id[:12]} is {entry.state}")
            latencies[each.priority].append(entry.ended - each.stored_at)
    return latencies


def _refuse_missing(settings: Settings, sent: Sequence[Sent], ended: dict[str, Entry]) -> None:
    """Each study whose job has ended has one Segmentation and one report that count, in the archive itself."""
    for each in sent:
        if each.study_uid in ended:
            results = current_results(settings.orthanc.dicomweb_url, each.study_uid)
            found = [series.modality for series in results]
            if found != ["SEG", "SR"]:
                raise SystemExit(f"study {each.study_uid} has current results {found}")


def _timed_listing(settings: Settings) -> float:
    started = time.monotonic()
    httpx.get(f"{settings.gateway.url}/api/jobs?limit=100", timeout=60, trust_env=False).raise_for_status()
    return time.monotonic() - started


def _percentile(values: Sequence[float], percent: int) -> float:
    return float(np.percentile(values, percent)) if values else float("nan")


def _tell(console: Console, told: Measured, traffic: str) -> None:
    table = Table("priority", "studies", "done", "p50", "p95", "p99", "longest")
    table.title = f"last image to results, s, at {traffic}"
    for priority in PRIORITIES:
        values = told.latencies[priority]
        shown = [f"{_percentile(values, each):.2f}" for each in (50, 95, 99, 100)]
        number = sum(each.priority == priority for each in told.sent)
        table.add_row(priority, str(number), str(len(values)), *shown)
    console.print(table)
    console.print("(batch jobs wait behind the preloaded ones, oldest first)")
    console.print(f"{sum(each.slices for each in told.sent)} images, {told.large} studies of 300 slices")
    console.print(f"{told.paused} studies paused on their way, so were analysed twice")
    console.print(f"jobs waiting: {told.waiting[0]} at the start, {min(told.waiting)} at the least")
    console.print(f"listing the newest 100 jobs takes {told.listing_s:.2f} s")
    table = Table(
        "process", "MB at the start", "most", "at the end", "grown", "slope, MB/h", "CPU, % of one core"
    )
    table.title = "memory; grown: from the first third of the run to its end"
    for name, each in told.samples.items():
        numbers = (*each.start_most_end, each.growth_mb, each.slope_mb_per_hour, each.cpu_percent)
        table.add_row(name, *(f"{number:.0f}" for number in numbers))
    console.print(table)


def _write(told: Measured, against: str) -> None:
    latency_s: dict[str, dict[str, float]] = {}
    for priority in PRIORITIES:
        values = told.latencies[priority]
        if values:
            latency_s[priority] = {f"p{each}": round(_percentile(values, each), 2) for each in (50, 95, 99)}
    memory_mb = {
        name: dict(zip(("start", "most", "end"), map(round, each.start_most_end), strict=True))
        | {"grown": round(each.growth_mb), "slope_per_hour": round(each.slope_mb_per_hour)}
        for name, each in told.samples.items()
    }
    stat = Comparison("load", _percentile(told.latencies["STAT"], 95), None, "s", against, machine())
    write_results({"load": {**stat.as_json(), "latency_s": latency_s, "memory_mb": memory_mb}})


if __name__ == "__main__":
    sys.exit(main())
