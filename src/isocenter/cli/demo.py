"""`isocenter demo`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import click

from isocenter.cli import options
from isocenter.cli.jobs import lines_of
from isocenter.cli.output import counted, print_lines, say, table
from isocenter.cli.up import stop_on_signals

if TYPE_CHECKING:
    from isocenter.arrivals import Arrival, Arrivals
    from isocenter.cli.sending import Sent
    from isocenter.job import Job
    from isocenter.settings import Settings

__all__ = ["command"]

_Seen = TypeVar("_Seen")

_LOOK_S = 0.2
_SETTLE_S = 1.0  # the demo sends the whole study at once: there is nothing to wait for


@click.command()
@click.option("--study", type=options.existing_path, help="Your DICOM files instead of the phantom.")
@click.option("--once", is_flag=True, help="Stop after the results; 0 only if they are in the archive.")
@options.config
def command(study: Path | None, once: bool, config: Path | None) -> int:
    """Start everything, send a study, and show what was found and where to look at it."""
    from isocenter.settings import Settings
    from isocenter.stack.up import addresses, stack, wait

    began = time.monotonic()
    settings = _soon(Settings.load(config))
    if study is not None:
        from isocenter.cli.sending import files_below

        files_below(study)  # refused before anything is started for nothing
    stop = stop_on_signals()
    with ThreadPoolExecutor(1) as beside, stack(settings, move_ports=True, say=say) as started:
        images = beside.submit(_images, study, settings)
        if not started.supervisor.wait_until_ready(stop):
            return 130
        say(f"everything is ready after {time.monotonic() - began:.1f} s")
        found = _show(images.result(), started.settings, stop)
        if not once and not stop.is_set():
            print_lines(["", *_where_to_look(found.studies, started.settings), ""])
            print_lines(table(["what", "where"], addresses(started.settings).items())[1:])
            say("Ctrl-C stops everything")
            wait(started.supervisor, stop)
        say("stopping")
    return 0 if not once or (found.studies and found.none_failed) else 1


def _soon(settings: Settings) -> Settings:
    routing = settings.routing.model_copy(update={"settle_s": min(settings.routing.settle_s, _SETTLE_S)})
    return settings.model_copy(update={"routing": routing})


def _images(study: Path | None, settings: Settings) -> Path:
    """The study's folder; without one, a phantom is made once and kept."""
    if study is not None:
        return study
    from isocenter_operators.testing import thorax_phantom, write_series

    folder = settings.data_dir / "demo" / "phantom"
    if not folder.exists():
        unfinished = folder.with_suffix(".part")
        unfinished.mkdir(parents=True, exist_ok=True)
        write_series(thorax_phantom(), unfinished)
        unfinished.rename(folder)
    return folder


def _where_to_look(studies: Sequence[str], settings: Settings) -> list[str]:
    return [f"look at it: {settings.gateway.url}/viewer?StudyInstanceUIDs={uid}" for uid in studies]


class _Found(NamedTuple):
    """The studies with results, none when one of the results is not in the archive; whether no job failed."""

    studies: list[str]
    none_failed: bool


def _show(images: Path, settings: Settings, stop: threading.Event) -> _Found:
    """Send, wait, and tell."""
    from isocenter.cli.sending import send

    began = datetime.now(UTC)
    sent = send(images, settings)
    for file, reason in sent.skipped.items():
        say(f"not sent: {file}: {reason}")
    say(f"{counted(sent.count, 'image')} sent to {sent.where}")
    jobs = _jobs(sent, settings, stop)
    for job in jobs:
        print_lines(["", *lines_of(job)])
        if job.over and job.created < began and (job.ended or began) < began:
            print_lines(
                ["", "these images were here before: this is the answer of then, nothing was computed again"]
            )
    done = [job for job in jobs if job.state == "done" and job.results]
    missing = [uid for job in done for uid in _not_there(job, settings)]
    for uid in missing:
        say(f"the archive does not know the result {uid}")
    return _Found(
        [] if missing else sorted({job.study_uid for job in done}),
        none_failed=all(job.state in {"done", "not_applicable"} for job in jobs),
    )


def _jobs(sent: Sent, settings: Settings, stop: threading.Event) -> list[Job]:
    """The jobs for what was sent, once they are over. One that failed in an earlier demo is tried again."""
    from isocenter.arrivals import Arrivals
    from isocenter.jobs import Jobs

    began = time.time()
    queue, arrivals = Jobs(settings), Arrivals(settings.database)
    try:
        judged = _until(stop, lambda: _all_judged(arrivals, sent))
        for arrival in judged or ():
            for verdict in arrival.verdicts:
                if verdict.job_id is None:
                    say(f"series {arrival.series_uid}: {verdict}")
        ids = [each.job_id for arrival in judged or () for each in arrival.verdicts if each.job_id]
        for job_id in ids:
            known = queue.show(job_id)
            if known and known.state in {"failed", "cancelled"} and known.created.timestamp() < began:
                queue.retry(job_id)
        return _until(stop, lambda: _all_over([queue.show(job_id) for job_id in ids])) or []
    finally:
        queue.close()


def _until(stop: threading.Event, look: Callable[[], _Seen | None]) -> _Seen | None:
    """What `look` gives once it gives something, None when `stop` came first."""
    while not stop.is_set():
        found = look()
        if found is not None:
            return found
        stop.wait(_LOOK_S)
    return None


def _all_judged(arrivals: Arrivals, sent: Sent) -> list[Arrival] | None:
    """The series of the studies sent, once every image sent is among them and all were judged."""
    found = [arrival for study_uid in sent.study_uids for arrival in arrivals.of_study(study_uid)]
    theirs = [arrival for arrival in found if arrival.series_uid in sent.series_uids]
    arrived = sum(arrival.instances for arrival in theirs) >= len(sent.sop_instance_uids)
    return theirs if arrived and not any(arrival.settling for arrival in theirs) else None


def _all_over(jobs: list[Job | None]) -> list[Job] | None:
    return [job for job in jobs if job] if all(job is None or job.over for job in jobs) else None


def _not_there(job: Job, settings: Settings) -> list[str]:
    """The results that the archive does not find by QIDO-RS."""
    from isocenter.pacs import dicomweb_of

    with dicomweb_of(settings.orthanc) as client:
        return [
            result["sop_instance_uid"]
            for result in job.results
            if not client.search_instances(
                result["study_uid"], result["series_uid"], SOPInstanceUID=result["sop_instance_uid"]
            )
        ]
