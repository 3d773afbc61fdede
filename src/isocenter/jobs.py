"""The durable queue: one DBOS workflow for each attempt at a job.

The workflow's ID is `<job id>.<attempt>`, so the same work is never queued twice, and an attempt that has to
wait for something that is away holds no place in a worker. How a job stands is in the ledger, which is written first:
whatever is interrupted can be asked for again. The work itself is in `isocenter.worker`.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from isocenter.catalog import Catalog
from isocenter.database import database_error, prepare
from isocenter.hours import closed
from isocenter.job import Job, JobSpec, State
from isocenter.job_rows import asked, attempt_id, job_id_of, jobs_of, rows, summary
from isocenter.ledger import Ledger
from isocenter.ledger_entry import Entry
from isocenter.map_reference import is_package
from isocenter.notices import Notices
from isocenter.queues import SHADOWS, Queue, queue_of, register
from isocenter.route import PRIORITIES
from isocenter.settings import Settings
from isocenter_operators.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from dbos import DBOSClient, Serializer, WorkflowStatus

__all__ = ["SERVICE", "SHADOW_WORKFLOW", "WORKFLOW", "Jobs", "serializer"]

SERVICE = "isocenter"  # the application's name in DBOS
WORKFLOW = "run_job"
SHADOW_WORKFLOW = "run_shadow"

_PAGE = 200  # rows read or deleted at once
_ID = re.compile("[0-9a-f]{1,64}")  # of a job, or the beginning of one
_GIVEN_UP = {"ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"}  # by DBOS: nothing of ours ends so
_ENDED = ["SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"]  # as DBOS calls it


def serializer() -> Serializer:
    """JSON, not DBOS's pickles: rows that anybody can read, and that run no code when they are read."""
    from dbos import DBOSPortableJSONSerializer

    return DBOSPortableJSONSerializer()


class Jobs:
    """Asks the queue for work and tells how it stands, from any process. Safe to use from several threads.

    Every call raises Unavailable when the database does not do its work.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opening = threading.Lock()
        self._open: tuple[DBOSClient, Ledger] | None = None
        self._registered: set[Queue] = set()
        self._missing: set[str] = set()  # attempts that the last look of `mend` found not to be queued

    def close(self) -> None:
        with self._opening:
            if self._open is not None:
                self._open[0].destroy()
            self._open = None

    def submit(self, spec: JobSpec, changed_at: float = 0.0) -> str:
        """Queue this work, unless the same work is known already, and give the job's ID either way.

        `changed_at` is when its set of images last changed, in seconds since 1970: a known job that had ended before,
        or that was not the newest of its subject any more, is run again under its identity. Earlier jobs of the
        subject that are not over are then cancelled. Where several routes ask for the same work, it is done once, by
        the most urgent one's priority. Interrupted anywhere, it can be called again.
        """
        job_id = spec.identity.job_id
        with self._database() as (client, ledger):
            earlier = ledger.enter(spec, changed_at)
            entry = ledger.entry(job_id)
            if entry is not None and entry.state is None:
                before = asked(client, entry)
                # Under the date of the first time: the same UIDs must not name other bytes.
                dated = replace(spec, created=before.created) if before else spec
                self._enqueue(dated, entry.attempt)
                if before and entry.worker is None:
                    self._hasten(entry, before, spec)
            for each in earlier:
                self._stop(each, f"superseded: job {job_id[:12]} does more images")
        return job_id

    def again(
        self, spec: JobSpec, attempt: int, tries: Mapping[str, int], *, wait_s: float, waiting_for: str
    ) -> None:
        """Queue the next attempt. `tries`: how often each kind of trouble was met; `waiting_for`: why it waits."""
        self._enqueue(spec, attempt, tries, wait_s=wait_s, waiting_for=waiting_for)

    def shadow(self, spec: JobSpec, model: str, version: str, answer: Mapping[str, Any]) -> None:
        """Have another version of a model look at what a job has ended on, once, when there is nothing else to do."""
        with self._database() as (client, _):
            client.enqueue(
                {
                    "workflow_name": SHADOW_WORKFLOW,
                    "queue_name": SHADOWS,
                    "workflow_id": f"shadow.{spec.identity.job_id}.{model}.{version}",
                },
                spec.as_json(),
                model,
                version,
                dict(answer),
            )

    def anything_waits(self) -> bool:
        """Whether a job could begin and has not begun."""
        with self._database() as (_, ledger):
            return ledger.anything_waits()

    def depth(self) -> tuple[int, int]:
        """How many jobs could begin and have not begun, and how many run: what more workers would be started for."""
        with self._database() as (_, ledger):
            return ledger.depth()

    def waits(self, job_id: str, attempt: int, reason: str) -> None:
        """Tell what an attempt that a worker has taken waits for; "" when for nothing any more."""
        with self._database() as (client, _):
            client.update_workflow_attributes(
                attempt_id(job_id, attempt), {"waiting_for": reason}, merge=True
            )

    def more_urgent(self, spec: JobSpec) -> bool:
        """Whether a more urgent job waits in the same queue, which would take this one's turn."""
        if spec.rank == 1:
            return False
        queue = queue_of(spec, self._limit(spec.algorithm.name), self._settings.worker)
        with self._database() as (_, ledger):
            return ledger.waits_before(queue.name, spec.rank)

    def list(self, limit: int = 100, state: State | None = None) -> list[Job]:
        """The newest jobs, newest first: all, or those in one state."""
        jobs: list[Job] = []
        below: int | None = None
        with self._database() as (client, ledger):
            while len(jobs) < limit:
                page = ledger.newest(min(limit, _PAGE), state, below)
                found = jobs_of(client, page)
                jobs += [job for job in found if state is None or job.state == state]
                # Of jobs that ended long ago only the ledger knows; older ones are no better known.
                if not found:
                    break
                below = page[-1].generation
        return [*self._with_notes(jobs[:limit])]

    def show(self, job_id: str) -> Job | None:
        """The job of this ID, or the only one whose ID begins like this. Raises InputError for several."""
        with self._database() as (client, _):
            entry = self._find(job_id)
            jobs = jobs_of(client, [entry]) if entry else []
        return self._with_notes(jobs)[0] if jobs else None

    def spec(self, job_id: str) -> JobSpec | None:
        """What a job was last asked to do; None when there is no record of it (any more)."""
        with self._database() as (client, ledger):
            entry = ledger.entry(job_id)
            return asked(client, entry) if entry else None

    def retry(self, job_id: str) -> Job:
        """Run a job that has ended once more, under the same identity, as if never tried. Raises InputError."""
        with self._database() as (client, ledger):
            entry, job = self._there(job_id)
            spec = asked(client, entry)
            if entry.superseded_by:
                raise InputError(
                    f"the results of job {job.id[:12]} were replaced by those of job {entry.superseded_by[:12]}: "
                    "run that one again"
                )
            if not job.over and rows(client, [attempt_id(entry.job_id, entry.attempt)]):
                raise InputError(
                    f"job {job.id[:12]} is {job.state}: only a job that has ended can be run again"
                )
            if spec is None:
                raise InputError(f"job {job.id[:12]} has no record of what it was asked to do")
            if entry.state is None and job.over:
                ledger.end(job.id, "failed")
            ledger.renew(job.id)
            # The renewed attempt, or one that was renewed before and then not queued.
            renewed = ledger.entry(job.id)
            self._enqueue(spec, renewed.attempt if renewed else entry.attempt + 1)
            return self._there(job.id)[1]

    def cancel(self, job_id: str) -> Job:
        """A job that waits is gone at once; one that runs stops at its next step, and stores nothing.

        Raises InputError for one that stores its results already, or has ended.
        """
        with self._database():
            entry, job = self._there(job_id)
            if job.over:
                raise InputError(
                    f"job {job.id[:12]} is {job.state}: only a job that waits or runs can be cancelled"
                )
            if not self._stop(entry, "by hand"):
                raise InputError(
                    f"job {job.id[:12]} stores its results already and can not be stopped: wait until it has ended, "
                    "and delete its results from the archive if they are not wanted"
                )
            return self._there(job.id)[1]

    def anew(self, entry: Entry) -> None:
        """Make the next attempt at a job whose newest one was given up, by nobody's fault."""
        with self._database() as (client, ledger):
            spec = asked(client, entry)
            if spec is None:
                return
            given_up = attempt_id(entry.job_id, entry.attempt)
            ledger.pause(entry.job_id, entry.attempt)
            self._enqueue(spec, entry.attempt + 1)
            client.cancel_workflow(given_up)  # where it is still there, it holds a place

    def mend(self) -> int:
        """Queue again what the ledger says is not over and the queue will not do; how many jobs that were.

        A crash between writing both leaves it so, and a database that was away when DBOS had to note something. To be
        called now and then: what one call finds is mended by the next one if it is still so then, since it may only be
        on its way.
        """
        found: set[str] = set()
        mended = 0
        with self._database() as (client, ledger):
            for entry, row in self._open_jobs(client, ledger):
                if row is not None and row.status not in _GIVEN_UP:
                    continue
                id_ = attempt_id(entry.job_id, entry.attempt)
                found.add(id_)
                if id_ not in self._missing:
                    continue
                spec = asked(client, entry)
                if row is not None:
                    self.anew(entry)
                elif spec is not None:
                    self._enqueue(spec, entry.attempt)
                mended += 1
        self._missing = found
        return mended

    def _open_jobs(self, client: DBOSClient, ledger: Ledger) -> Iterator[tuple[Entry, WorkflowStatus | None]]:
        """The jobs that are not over, each with the row of its newest attempt."""
        states: tuple[State, ...] = ("queued", "running")
        for state in states:
            below = None
            while page := ledger.newest(_PAGE, state, below):
                below = page[-1].generation
                there = rows(client, [attempt_id(entry.job_id, entry.attempt) for entry in page])
                found = {row.workflow_id: row for row in there}
                for entry in page:
                    yield entry, found.get(attempt_id(entry.job_id, entry.attempt))

    def stop(self, job_id: str, reason: str) -> bool:
        """Stop a job that nobody wants any more. False where it stores its results already, or has ended."""
        with self._database() as (_, ledger):
            entry = ledger.entry(job_id)
            return entry is not None and self._stop(entry, reason)

    def forget(self, before: datetime) -> int:
        """Delete the records of jobs that ended before this time, and of shadows; how many attempts at jobs that were.

        The ledger keeps its line of each, as long as the archive may hold its study: it says what belongs there.
        """
        deleted = kept = 0
        with self._database() as (client, ledger):
            _forget_shadows(client, before)
            while True:
                page = client.list_workflows(
                    name=WORKFLOW,
                    status=_ENDED,
                    completed_before=before.isoformat(),
                    load_input=False,
                    load_output=False,
                    limit=_PAGE,
                    offset=kept,
                )
                entries = ledger.entries({job_id_of(row) for row in page})
                old = [row.workflow_id for row in page if _ended(entries.get(job_id_of(row)), before)]
                if old:
                    client.delete_workflows(old)
                deleted += len(old)
                kept += len(page) - len(old)
                if len(page) < _PAGE:
                    return deleted

    def forget_study(self, study_uid: str, before: float) -> bool:
        """Delete the ledger's lines of a study too, which the archive does not hold any more. False where a job of it
        has not ended before this time (seconds since 1970), is still to be seen to, or has a record in the queue: under
        its number the next attempt would never be made."""
        with self._database() as (client, ledger):
            for entry in ledger.of_study(study_uid):
                ids = [attempt_id(entry.job_id, number) for number in range(1, entry.attempt + 1)]
                if any(rows(client, ids[at : at + _PAGE]) for at in range(0, len(ids), _PAGE)):
                    return False
            return ledger.forget_study(study_uid, before)

    def _with_notes(self, jobs: Sequence[Job]) -> Sequence[Job]:
        """The jobs, each with how the note on it in its study stands."""
        with self._database():
            found = Notices(self._settings.database).newest([job.id for job in jobs])
        return [replace(job, outcome_note=found[job.id].said) if job.id in found else job for job in jobs]

    @contextmanager
    def _database(self) -> Iterator[tuple[DBOSClient, Ledger]]:
        try:
            yield self._opened()
        except sa.exc.SQLAlchemyError as error:
            raise database_error(self._settings, error) from error

    def _opened(self) -> tuple[DBOSClient, Ledger]:
        from dbos import DBOSClient

        with self._opening:
            if self._open is None:
                prepare(self._settings)
                client = DBOSClient(
                    system_database_url=self._settings.database,
                    serializer=serializer(),
                    application_name=SERVICE,
                    retry_connection_errors=False,  # whoever asks is told, and asks again
                )
                self._open = client, Ledger(self._settings.database)
            return self._open

    def _enqueue(
        self,
        spec: JobSpec,
        attempt: int,
        tries: Mapping[str, int] | None = None,
        *,
        wait_s: float = 0.0,
        waiting_for: str = "",
    ) -> None:
        """Does nothing when this attempt is queued already, or has been."""
        from dbos import EnqueueOptions

        queue = queue_of(spec, self._limit(spec.algorithm.name), self._settings.worker)
        closed_s, hours = closed(spec, datetime.now().astimezone())
        if closed_s > wait_s:
            wait_s, waiting_for = closed_s, hours
        with self._database() as (client, ledger):
            if queue not in self._registered:
                register(client, queue)
                self._registered.add(queue)
            options: EnqueueOptions = {
                "workflow_name": WORKFLOW,
                "queue_name": queue.name,
                "workflow_id": attempt_id(spec.identity.job_id, attempt),
                "priority": spec.rank,
                "attributes": summary(spec, wait_s=wait_s, waiting_for=waiting_for),
            }
            if wait_s > 0:
                options["delay_seconds"] = wait_s
            ledger.waits(spec.identity.job_id, queue.name, spec.rank, time.time() + wait_s)
            client.enqueue(options, spec.as_json(), attempt, dict(tries or {}))

    def _hasten(self, entry: Entry, before: JobSpec, wanted: JobSpec) -> None:
        """A job that waits is asked for again: where that is more urgent, or not bound to hours, it is queued anew."""
        hastened = replace(
            before,
            priority=min(before.priority, wanted.priority, key=PRIORITIES.index),
            hours=before.hours if before.hours == wanted.hours else None,
            priors=before.priors or wanted.priors,
        )
        if (hastened.priority, hastened.hours) == (before.priority, before.hours):
            return
        client, ledger = self._opened()
        ledger.pause(entry.job_id, entry.attempt)
        self._enqueue(hastened, entry.attempt + 1)
        client.cancel_workflow(attempt_id(entry.job_id, entry.attempt))

    def _limit(self, application: str) -> int | None:
        if is_package(application):
            return None
        try:
            return Catalog.of(self._settings).get(application).concurrency
        except ConfigurationError:
            return None  # the attempt will say what is wrong with it

    def _stop(self, entry: Entry, reason: str) -> bool:
        """Whether it could still be stopped."""
        client, ledger = self._opened()
        if not ledger.cancel(entry.job_id, reason):
            return False
        stopped = ledger.entry(entry.job_id)
        if stopped is not None and stopped.state == "cancelled":
            # No worker has begun it, and none will: so its place in the queue is given back at once.
            client.cancel_workflow(attempt_id(stopped.job_id, stopped.attempt))
        return True

    def _find(self, job_id: str) -> Entry | None:
        if not _ID.fullmatch(job_id):
            return None
        found = self._opened()[1].beginning_with(job_id)
        if len(found) > 1:
            raise InputError(f"more than one job begins with {job_id!r}: give more of its ID")
        return found[0] if found else None

    def _there(self, job_id: str) -> tuple[Entry, Job]:
        entry = self._find(job_id)
        jobs = jobs_of(self._opened()[0], [entry]) if entry else []
        if entry is None or not jobs:
            raise InputError(f"there is no job {job_id!r}; `isocenter jobs list` shows those there are")
        return entry, jobs[0]


def _forget_shadows(client: DBOSClient, before: datetime) -> None:
    while True:
        page = client.list_workflows(
            name=SHADOW_WORKFLOW,
            status=_ENDED,
            completed_before=before.isoformat(),
            load_input=False,
            load_output=False,
            limit=_PAGE,
        )
        if page:
            client.delete_workflows([row.workflow_id for row in page])
        if len(page) < _PAGE:
            return


def _ended(entry: Entry | None, before: datetime) -> bool:
    return entry is not None and entry.ended is not None and entry.ended < before.timestamp()
