"""The router: reads the archive's change log, waits until a series is quiet, and asks the rules.

The plugin's event only makes it look at once. What counts is Orthanc's ordered log, read on from the last sequence
number that was recorded, so that an event that was lost, or came while nothing listened, loses nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from isocenter.arrivals import Arrival, Arrivals, Verdict, fingerprint
from isocenter.catalog import Catalog
from isocenter.job import JobSpec
from isocenter.jobs import Jobs, database_error, prepare
from isocenter.pacs import ArchiveSeries, Change, Orthanc
from isocenter.rules import RouteVerdict, Series, explain
from isocenter.settings import Settings
from isocenter_operators.errors import ConfigurationError, Unavailable

__all__ = ["RouteVerdict", "Router", "Series", "explain"]

log = logging.getLogger("isocenter.routing")

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

    @cached_property
    def arrivals(self) -> Arrivals:
        """What has arrived, and what became of it."""
        prepare(self._settings)
        return Arrivals(self._settings.database)

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
        return {"away": self._away, "settling": len(self.arrivals.settling())}

    def look(self) -> float:
        """Read what is new and judge what is quiet. Gives the seconds until it is worth looking again."""
        self._read_log()
        waiting = [arrival for arrival in self.arrivals.settling() if not self._judged(arrival)]
        return _LOOK_S if waiting else self._settings.routing.reconcile_every_s

    def _work(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            try:
                pause_s = self.look()
                self._back()
            except (Unavailable, SQLAlchemyError) as error:
                pause_s = _AWAY_S
                known = isinstance(error, Unavailable)
                self._gone(str(error if known else database_error(self._settings, error)))
            except Exception as error:
                pause_s = _AWAY_S
                self._gone(f"the router met an unexpected {type(error).__name__} and tries again")
                log.debug("unexpected", exc_info=error)
            self._wake.wait(pause_s)

    def _gone(self, reason: str) -> None:
        if reason != self._away:
            log.warning("%s; waiting", reason)
        self._away = reason

    def _back(self) -> None:
        if self._away:
            log.warning("routing goes on")
        self._away = ""

    def _read_log(self) -> None:
        since = self._position()
        while not self._stop.is_set():
            page = self._orthanc.changes(since)
            seen = self._touched(page.changes)
            if page.last != since or seen:
                self.arrivals.record(page.last, seen, time.time())
            since = page.last
            if page.done:
                return

    def _position(self) -> int:
        newest = self._orthanc.last_change()
        position = self.arrivals.position()
        if position is None:
            # An archive that was there before Isocenter: what it holds already was not sent to be analysed.
            position = 0 if self._settings.orthanc.embedded else newest
            self.arrivals.record(position, (), time.time())
            log.info("reading the archive's changes from number %d on", position)
        elif position > newest:
            log.warning("the archive's change log has begun anew; reading it from the start")
            position = 0
        return position

    def _touched(self, changes: Sequence[Change]) -> list[ArchiveSeries]:
        """The series that these changes are about, as they are now, with as few questions as possible."""
        instances = {change.resource for change in changes if change.kind == "NewInstance"}
        resources = [change.resource for change in changes if change.kind == "NewSeries"]
        if instances:
            resources += [arrival.resource for arrival in self.arrivals.settling()]
        seen: dict[str, ArchiveSeries] = {}
        while resources or instances:
            if not resources:
                parent = self._orthanc.series_of_instance(instances.pop())
                resources = [parent] if parent else []
                continue
            resource = resources.pop()
            series = None if resource in seen else self._orthanc.series(resource)
            if series is not None:
                seen[resource] = series
                instances -= series.instances
        return list(seen.values())

    def _judged(self, arrival: Arrival) -> bool:
        """Judge the series if it is quiet; False when it is still arriving."""
        quiet_s = time.time() - arrival.changed_at
        if quiet_s < self._settings.routing.settle_s:
            return False
        series = self._orthanc.series(arrival.resource)
        if series is None:
            self.arrivals.forget(arrival)
            return True
        if fingerprint(series.instances) != arrival.fingerprint:
            # Not quiet after all, or images were deleted, which the log does not tell by series.
            self.arrivals.record(self.arrivals.position() or 0, [series], time.time())
            return False
        verdicts = self._verdicts(arrival, series, quiet_s)
        self.arrivals.judge(arrival, verdicts)
        for verdict in verdicts:
            log.info("series %s (%d instances): %s", arrival.series_uid, arrival.instances, verdict)
        return True

    def _verdicts(self, arrival: Arrival, series: ArchiveSeries, quiet_s: float) -> list[Verdict]:
        attributes = self._orthanc.attributes(min(series.instances))
        what = Series(series.study_uid, series.series_uid, len(series.instances), attributes)
        verdicts = []
        for said in explain(self._settings.routes, what):
            if not said.wanted:
                verdicts.append(Verdict(said.route, said.application, None, said.reason))
                continue
            self._supersede(arrival, said.route)
            verdicts.append(self._queued(said, series, quiet_s))
        return verdicts

    def _supersede(self, arrival: Arrival, route: str) -> None:
        """A job for fewer instances that still waits would only find that there are more."""
        for earlier in arrival.verdicts:
            if earlier.route == route and earlier.job_id:
                self._jobs.supersede(earlier.job_id)

    def _queued(self, said: RouteVerdict, series: ArchiveSeries, quiet_s: float) -> Verdict:
        try:
            app = Catalog(self._settings.apps_dir).get(said.application)
        except ConfigurationError as error:
            return Verdict(said.route, said.application, None, str(error))
        spec = JobSpec(
            algorithm=app.algorithm,
            study_uid=series.study_uid,
            series_uid=series.series_uid,
            sop_instance_uids=self._orthanc.sop_instance_uids(series.resource),
            route=said.route,
            settle_s=round(quiet_s, 3),
        )
        return Verdict(said.route, said.application, self._jobs.submit(spec), "")
