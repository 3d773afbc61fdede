"""The router: a thread that reads what arrives, waits until it is complete, and turns it into jobs.

The plugin's event only makes it look at once; what counts is Orthanc's own log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from isocenter.arrivals import Arrival, Arrivals
from isocenter.database import database_error, prepare
from isocenter.disk import shortage
from isocenter.jobs import Jobs
from isocenter.pacs import Orthanc
from isocenter.routing.change_log import ChangeLog
from isocenter.routing.decision import Decisions
from isocenter.rules import Series
from isocenter.settings import Settings
from isocenter.surprise import log_way, where
from isocenter_operators.errors import ConfigurationError, Unavailable

__all__ = ["Router"]

log = logging.getLogger("isocenter.routing")

_T = TypeVar("_T")

_LOOK_S = 0.25  # while a series settles
_AWAY_S = 2.0  # while the archive or the database is away


class Router:
    """A thread that turns what arrives into jobs. `nudge()` is safe from any thread, and never waits."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._orthanc = Orthanc(settings.orthanc)
        self._jobs = Jobs(settings)
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._away = ""
        self._opening = threading.Lock()
        self._arrivals: Arrivals | None = None
        self._compare_at = 0.0  # at the start, and every routing.compare_every_s

    @property
    def arrivals(self) -> Arrivals:
        """What has arrived, and what became of it. Raises Unavailable when there is no database to tell."""
        with self._opening:
            if self._arrivals is None:
                prepare(self._settings)
                self._arrivals = Arrivals(self._settings.database)
            return self._arrivals

    @cached_property
    def _decisions(self) -> Decisions:
        return Decisions(self._settings, self._orthanc, self.arrivals, self._jobs)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="router", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=10)
        self._orthanc.close()
        self._jobs.close()

    def nudge(self) -> None:
        """Something changed in the archive: look now."""
        self._wake.set()

    def status(self) -> dict[str, Any]:
        """`away`: one sentence on what the router waits for, "" when nothing; `settling`: how many series."""
        return {"away": self._away, "settling": len(self.settling())}

    def settling(self) -> list[Arrival]:
        """The series that are still arriving, or could not be judged yet. Raises Unavailable."""
        return self._told(self.arrivals.settling)

    def newest(self, limit: int = 100) -> list[Arrival]:
        """The series that arrived last, with what became of them. Raises Unavailable."""
        return self._told(lambda: self.arrivals.newest(limit))

    def study(self, study_uid: str) -> list[Series]:
        """The series of a study as the rules see them, without results of ours. Raises Unavailable."""
        return self._told(
            lambda: Decisions(self._settings, self._orthanc, self.arrivals, self._jobs).views(study_uid)
        )

    def _told(self, ask: Callable[[], list[_T]]) -> list[_T]:
        try:
            return ask()
        except SQLAlchemyError as error:
            raise database_error(self._settings, error) from error

    def look(self) -> float:
        """Read what is new and decide about what is quiet. Gives the seconds until it is worth looking again.

        Raises Unavailable for what is away, and, when all others are decided about, for a study that can not be.
        """
        log_reader = ChangeLog(self._orthanc, self.arrivals, everything=self._settings.orthanc.embedded)
        log_reader.read()
        if time.monotonic() >= self._compare_at:
            log_reader.compare()
            self._compare_at = time.monotonic() + self._settings.routing.compare_every_s
        missing = shortage(self._settings)
        if missing:
            raise Unavailable(missing)
        studies = dict.fromkeys(arrival.study_uid for arrival in self.arrivals.settling())
        left, undecided = False, ""
        for study_uid in studies:
            try:
                left |= not self._decisions.decide(study_uid)
            except (Unavailable, SQLAlchemyError):
                raise
            except ConfigurationError as error:
                undecided = str(error)
            except Exception as error:  # noqa: BLE001 - one strange study must not hold up the others
                log_way(log, error)
                undecided = f"study {study_uid} can not be routed: {where(error)}"
        if undecided:
            raise Unavailable(undecided)
        return _LOOK_S if left else self._settings.routing.reconcile_every_s

    def _work(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                pause_s = self.look()
                self._gone("")
            except Unavailable as error:
                pause_s = _AWAY_S
                self._gone(str(error))
            except SQLAlchemyError as error:
                pause_s = _AWAY_S
                self._gone(str(database_error(self._settings, error)))
            except Exception as error:  # noqa: BLE001 - told, and tried again: routing ends with the process only
                pause_s = _AWAY_S
                log_way(log, error)
                self._gone(f"the router met an unexpected {where(error)}, and tries again")
            self._wake.wait(pause_s)

    def _gone(self, reason: str) -> None:
        """Tell once what is waited for; "" when nothing is."""
        if reason and reason != self._away:
            log.warning("%s; waiting", reason)
        elif self._away and not reason:
            log.warning("routing goes on")
        self._away = reason
