"""One run of the fault test: traffic and faults at random moments, then quiet, then the count."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

import httpx
from rich.console import Console
from rich.table import Table

from chaos.count import Count, count
from chaos.faults import Fault, NotNow
from chaos.modality import KINDS, Archive, Study, study
from chaos.site import Site
from isocenter.arrivals import Arrivals
from isocenter.job import Job
from isocenter.jobs import Jobs
from isocenter.ledger import Ledger
from isocenter.pacs import Orthanc
from isocenter.settings import OrthancSettings

__all__ = ["Report", "run", "told"]

_PAUSE_S = (0.3, 3.5)  # between the beginnings of two faults
_AT_ONCE = 2  # faults, at most
_SCANNERS = 12  # studies that are being sent at once
_QUIET_WITHIN_S = 240.0
_QUIET_LOOKS = 3  # in a row, a second apart
_ALL_JOBS = 100_000


@dataclass
class Report:
    """What happened, in numbers."""

    seed: int
    database: str
    faults: Counter[str] = field(default_factory=Counter)
    sent: list[Study] = field(default_factory=list)
    refused: int = 0  # sendings that the scanners had to repeat
    jobs: Counter[str] = field(default_factory=Counter)  # by state
    attempts: int = 0
    set_aside: int = 0  # by chance, and retried
    poisonous: int = 0  # set aside for good
    failed: list[str] = field(default_factory=list)  # newest jobs that ended badly for any other reason
    counted: Count = field(default_factory=Count)
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether every study has what it should have, and nothing else ended badly."""
        return self.counted.sound and not self.failed

    def table(self) -> Table:
        table = Table("what", "number", title=f"fault test on {self.database}, seed {self.seed}")
        for name, times in sorted(self.faults.items()):
            table.add_row(f"fault: {name}", str(times))
        counted = self.counted
        for name, value in (
            ("faults", sum(self.faults.values())),
            ("studies", len(self.sent)),
            ("images", counted.images),
            ("sendings that scanners had to repeat", self.refused),
            ("jobs", sum(self.jobs.values())),
            *((f"jobs {state}", number) for state, number in sorted(self.jobs.items())),
            ("attempts", self.attempts),
            ("jobs set aside by chance, then retried", self.set_aside),
            ("poisonous studies set aside for good", self.poisonous),
            ("results in the archive", counted.instances),
            ("current sets of results", counted.current),
            ("superseded sets of results", counted.superseded),
            ("lost", len(counted.lost)),
            ("double", len(counted.double)),
            ("seconds", round(self.seconds)),
        ):
            table.add_row(name, str(value))
        return table


def run(site: Site, kinds: Sequence[Fault], *, faults: int, studies: int, seed: int) -> Report:
    """Send `studies` while `faults` happen, wait for quiet, and count. Raises AssertionError when it stays busy."""
    logging.getLogger("pynetdicom").setLevel(
        logging.CRITICAL
    )  # an archive that is away is what this is about
    started = time.monotonic()
    report = Report(seed, site.settings.database.split(":", 1)[0])
    rng = random.Random(seed)
    sent = [study(KINDS[number % len(KINDS)], number, rng, f"{seed}") for number in range(studies)]
    rng.shuffle(sent)
    traffic = _Traffic(site, sent, rng.randrange(1 << 30))
    traffic.start(over_s=faults * sum(_PAUSE_S) / 2)
    try:
        report.faults = _break(site, kinds, faults, rng)
    finally:
        _mended(site)
    traffic.wait()
    _settle(site, report)
    report.sent, report.refused = sent, traffic.archive.refused
    report.counted = count(f"{site.archive_url}/dicom-web", sent)
    _tell_jobs(site, report)
    report.seconds = time.monotonic() - started
    return report


class _Traffic:
    """Scanners that send their studies, each at its moment."""

    def __init__(self, site: Site, studies: Sequence[Study], seed: int) -> None:
        self.archive = Archive(
            site.archive_url, site.archive_dicom_port, done=lambda uid: _is_done(site, uid)
        )
        self._studies = studies
        self._rng = random.Random(seed)
        self._pool = ThreadPoolExecutor(_SCANNERS)
        self._sending: list[Future[None]] = []

    def start(self, over_s: float) -> None:
        begun = time.monotonic()
        moments = sorted(self._rng.uniform(0, over_s) for _ in self._studies)
        for moment, each in zip(moments, self._studies, strict=True):
            rng = random.Random(self._rng.randrange(1 << 30))
            self._sending.append(self._pool.submit(self._send, each, rng, begun + moment))

    def _send(self, study: Study, rng: random.Random, moment: float) -> None:
        time.sleep(max(0.0, moment - time.monotonic()))
        self.archive.send(study, rng)

    def wait(self) -> None:
        for each in self._sending:
            each.result()
        self._pool.shutdown()


def _is_done(site: Site, study_uid: str) -> bool:
    try:
        jobs = site.api("GET", "/api/jobs?limit=200").json()["jobs"]
    except (httpx.HTTPError, ValueError, KeyError):
        return False
    return any(job["study_uid"] == study_uid and job["state"] == "done" for job in jobs)


def _break(site: Site, kinds: Sequence[Fault], number: int, rng: random.Random) -> Counter[str]:
    """Let so many faults happen, each kind at least once. Gives how many there were of each."""
    plan = list(kinds) + [rng.choice(kinds) for _ in range(number - len(kinds))]
    rng.shuffle(plan)
    happened: Counter[str] = Counter()
    broken: list[BaseException] = []
    touched: set[str] = set()
    changed = threading.Condition()

    def happen(fault: Fault, touches: tuple[str, ...], seed: int) -> None:
        try:
            with _held(site, touches):
                site.note(f"{fault.name}: begins")
                fault.happen(site, random.Random(seed))
                site.note(f"{fault.name}: mended")
            with changed:
                happened[fault.name] += 1
        except NotNow:
            with changed:
                plan.append(fault)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            broken.append(error)
        finally:
            with changed:
                touched.difference_update(touches)
                changed.notify_all()

    running: list[threading.Thread] = []
    while (plan or any(each.is_alive() for each in running)) and not broken:
        time.sleep(rng.uniform(*_PAUSE_S))
        with changed:
            alive = sum(each.is_alive() for each in running)
            free = [each for each in plan if not touched & set(each.touches(site))]
            if alive >= _AT_ONCE or not free:
                changed.wait(1)
                continue
            fault = free[0]
            plan.remove(fault)
            touches = fault.touches(site)
            touched.update(touches)
        thread = threading.Thread(target=happen, args=(fault, touches, rng.randrange(1 << 30)))
        thread.start()
        running.append(thread)
    for each in running:
        each.join()
    if broken:
        raise broken[0]
    return happened


def _held(site: Site, touches: tuple[str, ...]) -> ExitStack:
    """Nobody else starts or ends these parts meanwhile."""
    holding = ExitStack()
    for part in site.parts:
        if part.name in touches:
            holding.enter_context(part.held)
    return holding


def _mended(site: Site) -> None:
    with _held(site, tuple(part.name for part in site.parts)):
        site.mend()


def _settle(site: Site, report: Report) -> None:
    """Wait until nothing more happens by itself. What chance has set aside is asked for again, as a person would."""
    ledger, jobs = Ledger(site.settings.database), Jobs(site.settings)
    try:
        while True:
            _wait_for_quiet(site, ledger, jobs)
            again = [job for job in _newest(ledger, jobs) if _set_aside(job) and job.application != "poison"]
            again += [
                job for job in _newest(ledger, jobs) if job.state == "cancelled" and "by hand" in job.reason
            ]
            if not again:
                return
            report.set_aside += sum(_set_aside(job) for job in again)
            for job in again:
                _retry_by_command(site, job.id)
    finally:
        jobs.close()


def _wait_for_quiet(site: Site, ledger: Ledger, jobs: Jobs) -> None:
    give_up = time.monotonic() + _QUIET_WITHIN_S
    quiet = 0
    while quiet < _QUIET_LOOKS:
        busy = _busy(site, ledger)
        quiet = 0 if busy else quiet + 1
        if busy and time.monotonic() > give_up:
            waiting = [
                f"{job.id[:12]} {job.application} {job.state}: {job.reason}" for job in jobs.list(_ALL_JOBS)
            ]
            tails = [site.journal.read_text(), *(part.tail() for part in site.parts)]
            raise AssertionError(
                "\n".join([f"not quiet after {_QUIET_WITHIN_S:g} s:", *busy, *_not_over(waiting), *tails])
            )
        time.sleep(1)


def _not_over(told: Sequence[str]) -> list[str]:
    return [line for line in told if " queued: " in line or " running: " in line][:20]


def _busy(site: Site, ledger: Ledger) -> list[str]:
    """What still has to happen, in words; nothing when it is quiet."""
    looks: dict[str, Callable[[], int]] = {
        "jobs not over": lambda: len([e for e in ledger.newest(_ALL_JOBS) if e.state is None]),
        "results to be marked": lambda: len(ledger.to_supersede()),
        "results to be taken back": lambda: len(ledger.to_withdraw()),
        "marks to be taken back": lambda: len(ledger.to_restore()),
        "series undecided": lambda: len(Arrivals(site.settings.database).settling()),
        "changes unread": lambda: _unread(site),
    }
    return [f"{number} {what}" for what, look in looks.items() if (number := look())]


def _unread(site: Site) -> int:
    with Orthanc(OrthancSettings(url=site.archive_url)) as orthanc:
        return orthanc.last_change() - (Arrivals(site.settings.database).position() or 0)


def _newest(ledger: Ledger, jobs: Jobs) -> list[Job]:
    """The newest job of each subject."""
    newest: dict[str, str] = {}
    for entry in ledger.newest(_ALL_JOBS):  # newest first
        newest.setdefault(entry.subject, entry.job_id)
    return [job for job in jobs.list(_ALL_JOBS) if job.id in newest.values()]


def _set_aside(job: Job) -> bool:
    return job.state == "failed" and job.reason.startswith("set aside")


def _retry_by_command(site: Site, job_id: str) -> None:
    command = [
        sys.executable,
        "-m",
        "isocenter.cli",
        "jobs",
        "retry",
        job_id,
        "--config",
        str(site.config),
        "--json",
    ]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


def _tell_jobs(site: Site, report: Report) -> None:
    ledger, jobs = Ledger(site.settings.database), Jobs(site.settings)
    try:
        every, newest = jobs.list(_ALL_JOBS), _newest(ledger, jobs)
    finally:
        jobs.close()
    report.jobs = Counter(job.state for job in every)
    report.attempts = sum(job.attempts for job in every)
    report.poisonous = sum(_set_aside(job) for job in newest if job.application == "poison")
    report.failed = [
        f"{job.application} {job.id[:12]} {job.state}: {job.reason}"
        for job in newest
        if job.state != "done" and job.application != "poison"
    ]


def told(report: Report) -> None:
    """Print it, and what is wrong in words."""
    console = Console(width=110)
    console.print(report.table())
    counted = report.counted
    for line in (*counted.lost, *counted.double, *counted.images_missing, *report.failed):
        console.print(line, style="red")
