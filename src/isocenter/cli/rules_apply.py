"""`isocenter rules apply`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isocenter.cli import options
from isocenter.cli.output import counted, print_json, print_lines, say
from isocenter_operators.errors import ArchiveUnavailable, ConfigurationError, InputError

if TYPE_CHECKING:
    from isocenter.arrivals import Arrivals
    from isocenter.pacs import Orthanc
    from isocenter.settings import Settings

__all__ = ["apply", "noted"]


@dataclass(frozen=True)
class _Missing:
    """A job that a route would make now, and did not make."""

    study_uid: str
    route: str
    application: str
    series_uids: tuple[str, ...]

    def __str__(self) -> str:
        of = self.series_uids[0] if len(self.series_uids) == 1 else f"{len(self.series_uids)} series"
        return f"  {self.route}: {self.application} on {of}"


@dataclass(frozen=True)
class _Look:
    """One study. `busy`: the service has not decided all about it, or not seen it yet, and does so by itself."""

    study_uid: str
    jobs: tuple[_Missing, ...] = ()
    busy: bool = False
    trouble: str = ""  # why it could not be looked at


@click.command()
@click.option("--study", "study_uids", multiple=True, metavar="UID", help="This study; may be given again.")
@click.option(
    "--since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M"]),
    help="All studies whose images came since then, by this machine's clock.",
)
@click.option("--yes", is_flag=True, help="Have the jobs made, instead of showing which that would be.")
@options.json_option
@click.pass_obj
def apply(
    config: Path | None, study_uids: tuple[str, ...], since: datetime | None, *, yes: bool, as_json: bool
) -> int:
    """Ask the rules once more about studies that were decided on: for a route that is new, or was changed since.

    Shows which jobs that makes, and with --yes has the service make them, with priority batch, so that they delay
    nothing that arrives. What has a job by the same route and application gets no other one.
    """
    from isocenter.catalog import Catalog
    from isocenter.pacs import Orthanc
    from isocenter.rules import refuse_wrong_rules
    from isocenter.settings import Settings

    if not study_uids and since is None:
        raise click.UsageError("say which studies: --study UID, or --since DATE")
    written = Settings.load(config, secrets=())
    refuse_wrong_rules(written, written.file, Catalog.of(written))
    serving = options.running_settings(config, secrets=["orthanc"])
    if yes and serving.routes != written.routes:
        raise ConfigurationError(
            "the service that runs was started with other routes: start it again, then say this once more"
        )
    with noted(serving) as arrivals, Orthanc(serving.orthanc) as orthanc:
        studies = dict.fromkeys(study_uids)
        if since is not None:
            studies |= dict.fromkeys(arrivals.studies_since(since.timestamp()))
        looks = [
            _told(
                orthanc,
                uid,
                partial(_look, written, orthanc, arrivals, uid, yes=yes, asked_for=uid in study_uids),
            )
            for uid in studies
        ]
    if as_json:
        _print_as_json(looks, yes=yes)
    else:
        _print(looks, serving.routing.reconcile_every_s, yes=yes)
    return 1 if any(look.trouble for look in looks) else 0


def _print_as_json(looks: Sequence[_Look], *, yes: bool) -> None:
    print_json(
        {
            "asked_again": yes,
            "studies": len(looks),
            "undecided": [look.study_uid for look in looks if look.busy],
            "failed": {look.study_uid: look.trouble for look in looks if look.trouble},
            "jobs": [asdict(job) for look in looks for job in look.jobs],
        }
    )


def _print(looks: Sequence[_Look], within_s: float, *, yes: bool) -> None:
    for look in looks:
        if look.trouble:
            say(f"study {look.study_uid} could not be looked at: {look.trouble}")
        elif look.busy:
            print_lines([f"study {look.study_uid} is being decided on as it is: ask again when that is done"])
        elif look.jobs:
            print_lines([f"study {look.study_uid}", *map(str, look.jobs)])
    print_lines([_summary(len(looks), sum(len(look.jobs) for look in looks), within_s, yes)])


def _summary(studies: int, jobs: int, within_s: float, yes: bool) -> str:
    of = f"{counted(studies, 'study', 'studies')} looked at: {counted(jobs, 'job') if jobs else 'no job'}"
    if not jobs:
        return f"{of} to make"
    if not yes:
        return f"{of} to make; nothing was changed, --yes has them made"
    return f"{of}, made by the service within some {within_s:g} s, with priority batch: see `isocenter jobs`"


def _told(orthanc: Orthanc, study_uid: str, look: Callable[[], _Look]) -> _Look:
    """One study that the archive can not read keeps none of the others from being looked at."""
    try:
        return look()
    except ArchiveUnavailable as error:
        if not orthanc.answers():
            raise
        return _Look(study_uid, trouble=str(error))


def _look(
    settings: Settings, orthanc: Orthanc, arrivals: Arrivals, study_uid: str, *, yes: bool, asked_for: bool
) -> _Look:
    """Which jobs are missing of a study; with `yes` the service is to make them.

    Raises InputError where the archive does not hold a study that was `asked_for` by its UID.
    """
    from isocenter.routing.past import without_job
    from isocenter.routing.views import study_in_archive
    from isocenter.rules import explain

    study = study_in_archive(orthanc, study_uid)
    if asked_for and not study:
        raise InputError(f"the archive holds no study {study_uid}, or none but results of ours in it")
    known = arrivals.of_study(study_uid)
    if any(each.settling for each in known):
        return _Look(study_uid, busy=True)
    missing = tuple(
        _Missing(study_uid, verdict.route, application, verdict.series_uids)
        for verdict in explain(settings.routes, study)
        for application in without_job(verdict, known)
    )
    if yes and missing and not arrivals.look_again(orthanc.study_series(study_uid)):
        return _Look(study_uid, busy=True)
    return _Look(study_uid, missing)


@contextmanager
def noted(settings: Settings) -> Iterator[Arrivals]:
    """What arrived, and what was decided about it. Raises Unavailable when the database does not do its work."""
    from sqlalchemy.exc import SQLAlchemyError

    from isocenter.arrivals import Arrivals
    from isocenter.database import database_error, prepare

    prepare(settings)
    try:
        yield Arrivals(settings.database)
    except SQLAlchemyError as error:
        raise database_error(settings, error) from error
