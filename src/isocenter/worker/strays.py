"""Attempts that the database says this worker makes, and that it does not: their end could not be written down.

A full disk may be the database's. DBOS gives an attempt up when it can not note what a step answered, and may not be
able to note that either: nobody would go on with it until the worker is started again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dbos import DBOS
from sqlalchemy.exc import SQLAlchemyError

from isocenter.job_rows import attempt_id
from isocenter.jobs import WORKFLOW, Jobs
from isocenter.ledger import Ledger
from isocenter_operators.errors import Unavailable

__all__ = ["Strays"]

log = logging.getLogger("isocenter.worker")

_LOOK_S = 5.0


class Strays:
    """Knows the attempts that are being made in this process. Safe to use from several threads."""

    def __init__(self, worker: str, executor: str, jobs: Jobs, ledger: Ledger) -> None:
        self._worker, self._executor = worker, executor
        self._jobs, self._ledger = jobs, ledger
        self._made: set[str] = set()
        self._seen: set[str] = set()  # by the look before: what two looks see is not on its way
        self._changing = threading.Lock()

    @contextmanager
    def making(self, job_id: str, attempt: int) -> Iterator[None]:
        """This attempt is being made, for the block."""
        name = attempt_id(job_id, attempt)
        with self._changing:
            self._made.add(name)
        try:
            yield
        finally:
            with self._changing:
                self._made.discard(name)

    def start(self) -> None:
        """Look from a thread, as long as the process lives."""
        threading.Thread(target=self._work, name="strays", daemon=True).start()

    def look(self) -> None:
        """Give what strays to the queue again. Errors are SQLAlchemy's, and Unavailable."""
        begun = {attempt_id(e.job_id, e.attempt): e for e in self._ledger.begun_by(self._worker)}
        rows = DBOS.list_workflows(
            name=WORKFLOW, status="PENDING", executor_id=self._executor, load_input=False, load_output=False
        )
        pending = {row.workflow_id: row.queue_name for row in rows}
        with self._changing:
            stray = (begun.keys() | pending.keys()) - self._made
        again, self._seen = stray & self._seen, stray
        for name in again:
            if name in begun:
                log.warning("job %s: how its attempt ended could not be noted; it is made again", name[:12])
                self._jobs.anew(begun[name])
            else:
                DBOS.resume_workflow(name, queue_name=pending[name])

    def _work(self) -> None:
        pause = threading.Event()
        while not pause.wait(_LOOK_S):
            try:
                self.look()
            except (SQLAlchemyError, Unavailable):
                continue  # the database is away, which others tell
