"""The router: a thread that reads what arrives, waits until it is complete, and turns it into jobs.

The plugin's event only makes it look at once; what counts is Orthanc's own log.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Container, Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from isocenter.arrivals import Arrival, Arrivals
from isocenter.database import database_error, prepare
from isocenter.disk import shortage
from isocenter.jobs import Jobs
from isocenter.ledger import Ledger
from isocenter.pacs import Orthanc
from isocenter.routing.change_log import ChangeLog
from isocenter.routing.decision import Decisions
from isocenter.routing.troubles import Troubles
from isocenter.routing.views import study_in_archive
from isocenter.rules import Series
from isocenter.settings import Settings
from isocenter.surprise import log_way, where
from isocenter_operators.errors import ArchiveUnavailable, Unavailable

__all__ = ["Router"]

log = logging.getLogger("isocenter.routing")

_T = TypeVar("_T")

_LOOK_S = 0.25  # while a series settles
_AWAY_S = 2.0  # while the archive or the database is away
_PASS_S = 2.0  # then the archive's log is read again: something urgent may have come


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
        self._opening = threading.RLock()
        self._arrivals: Arrivals | None = None
        self._deciding: Decisions | None = None
        self._compare_at = 0.0  # at the start, and every routing.compare_every_s
        self._looked_at: dict[str, float] = {}  # when each study that is left was last decided about
        self._strange: dict[str, Troubles] = {}  # of errors nobody foresaw, by study

    @property
    def arrivals(self) -> Arrivals:
        """What has arrived, and what became of it. Raises Unavailable when there is no database to tell."""
        with self._opening:
            if self._arrivals is None:
                prepare(self._settings)
                self._arrivals = Arrivals(self._settings.database)
            return self._arrivals

    @property
    def _decisions(self) -> Decisions:
        with self._opening:  # the gateway asks it too, from its own threads
            if self._deciding is None:
                arrivals, ledger = self.arrivals, Ledger(self._settings.database)
                self._deciding = Decisions(self._settings, self._orthanc, arrivals, self._jobs, ledger)
            return self._deciding

    @cached_property
    def _change_log(self) -> ChangeLog:
        return ChangeLog(self._orthanc, self.arrivals, everything=self._settings.orthanc.embedded)

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
        """The series that arrived last, and those that can not be read: what became of each. Raises Unavailable."""
        return self._told(lambda: self._newest(limit))

    def study(self, study_uid: str) -> list[Series]:
        """The series of a study as the rules see them, without results of ours. Raises Unavailable."""
        return study_in_archive(self._orthanc, study_uid)

    def known(self, study_uid: str) -> list[Arrival]:
        """The series of a study as they were noted, and what was decided about them. Raises Unavailable."""
        return self._told(lambda: self.arrivals.of_study(study_uid))

    def _newest(self, limit: int) -> list[Arrival]:
        decisions = self._decisions
        found = {each.resource: each for each in self.arrivals.newest(limit)}
        for study_uid in decisions.troubled()[:limit]:
            found |= {each.resource: each for each in self.arrivals.of_study(study_uid)}
        waiting = decisions.waiting()
        return [replace(each, waiting=waiting.get(each.resource, "")) for each in found.values()]

    def _told(self, ask: Callable[[], list[_T]]) -> list[_T]:
        try:
            return ask()
        except SQLAlchemyError as error:
            raise database_error(self._settings, error) from error

    def look(self) -> float:
        """Read what is new and decide about what is quiet. Gives the seconds until it is worth looking again.

        Raises Unavailable for what nothing can be decided without.
        """
        try:
            self._change_log.read()
            compared = self._compare()
        except Unavailable as error:
            missing = shortage(self._settings)
            if missing:  # whoever mends the archive should know of it too
                raise Unavailable(f"{missing}; {error}") from error
            raise
        missing = shortage(self._settings)
        if missing:
            raise Unavailable(missing)
        settling = self.arrivals.settling()
        studies = dict.fromkeys(arrival.study_uid for arrival in settling)
        self._remember_only(studies)
        left, until = False, time.monotonic() + _PASS_S
        for study_uid in self._in_order(studies, {each.study_uid for each in settling if not each.late}):
            left |= not self._decide(study_uid)
            if time.monotonic() >= until:
                return 0.0
        if not compared or self._decisions.images_may_come():
            return _LOOK_S
        reconcile_s = self._settings.routing.reconcile_every_s
        return min(_AWAY_S, reconcile_s) if left else reconcile_s

    def _compare(self) -> bool:
        """Compare when it is time to; whether nothing is left to be compared. What can not be does not hold up more."""
        try:
            if time.monotonic() >= self._compare_at:
                routing = self._settings.routing
                told = self._change_log.compare()
                self._compare_at = time.monotonic() + (
                    routing.compare_every_s if told else routing.reconcile_every_s
                )
            return self._change_log.check()
        except ArchiveUnavailable as error:
            if not self._orthanc.answers():
                raise
            log.warning("the archive can not be compared with what was routed: %s", error)
            self._compare_at = time.monotonic() + self._settings.routing.compare_every_s
            return True

    def _remember_only(self, studies: Iterable[str]) -> None:
        self._decisions.only(studies)
        kept = set(studies)
        self._looked_at = {uid: at for uid, at in self._looked_at.items() if uid in kept}
        self._strange = {uid: troubles for uid, troubles in self._strange.items() if uid in kept}

    def _in_order(self, studies: Iterable[str], came: Container[str]) -> list[str]:
        """STAT first; then what nobody has looked at, the newest first, as it may be STAT; then the others in turn.

        came: those of which something is new. All others, which the rules are only asked about once more, come last.
        """
        newest_first = list(studies)[::-1]  # they are given by when they changed
        return sorted(
            newest_first,
            key=lambda uid: (
                not self._decisions.is_stat(uid),
                uid not in came,
                self._looked_at.get(uid, 0.0),
            ),
        )

    def _decide(self, study_uid: str) -> bool:
        """Whether nothing is left of this study. What is wrong with it must not hold up the others."""
        strange = self._strange.get(study_uid, Troubles())
        if strange.resting((study_uid,)):
            return False
        self._looked_at[study_uid] = time.monotonic()
        try:
            done = self._decisions.decide(study_uid)
        except (Unavailable, SQLAlchemyError):
            raise
        except Exception as error:  # noqa: BLE001 - told, and tried again
            log_way(log, error)
            strange.met((study_uid,), f"study {study_uid} can not be routed: {where(error)}")
            self._strange[study_uid] = strange
            return False
        self._strange.pop(study_uid, None)
        return done

    def _undecided(self) -> str:
        """What studies wait for that somebody has to mend; "" when for nothing but images, or for the archive."""
        strange = [reason for each in self._strange.values() for reason in each.reasons]
        return "; ".join([*self._decisions.missing(), *strange][:3])

    def _work(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                pause_s = self.look()
                self._gone(self._undecided())
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
