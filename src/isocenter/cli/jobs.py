"""`isocenter jobs`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from isocenter.cli import options
from isocenter.cli.output import counted, groups_table, print_json, print_lines, seconds_table, table
from isocenter.job import State
from isocenter_operators.errors import InputError

if TYPE_CHECKING:
    from isocenter.job import Job
    from isocenter.jobs import Jobs
    from isocenter.onward import Outbox
    from isocenter.settings import Settings

__all__ = ["command", "lines_of"]

_ALL = 1_000_000


@click.group(invoke_without_command=True)
@options.config
@options.json_option
@click.pass_context
def command(context: click.Context, config: Path | None, as_json: bool) -> None:
    """The jobs: list (what is done without a further word), show ID, retry ID, cancel ID, resend ID.

    The beginning of an ID is enough.
    """
    context.obj = config
    if context.invoked_subcommand is None:
        context.invoke(listing, as_json=as_json)
    elif as_json:
        raise click.UsageError(f"--json stands behind {context.invoked_subcommand}", context)


@contextmanager
def _queue(settings: Settings) -> Iterator[Jobs]:
    from isocenter.jobs import Jobs

    jobs = Jobs(settings)
    try:
        yield jobs
    finally:
        jobs.close()


@contextmanager
def _outbox(settings: Settings) -> Iterator[Outbox]:
    """Raises Unavailable when the database does not do its work."""
    from sqlalchemy.exc import SQLAlchemyError

    from isocenter.database import database_error
    from isocenter.onward import Outbox

    try:
        yield Outbox(settings.database, settings.peers)
    except SQLAlchemyError as error:
        raise database_error(settings, error) from error


@command.command("list")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--state", type=click.Choice(get_args(State)), help="Only those in this state.")
@options.json_option
@click.pass_obj
def listing(config: Path | None, limit: int = 50, state: State | None = None, as_json: bool = False) -> int:
    """The newest jobs, newest first."""
    with _queue(options.running_settings(config)) as queue:
        jobs = queue.list(limit, state)
    if as_json:
        print_json({"jobs": [job.as_json() for job in jobs]})
    elif not jobs:
        print_lines(
            [f"no job is {state}" if state else "no jobs yet: send a study with `isocenter send PATH`"]
        )
    else:
        rows = [
            (
                job.id[:12],
                job.state,
                job.priority,
                job.application,
                f"{job.created:%Y-%m-%d %H:%M:%S}",
                _why(job),
            )
            for job in jobs
        ]
        print_lines(table(["job", "state", "priority", "application", "created (UTC)", "why"], rows))
    return 0


def _why(job: Job) -> str:
    superseded = f"superseded by job {job.superseded_by[:12]}" if job.superseded_by else ""
    return "; ".join(each for each in (superseded, job.reason) if each)


@command.command()
@click.argument("job_id", metavar="ID")
@options.json_option
@click.pass_obj
def show(config: Path | None, job_id: str, as_json: bool) -> int:
    """One job: what was found, what was stored, what was sent on, and where the time went."""
    settings = options.running_settings(config)
    with _queue(settings) as queue:
        job = _found(queue, job_id)
    with _outbox(settings) as outbox:
        deliveries = outbox.of_job(job.id)
    if as_json:
        print_json({**job.as_json(), "deliveries": [each.as_json() for each in deliveries]})
        return 0
    print_lines(lines_of(job))
    if deliveries:
        rows = [
            (each.destination, each.what, each.state, str(each.attempts), each.reason) for each in deliveries
        ]
        print_lines(["", *table(["destination", "what", "state", "attempts", "why"], rows)])
    return 0


@command.command()
@click.argument("job_id", metavar="ID")
@options.json_option
@click.pass_obj
def resend(config: Path | None, job_id: str, as_json: bool) -> int:
    """Send again what a destination has refused of a job, or what was given up."""
    settings = options.running_settings(config)
    with _queue(settings) as queue:
        job = _found(queue, job_id)
    with _outbox(settings) as outbox:
        count = outbox.retry(job.id)
    if as_json:
        print_json({"job": job.id, "deliveries": count})
    else:
        print_lines([f"{counted(count, 'delivery', 'deliveries')} of job {job.id[:12]} will be sent again"])
    return 0


def _found(queue: Jobs, job_id: str) -> Job:
    job = queue.show(job_id)
    if job is None:
        raise InputError(f"there is no job {job_id!r}; `isocenter jobs list` shows those there are")
    return job


@command.command()
@click.argument("job_id", metavar="ID", required=False)
@click.option("--failed", is_flag=True, help="All jobs that have failed, oldest first, instead of one.")
@click.option("--application", help="With --failed: only those of this application.")
@options.json_option
@click.pass_obj
def retry(
    config: Path | None, job_id: str | None, failed: bool, application: str | None, as_json: bool
) -> int:
    """Run a job that has ended once more, under the same identity, as if it had never been tried."""
    if (job_id is None) != failed or (application is not None and not failed):
        raise click.UsageError("give the ID of one job, or --failed (and --application) for many")
    with _queue(options.running_settings(config)) as queue:
        if job_id is not None:
            return _tell(queue.retry(job_id), as_json)
        found = [
            job
            for job in queue.list(_ALL, "failed")
            if application in (None, job.application) and not job.superseded_by
        ]
        retried = [queue.retry(job.id) for job in reversed(found)]
    if as_json:
        print_json({"jobs": [job.as_json() for job in retried]})
    else:
        print_lines([f"{counted(len(retried), 'failed job')} will be run again"])
    return 0


@command.command()
@click.argument("job_id", metavar="ID")
@options.json_option
@click.pass_obj
def cancel(config: Path | None, job_id: str, as_json: bool) -> int:
    """Stop a job: one that waits is gone at once, one that runs stops at its next step and stores nothing."""
    with _queue(options.running_settings(config)) as queue:
        return _tell(queue.cancel(job_id), as_json)


def _tell(job: Job, as_json: bool) -> int:
    if as_json:
        print_json(job.as_json())
    else:
        print_lines(lines_of(job))
    return 0


def lines_of(job: Job) -> list[str]:
    """All that is known of a job, for a person."""
    why = f": {_why(job)}" if _why(job) else ""
    lines = [
        f"job {job.id}",
        f"{job.state.replace('_', ' ')}{why}",
        f"{job.application} on series {', '.join(job.series_uids)}",
        f"of study {job.study_uid}, by the rule {job.route!r}",
        f"created {job.created:%Y-%m-%d %H:%M:%S} UTC, {job.priority}, attempts: {job.attempts}",
    ]
    if job.groups:
        lines += ["", *groups_table(job.groups)]
    lines += [f"note: {note}" for note in job.notes]
    if job.outcome_note:
        lines += [f"note on how it ended: {job.outcome_note}"]
    if job.results:
        lines += ["", *(f"{each['modality']:<4} {each['sop_instance_uid']}" for each in job.results)]
    if job.seconds:
        lines += ["", *seconds_table(job.seconds)]
    return lines
