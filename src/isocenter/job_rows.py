"""Reads a job out of the database: the ledger knows how it stands, the row of its newest attempt all else."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from isocenter.job import ENDED, Job, JobSpec, State
from isocenter.ledger_entry import Entry

if TYPE_CHECKING:
    from dbos import DBOSClient, WorkflowStatus

__all__ = ["asked", "attempt_id", "job_id_of", "jobs_of", "rows", "summary"]


def attempt_id(job_id: str, attempt: int) -> str:
    """The ID of one attempt's workflow."""
    return f"{job_id}.{attempt}"


def job_id_of(row: WorkflowStatus) -> str:
    """The job that a workflow is an attempt at."""
    return row.workflow_id.partition(".")[0]


def summary(spec: JobSpec, *, wait_s: float = 0.0, waiting_for: str = "") -> dict[str, Any]:
    """What a list of jobs shows, kept beside the workflow so that its long input need not be read.

    `wait_s`: until the attempt may begin. DBOS's own times are whole seconds on SQLite.
    """
    return {
        "from": time.time() + wait_s,
        "waiting_for": waiting_for,
        "priority": spec.priority,
        "series_uids": sorted(spec.series_uids),
        "created": spec.created.isoformat(),
        "settle_s": spec.settle_s,
        "models": dict(spec.algorithm.models),
    }


def rows(client: DBOSClient, ids: Sequence[str], *, inputs: bool = False) -> list[WorkflowStatus]:
    """The workflows of these IDs that there are, oldest first."""
    return client.list_workflows(workflow_ids=list(ids), load_input=inputs) if ids else []


def jobs_of(client: DBOSClient, entries: Sequence[Entry]) -> list[Job]:
    """Those of these jobs that there are records of, in the same order."""
    found = {
        row.workflow_id: row for row in rows(client, [id_ for entry in entries for id_ in _newest(entry)])
    }
    newest = [
        (entry, next((found[id_] for id_ in _newest(entry) if id_ in found), None)) for entry in entries
    ]
    return [_job_of(entry, row) for entry, row in newest if row is not None]


def asked(client: DBOSClient, entry: Entry) -> JobSpec | None:
    """What this job was last asked to do, None when there is no record of it any more."""
    found = {row.workflow_id: row for row in rows(client, _newest(entry), inputs=True)}
    for row in (found[id_] for id_ in _newest(entry) if id_ in found):
        if row.input is not None:
            return JobSpec.from_json(row.input["args"][0])
    return None


def _newest(entry: Entry) -> list[str]:
    """The newest attempt, and the one before: between two of them the next one may not be queued yet."""
    return [attempt_id(entry.job_id, number) for number in (entry.attempt, entry.attempt - 1) if number > 0]


def _job_of(entry: Entry, row: WorkflowStatus) -> Job:
    about = row.attributes or {}
    output = row.output
    answer: Mapping[str, Any] = output if isinstance(output, dict) else {}
    state = _state(entry, row)
    return Job(
        id=entry.job_id,
        state=state,
        application=entry.application,
        route=entry.route,
        priority=about["priority"],
        study_uid=entry.study_uid,
        series_uids=tuple(about["series_uids"]),
        created=datetime.fromisoformat(about["created"]),
        ended=datetime.fromtimestamp(entry.ended, UTC)
        if entry.ended is not None and state in ENDED
        else None,
        attempts=entry.attempt,
        reason=_reason(entry, state, row, answer),
        groups=tuple(answer.get("groups", ())),
        notes=tuple(answer.get("notes", ())),
        results=tuple(answer.get("results", ())),
        seconds=_seconds(answer, about),
        superseded_by=entry.superseded_by or "",
        models=about.get("models", {}),  # not kept with jobs of earlier releases
    )


def _state(entry: Entry, row: WorkflowStatus) -> State:
    if entry.state is not None and row.status == "PENDING":
        return "running"  # for a moment: the ledger knows, and its answer is still being written
    if entry.state is not None:
        return entry.state
    if _broke_off(entry, row):
        return "failed"
    return "queued" if entry.worker is None else "running"


def _broke_off(entry: Entry, row: WorkflowStatus) -> bool:
    """Whether DBOS gave the newest attempt up, which nothing of ours makes it do."""
    newest = row.workflow_id == attempt_id(entry.job_id, entry.attempt)
    return newest and row.status in ("ERROR", "MAX_RECOVERY_ATTEMPTS_EXCEEDED", "CANCELLED")


def _reason(entry: Entry, state: State, row: WorkflowStatus, answer: Mapping[str, Any]) -> str:
    if state == "running" and entry.cancelled:
        return f"is being cancelled: {entry.cancelled}"
    if state == "cancelled":
        return str(answer.get("reason") or entry.cancelled or "")
    if state in ("queued", "running"):
        return str((row.attributes or {}).get("waiting_for", ""))
    if entry.state is None:
        return f"the attempt broke off ({row.status}); the worker's log says more"
    return str(answer.get("reason", ""))


def _seconds(answer: Mapping[str, Any], about: Mapping[str, Any]) -> dict[str, float]:
    """Settling, waiting in the queue, and each step of the graph; what no step accounts for is "rest"."""
    seconds = {"settle": float(about["settle_s"])}
    if "began" in answer:
        steps = {name: float(value) for name, value in answer.get("seconds", {}).items()}
        seconds |= {"queue": max(0.0, answer["began"] - about["from"]), **steps}
        seconds["rest"] = max(0.0, answer["ended"] - answer["began"] - sum(steps.values()))
    return {name: round(value, 3) for name, value in seconds.items()}
