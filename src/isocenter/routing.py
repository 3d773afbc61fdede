"""The router: reads the archive's change log, waits until a series is quiet, and asks the rules.

The plugin's event only makes it look at once. What counts is Orthanc's ordered log, read on from the last sequence
number that was recorded, so that an event that was lost, or came while nothing listened, loses nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from isocenter.arrivals import Arrival, Arrivals, Verdict, fingerprint
from isocenter.catalog import Catalog
from isocenter.job import JobSpec
from isocenter.jobs import Jobs, database_error, prepare
from isocenter.pacs import ArchiveSeries, Change, Orthanc
from isocenter.rules import RouteVerdict, Series, explain
from isocenter.settings import Settings
from isocenter.surprise import log_way, where
from isocenter_operators.errors import ConfigurationError, Unavailable

__all__ = ["Router"]

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
        self._opening = threading.Lock()
        self._arrivals: Arrivals | None = None

    @property
    def arrivals(self) -> Arrivals:
        """What has arrived, and what became of it. Raises Unavailable when there is no database to tell."""
        with self._opening:
            if self._arrivals is None:
                prepare(self._settings)
                self._arrivals = Arrivals(self._settings.database)
            return self._arrivals

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

    def _told(self, ask: Callable[[], list[Arrival]]) -> list[Arrival]:
        try:
            return ask()
        except SQLAlchemyError as error:
            raise database_error(self._settings, error) from error

    def look(self) -> float:
        """Read what is new and judge what is quiet. Gives the seconds until it is worth looking again.

        Raises Unavailable for what is away, and, when all others are judged, for a series that can not be judged.
        """
        self._read_log()
        arriving, unjudged = False, ""
        for arrival in self.arrivals.settling():
            try:
                arriving |= not self._judged(arrival)
            except (Unavailable, SQLAlchemyError):
                raise
            except ConfigurationError as error:
                unjudged = str(error)
            except Exception as error:  # noqa: BLE001 - one strange series must not hold up the others
                log_way(log, error)
                unjudged = f"series {arrival.series_uid} can not be judged: {where(error)}"
        if unjudged:
            raise Unavailable(unjudged)
        return _LOOK_S if arriving else self._settings.routing.reconcile_every_s

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

    def _read_log(self) -> None:
        known = self.arrivals.position()
        since = self._start(known)
        while not self._stop.is_set():
            page = self._orthanc.changes(since)
            seen = self._touched(page.changes)
            if page.last != known or seen:
                created = {
                    c.resource for c in page.changes if c.kind == "NewSeries" and c.sequence > (known or 0)
                }
                self.arrivals.record(page.last, seen, time.time(), created=created)
            since = page.last
            if page.done:
                return

    def _start(self, known: int | None) -> int:
        """Where to read on from, having read up to `known`."""
        newest = self._orthanc.last_change()
        if known is not None and known <= newest:
            return known
        # The first time; or the log has become shorter: images were deleted, which takes their lines away, or it is
        # another archive's. Ours is read from the start, which makes no work twice. What somebody else's archive
        # holds already was not sent to be analysed.
        start = 0 if self._settings.orthanc.embedded else newest
        log.info("reading the archive's changes from number %d on", start)
        return start

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
        return [
            self._queued(said, arrival, series, quiet_s)
            if said.wanted
            else Verdict(said.route, said.application, None, said.reason)
            for said in explain(self._settings.routes, what)
        ]

    def _queued(self, said: RouteVerdict, arrival: Arrival, series: ArchiveSeries, quiet_s: float) -> Verdict:
        """Raises ConfigurationError when the application is not there: the series then waits for it."""
        spec = JobSpec(
            algorithm=Catalog(self._settings.apps_dir).get(said.application).algorithm,
            study_uid=series.study_uid,
            series_uid=series.series_uid,
            sop_instance_uids=self._orthanc.sop_instance_uids(series.resource),
            route=said.route,
            settle_s=round(quiet_s, 3),
        )
        job_id = self._jobs.submit(spec)
        job = self._jobs.show(job_id)
        if job is not None and job.ended is not None and job.ended.timestamp() < arrival.changed_at:
            # It was taken out for a larger set that is gone, or its series was deleted, results and all.
            self._jobs.retry(job_id)
        self._supersede(arrival, said.route, job_id)
        return Verdict(said.route, said.application, job_id, "")

    def _supersede(self, arrival: Arrival, route: str, job_id: str) -> None:
        """An earlier job for fewer instances that still waits would only make results that nobody looks at."""
        for earlier in arrival.verdicts:
            if earlier.route == route and earlier.job_id not in (None, job_id):
                self._jobs.supersede(earlier.job_id)
