"""The durable queue: one DBOS workflow for each attempt at a job.

The workflow's ID is `<job id>.<attempt>`, so the same work is never queued twice, and an attempt that has to
wait for something that is away holds no place in a worker. The work itself is in `isocenter.worker`.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy

from isocenter.job import Job, JobSpec, State
from isocenter.settings import Settings
from isocenter_operators.errors import InputError, StorageFull, Unavailable

if TYPE_CHECKING:
    from dbos import DBOSClient, Serializer, WorkflowStatus

__all__ = ["QUEUE", "SERVICE", "WORKFLOW", "Jobs", "attempt_id", "prepare", "serializer"]

SERVICE = "isocenter"  # the application's name in DBOS
QUEUE = "isocenter"
WORKFLOW = "run_job"

_PAGE = 200  # workflows read at once
_ID = re.compile("[0-9a-f]{1,64}")  # of a job, or the beginning of one
_LOST = "the worker was lost each time it worked on this (out of memory? too slow?); its log says more"


def attempt_id(job_id: str, attempt: int) -> str:
    return f"{job_id}.{attempt}"


def serializer() -> Serializer:
    """JSON, not DBOS's pickles: rows that anybody can read, and that run no code when they are read."""
    from dbos import DBOSPortableJSONSerializer

    return DBOSPortableJSONSerializer()


def prepare(settings: Settings) -> None:
    """Make the database and its tables, where they are missing. Raises StorageFull or Unavailable."""
    from dbos import run_dbos_database_migrations

    logging.getLogger("dbos").setLevel(logging.WARNING)
    url = sqlalchemy.make_url(settings.database)
    try:
        if url.get_backend_name() == "sqlite" and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                # Readers and the writer do not wait for each other; the file remembers it.
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            engine.dispose()
        run_dbos_database_migrations(system_database_url=settings.database)
    except (OSError, sqlalchemy.exc.DBAPIError) as error:
        raise database_error(settings, error) from error


def database_error(settings: Settings, error: Exception) -> Unavailable:
    """What a person is told when the database does not do its work."""
    url = sqlalchemy.make_url(settings.database)
    where = url.database if url.get_backend_name() == "sqlite" else f"{url.host}:{url.port or 5432}"
    if "disk is full" in str(error) or getattr(error, "errno", None) == 28:
        return StorageFull(f"no room left for the database {where}; free some space on that disk")
    cause = str(getattr(error, "orig", error)).splitlines()[0]
    return Unavailable(f"the database {where} can not be used: {cause}; see database_url and data_dir")


class Jobs:
    """Asks the queue for work and tells how it stands, from any process. Safe to use from several threads.

    Every call raises Unavailable when the database does not do its work.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opening = threading.Lock()
        self._open: DBOSClient | None = None

    @property
    def _client(self) -> DBOSClient:
        from dbos import DBOSClient

        with self._opening:
            if self._open is None:
                prepare(self._settings)
                self._open = DBOSClient(
                    system_database_url=self._settings.database,
                    serializer=serializer(),
                    application_name=SERVICE,
                )
            return self._open

    def close(self) -> None:
        with self._opening:
            if self._open is not None:
                self._open.destroy()
            self._open = None

    def submit(self, spec: JobSpec) -> str:
        """Queue this work, unless the same work is known already, and give the job's ID either way."""
        job_id = spec.identity.job_id
        self._enqueue(job_id, 1, spec.as_json())
        return job_id

    def list(self, limit: int = 100) -> list[Job]:
        """The newest jobs, newest first."""
        jobs: dict[str, Job] = {}
        for status in self._attempts():
            job_id, _, attempt = status.workflow_id.partition(".")
            known = jobs.get(job_id)
            if known is None and len(jobs) == limit:
                break
            if known is None or int(attempt) > known.attempts:
                jobs[job_id] = _job(status)
        return list(jobs.values())

    def show(self, job_id: str) -> Job | None:
        """The job of this ID, or the only one whose ID begins like this. Raises InputError for several."""
        status = self._newest(job_id)
        return _job(status) if status else None

    def retry(self, job_id: str) -> Job:
        """Run a job that has ended once more, under the same identity. Raises InputError."""
        status = self._there(job_id)
        job = _job(status)
        if not job.over:
            raise InputError(f"job {job.id[:12]} is {job.state}: only a job that has ended can be run again")
        with self._translated():
            inputs = self._client.list_workflows(workflow_ids=[status.workflow_id])[0].input
        if inputs is None:
            raise InputError(f"job {job.id[:12]} has no record of what it was asked to do")
        self._enqueue(job.id, job.attempts + 1, inputs["args"][0])
        return self._job(job.id)

    def cancel(self, job_id: str) -> Job:
        """Take a job that waits out of the queue. Raises InputError for one that runs or has ended."""
        status = self._there(job_id)
        job = _job(status)
        if job.state == "running":
            raise InputError(
                f"job {job.id[:12]} runs already and can not be stopped: wait until it has ended, and delete its "
                "results from the archive if they are not wanted"
            )
        if job.state != "queued":
            raise InputError(f"job {job.id[:12]} is {job.state}: only a job that waits can be cancelled")
        with self._translated():
            self._client.cancel_workflow(status.workflow_id)
        return self._job(job.id)

    def supersede(self, job_id: str) -> None:
        """Take a job that still waits out of the queue, because its series has grown."""
        job = self.show(job_id)
        if job is not None and job.state == "queued":
            self.cancel(job.id)

    def _enqueue(self, job_id: str, attempt: int, spec: Mapping[str, Any]) -> None:
        with self._translated():
            self._client.enqueue(
                {
                    "workflow_name": WORKFLOW,
                    "queue_name": QUEUE,
                    "workflow_id": attempt_id(job_id, attempt),
                    "attributes": summary(spec, from_=time.time()),
                },
                dict(spec),
                attempt,
                1,
            )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlalchemy.exc.DBAPIError as error:
            raise database_error(self._settings, error) from error

    def _attempts(self, prefix: str | None = None) -> Iterator[WorkflowStatus]:
        """Attempts, newest first, without their inputs."""
        offset = 0
        while True:
            with self._translated():
                page = self._client.list_workflows(
                    name=WORKFLOW,
                    workflow_id_prefix=prefix,
                    sort_desc=True,
                    load_input=False,
                    limit=_PAGE,
                    offset=offset,
                )
            yield from page
            if len(page) < _PAGE:
                return
            offset += _PAGE

    def _newest(self, job_id: str) -> WorkflowStatus | None:
        if not _ID.fullmatch(job_id):
            return None
        newest: WorkflowStatus | None = None
        for status in self._attempts(job_id):
            if newest is None:
                newest = status
            elif _name(status)[0] != _name(newest)[0]:
                raise InputError(f"more than one job begins with {job_id!r}: give more of its ID")
            elif _name(status)[1] > _name(newest)[1]:
                newest = status
        return newest

    def _there(self, job_id: str) -> WorkflowStatus:
        status = self._newest(job_id)
        if status is None:
            raise InputError(f"there is no job {job_id!r}; `isocenter jobs list` shows those there are")
        return status

    def _job(self, job_id: str) -> Job:
        return _job(self._there(job_id))


def summary(spec: Mapping[str, Any], *, from_: float) -> dict[str, Any]:
    """What a list of jobs shows, kept beside the workflow so that its long input need not be read.

    `from_`: when the attempt may begin, in seconds since 1970. DBOS's own times are whole seconds on SQLite.
    """
    return {
        "from": from_,
        "application": spec["algorithm"]["name"],
        "route": spec["route"],
        "study_uid": spec["study_uid"],
        "series_uid": spec["series_uid"],
        "created": spec["created"],
        "settle_s": spec["settle_s"],
    }


def _name(status: WorkflowStatus) -> tuple[str, int]:
    job_id, _, attempt = status.workflow_id.partition(".")
    return job_id, int(attempt)


def _state(status: WorkflowStatus, answer: Mapping[str, Any]) -> State:
    match status.status:
        case "ENQUEUED" | "DELAYED":
            return "queued"
        case "PENDING":
            return "running"
        case "CANCELLED":
            return "cancelled"
        case "SUCCESS":
            state: State = answer["state"]
            return state
    return "failed"


def _reason(status: WorkflowStatus, answer: Mapping[str, Any]) -> str:
    match status.status:
        case "DELAYED" | "ENQUEUED" | "PENDING":
            return str((status.attributes or {}).get("waiting_for", ""))
        case "MAX_RECOVERY_ATTEMPTS_EXCEEDED":
            return _LOST
        case "ERROR":
            return (
                f"the attempt ended unexpectedly ({type(status.error).__name__}); the worker's log says more"
            )
    return str(answer.get("reason", ""))


def _seconds(answer: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, float]:
    """Settling, waiting in the queue, and each step of the graph; what no step accounts for is "rest"."""
    seconds = {"settle": float(about["settle_s"])}
    if "began" in answer:
        steps = {name: float(value) for name, value in answer.get("seconds", {}).items()}
        seconds |= {"queue": max(0.0, answer["began"] - about["from"]), **steps}
        seconds["rest"] = max(0.0, answer["ended"] - answer["began"] - sum(steps.values()))
    return {name: round(value, 3) for name, value in seconds.items()}


def _ended(status: WorkflowStatus, answer: Mapping[str, Any]) -> datetime | None:
    if status.completed_at is None:
        return None
    return datetime.fromtimestamp(answer.get("ended", status.completed_at / 1000), UTC)


def _job(status: WorkflowStatus) -> Job:
    job_id, attempt = _name(status)
    answer: Mapping[str, Any] = status.output if isinstance(status.output, dict) else {}
    about = status.attributes or {}
    return Job(
        id=job_id,
        state=_state(status, answer),
        application=about["application"],
        route=about["route"],
        study_uid=about["study_uid"],
        series_uid=about["series_uid"],
        created=datetime.fromisoformat(about["created"]),
        ended=_ended(status, answer),
        attempts=attempt,
        reason=_reason(status, answer),
        groups=tuple(answer.get("groups", ())),
        notes=tuple(answer.get("notes", ())),
        results=tuple(answer.get("results", ())),
        seconds=_seconds(answer, about),
    )
