"""The queues: which one a job waits in, and how many of each run at once.

Jobs of one queue start by priority, the oldest first. STAT has a queue of its own with places of its own, so that it
never waits behind a routine job that runs. An application with a limit has one too, because the limit counts over all
workers together; it holds for STAT as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isocenter.job import JobSpec
from isocenter.settings import WorkerSettings

if TYPE_CHECKING:
    from dbos import DBOSClient

    from isocenter_operators.manifest import AppManifest

__all__ = ["COMMON", "POLL_S", "SHADOWS", "STAT", "Queue", "queue_of", "queues", "register"]

COMMON = "isocenter"
STAT = "isocenter.stat"
SHADOWS = "isocenter.shadows"  # of no job: what is tried on the side
_APPLICATION = "isocenter.app."  # and its name

POLL_S = 0.2  # a worker looks into each of its queues this often


@dataclass(frozen=True)
class Queue:
    """`in_worker`: how many of its jobs one worker takes at once; `at_once`: all workers together, None: no limit."""

    name: str
    in_worker: int
    at_once: int | None = None


def queue_of(spec: JobSpec, limit: int | None, worker: WorkerSettings) -> Queue:
    """Where this job waits. `limit`: how many of its application run at once, None: as many as the workers take."""
    if limit is not None:
        return _of_application(spec.algorithm.name, limit, worker)
    if spec.priority == "STAT" and worker.stat_slots > 0:
        return Queue(STAT, worker.stat_slots)
    return Queue(COMMON, worker.concurrency)


def queues(applications: Iterable[AppManifest], known: Iterable[str], worker: WorkerSettings) -> list[Queue]:
    """All queues that a worker takes jobs from.

    `known` are the names of those that are there already: jobs may wait in the queue of an application that has no
    limit any more, and are done as if in the common one.
    """
    limited = [
        _of_application(app.name, app.concurrency, worker)
        for app in applications
        if app.concurrency is not None
    ]
    names = {queue.name for queue in limited}
    left = [
        Queue(name, worker.concurrency)
        for name in known
        if name.startswith(_APPLICATION) and name not in names
    ]
    # Without places of their own, what STAT jobs still wait there take common ones.
    return [Queue(COMMON, worker.concurrency), Queue(STAT, max(1, worker.stat_slots)), *limited, *left]


def _of_application(name: str, limit: int, worker: WorkerSettings) -> Queue:
    return Queue(_APPLICATION + name, min(limit, worker.concurrency + worker.stat_slots), limit)


def register(client: DBOSClient, queue: Queue) -> None:
    """Make this queue known to every worker, where it is not: one that was started before takes jobs from it too."""
    client.register_queue(
        queue.name,
        worker_concurrency=queue.in_worker,
        global_concurrency=queue.at_once,
        polling_interval_sec=POLL_S,
        on_conflict="never_update",
    )
