"""One run of the fault test: traffic and faults at random moments, then quiet, then the count."""

from __future__ import annotations

import json
import logging
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from chaos.breaking import break_things, held
from chaos.count import count
from chaos.faults import faults_of
from chaos.report import Report
from chaos.site import Site
from chaos.traffic import Traffic
from isocenter.arrivals import Arrivals
from isocenter.job import Job
from isocenter.jobs import Jobs
from isocenter.ledger import Ledger
from isocenter.notices import Notices
from isocenter.pacs import Orthanc
from isocenter.settings import OrthancSettings

__all__ = ["run"]

_QUIET_WITHIN_S = 240.0
_QUIET_LOOKS = 3  # in a row
_LOOK_S = 0.7
_ALL_JOBS = 100_000


def run(site: Site, *, faults: int, studies: int, seed: int) -> Report:
    """Send `studies` while `faults` happen, wait for quiet, and count. Raises AssertionError when it stays busy."""
    # An archive that is away is what this is about.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    report = Report(seed, site.settings.database.split(":", 1)[0], site.small_disks)
    rng = random.Random(seed)
    traffic = Traffic(site, studies, faults, seed)
    site.another_study = traffic.another
    with _timed(report, "faults"):
        traffic.start()
        try:
            over = traffic.progress.step
            report.faults = break_things(site, faults_of(site), faults, rng, over)
        except BaseException:
            traffic.abandon()
            raise
        finally:
            traffic.progress.finish()
            _mended(site)
    with _timed(report, "until the last image"):
        traffic.wait()
    with _timed(report, "until it was quiet"):
        _settle(site, report)
    report.sent, report.more, report.refused = traffic.sent, traffic.more, traffic.archive.refused
    report.analysed = traffic.archive.analysed
    # A person may have stopped such a job once more; its results were taken back then, not superseded. What is deleted
    # and sent again has the same results as before.
    report.replaced = [
        each for each in report.analysed if each.job_id not in site.asked and each.study.kind != "deleted"
    ]
    with _timed(report, "for the count"):
        replaced = [(each.study.uid, each.application) for each in report.replaced]
        report.counted = count(f"{site.archive_url}/dicom-web", report.sent, replaced)
        _tell_jobs(site, report)
    return report


@contextmanager
def _timed(report: Report, what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    report.seconds[what] = time.monotonic() - started


def _mended(site: Site) -> None:
    with held(site, [part.name for part in site.parts]):
        site.mend()


def _settle(site: Site, report: Report) -> None:
    """Wait until nothing more happens by itself. What chance has set aside is asked for again, as a person would."""
    ledger, jobs = Ledger(site.settings.database), Jobs(site.settings)
    retry = _retry_by_command  # once; a new process for each takes long
    try:
        while True:
            _wait_for_quiet(site, ledger, jobs)
            newest = _newest(ledger, jobs)
            aside = [job for job in newest if _set_aside(job) and job.application != "poison"]
            stopped = [job for job in newest if job.state == "cancelled" and "by hand" in job.reason]
            if not aside and not stopped:
                return
            report.set_aside += len(aside)
            for job in (*aside, *stopped):
                site.asked.add(job.id)
                retry(site, job.id)
                retry = _retry_by_api
    finally:
        jobs.close()


def _wait_for_quiet(site: Site, ledger: Ledger, jobs: Jobs) -> None:
    """A machine may be as slow as it is: the wait is too long when for so long no job has ended."""
    give_up = time.monotonic() + _QUIET_WITHIN_S
    quiet = ended = 0
    while quiet < _QUIET_LOOKS:
        busy = _busy(site, ledger)
        over = sum(entry.state is not None for entry in ledger.newest(_ALL_JOBS))
        if over > ended:
            ended, give_up = over, time.monotonic() + _QUIET_WITHIN_S
        quiet = 0 if busy else quiet + 1
        if busy and time.monotonic() > give_up:
            waiting = [
                f"{job.id[:12]} {job.application} {job.state}: {job.reason}" for job in jobs.list(_ALL_JOBS)
            ]
            tails = [site.journal.read_text(), *(part.tail() for part in site.parts)]
            told = f"not quiet, and no job has ended for {_QUIET_WITHIN_S:g} s:"
            raise AssertionError("\n".join([told, *busy, *_not_over(waiting), *tails]))
        time.sleep(_LOOK_S)


def _not_over(told: Sequence[str]) -> list[str]:
    return [line for line in told if " queued: " in line or " running: " in line][:20]


def _busy(site: Site, ledger: Ledger) -> list[str]:
    """What still has to happen, in words; nothing when it is quiet."""
    looks: dict[str, Callable[[], int]] = {
        "jobs not over": lambda: len([e for e in ledger.newest(_ALL_JOBS) if e.state is None]),
        "results to be marked": lambda: len(ledger.to_supersede()),
        "results to be taken back": lambda: len(ledger.to_withdraw()),
        "notes to be stored or taken back": lambda: len(Notices(site.settings.database).open()),
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
    config = ["--config", str(site.config)]
    command = [sys.executable, "-m", "isocenter.cli", "jobs", *config, "retry", job_id, "--json"]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["id"] == job_id


def _retry_by_api(site: Site, job_id: str) -> None:
    assert site.api("POST", f"/api/jobs/{job_id}/retry").raise_for_status().json()["id"] == job_id


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
