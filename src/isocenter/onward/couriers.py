"""The couriers: a thread for each destination, so that one which is down holds up no other."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from isocenter.database import database_error, prepare
from isocenter.jobs import Jobs
from isocenter.ledger import Ledger
from isocenter.notices import Notices
from isocenter.onward.collector import Collector
from isocenter.onward.courier import DATABASE_AWAY_S, Courier, Patience, told
from isocenter.onward.delivery import Delivery
from isocenter.onward.outbox import Counts, Outbox
from isocenter.settings import Settings

__all__ = ["Couriers"]

log = logging.getLogger("isocenter.onward")

_T = TypeVar("_T")

_STOP_WITHIN_S = 10.0


class Couriers:
    """The threads: one that brings outcomes from the ledger into the outbox, and one for each of `peers`."""

    def __init__(self, settings: Settings, patience: Patience | None = None) -> None:
        self._settings = settings
        self._patience = patience or Patience()
        self._opening = threading.Lock()
        self._outbox: Outbox | None = None
        self._collector: Collector | None = None
        self._jobs = Jobs(settings)
        self._stop = threading.Event()
        self._spool = settings.data_dir / "onward"
        self._couriers = {
            name: Courier(
                name,
                settings,
                opened=self._opened,
                stop=self._stop,
                spool=self._spool,
                patience=self._patience,
            )
            for name in settings.peers
        }
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in [
                ("outbox", self._work),
                *((f"courier {name}", each.work) for name, each in self._couriers.items()),
            ]
        ]

    def start(self) -> None:
        # What a process that was killed had fetched.
        shutil.rmtree(self._spool, ignore_errors=True)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Wait for what is being sent, for a while; what is not done then is done after the next start."""
        self._stop.set()
        for each in self._couriers.values():
            each.wake.set()
        give_up = time.monotonic() + _STOP_WITHIN_S
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=max(0.0, give_up - time.monotonic()))
        self._jobs.close()

    def status(self) -> dict[str, dict[str, Any]]:
        """Per destination: `waiting` and `failed` deliveries, `failing_since` and `reason`. Raises Unavailable."""
        counts = self._told(lambda outbox: outbox.counts())
        unknown = {
            name: each.as_json()
            | {"reason": f"peers has no {name!r}; what waits for it goes on when it is back"}
            for name, each in counts.items()
            if name not in self._settings.peers
        }
        return {name: counts.get(name, Counts()).as_json() for name in self._settings.peers} | unknown

    def deliveries(self, job_id: str) -> list[Delivery]:
        """What of a job goes where, oldest first. Raises Unavailable."""
        return self._told(lambda outbox: outbox.of_job(job_id))

    def retry(self, job_id: str) -> int:
        """Send what has failed of a job again, and give how many deliveries that are. Raises Unavailable."""
        return self._told(lambda outbox: outbox.retry(job_id))

    def _told(self, ask: Callable[[Outbox], _T]) -> _T:
        try:
            return ask(self._opened())
        except SQLAlchemyError as error:
            raise database_error(self._settings, error) from error

    def _opened(self) -> Outbox:
        """Raises Unavailable and SQLAlchemy's errors."""
        with self._opening:
            if self._outbox is None:
                prepare(self._settings)
                self._outbox = Outbox(self._settings.database, self._settings.peers)
            return self._outbox

    def _collect(self) -> None:
        outbox = self._opened()
        if self._collector is None:
            ledger, notices = Ledger(self._settings.database), Notices(self._settings.database)
            self._collector = Collector(self._settings, ledger, notices, outbox, self._jobs)
        for name in self._collector.collect():
            if name in self._couriers:
                self._couriers[name].wake.set()

    def _work(self) -> None:
        trouble, pause_s = "", 0.0
        while not self._stop.wait(pause_s):
            said, pause_s = "", self._patience.look_s
            try:
                self._collect()
            except Exception as error:  # noqa: BLE001 - told, and tried again: it ends with the process only
                said, pause_s = told(error, self._settings), DATABASE_AWAY_S
            if said and said != trouble:
                log.warning("outcomes are not sent on: %s; trying again", said)
            trouble = said
