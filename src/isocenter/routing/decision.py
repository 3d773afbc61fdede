"""Decides about a study: which of its series are complete, which routes want them, and which jobs that makes.

Every decision is noted with the fingerprint of the images it was made for. Images that come later change the
fingerprint, so it is made again; the same images never make other work, because a job's ID is the hash of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from isocenter.arrivals import Arrival, Arrivals, Verdict, fingerprint, study_fingerprint
from isocenter.catalog import Catalog
from isocenter.job import JobSpec
from isocenter.jobs import Jobs
from isocenter.pacs import ArchiveSeries, Orthanc
from isocenter.route import Route
from isocenter.rules import OUR_OWN, Answer, Series, is_our_own, judge, priority_of
from isocenter.settings import Settings

__all__ = ["Decisions"]

log = logging.getLogger("isocenter.routing")

_OF_THE_STUDY = ("any_series", "no_series", "series_count")  # conditions that another series can change


class Decisions:
    """Decides about one study at a time. Remembers the attributes of series that are still arriving.

    Errors are those of the archive, the queue and SQLAlchemy; ConfigurationError where an application is not there.
    """

    def __init__(self, settings: Settings, orthanc: Orthanc, arrivals: Arrivals, jobs: Jobs) -> None:
        self._settings = settings
        self._orthanc = orthanc
        self._arrivals = arrivals
        self._jobs = jobs
        self._seen: dict[str, tuple[str, Series]] = {}  # fingerprint and attributes, by resource

    def decide(self, study_uid: str) -> bool:
        """Decide what can be decided now; whether nothing is left for later."""
        images = [each for each in self._arrivals.of_study(study_uid) if not self._is_ours(each)]
        left: set[str] = set()
        for route in self._settings.routes:
            if route.scope == "study":
                left |= self._decide_study(route, images)
            else:
                left |= self._decide_series(route, images)
        for arrival in images:
            if arrival.settling and arrival.resource not in left:
                self._arrivals.close(arrival)
        if not left:
            for arrival in images:
                self._seen.pop(arrival.resource, None)
        return not left

    def views(self, study_uid: str) -> list[Series]:
        """The series of a study as the rules see them, without results of ours."""
        return [self._view(each) for each in self._arrivals.of_study(study_uid) if not each.ours]

    def _is_ours(self, arrival: Arrival) -> bool:
        """Whether an application of ours made it; then nothing is decided about it."""
        if not arrival.settling:
            return arrival.ours
        if not arrival.ours and not is_our_own(self._view(arrival)):
            return False
        own = Verdict("", "", None, OUR_OWN, arrival.fingerprint)
        self._arrivals.judge(arrival.resource, [own])
        self._arrivals.close(arrival, ours=True)
        self._seen.pop(arrival.resource, None)
        return True

    def _decide_series(self, route: Route, images: Sequence[Arrival]) -> set[str]:
        """The resources about which this route leaves something undecided."""
        left = set()
        of_the_study = _looks_at_study(route.when)
        for arrival in images:
            print_of = study_fingerprint(images) if of_the_study else arrival.fingerprint
            if _decided(route, arrival.verdicts, print_of) or not (arrival.settling or of_the_study):
                continue
            waits_for = images if of_the_study else [arrival]
            if not all(self._is_complete(route, each, images) for each in waits_for):
                left.add(arrival.resource)
                continue
            series = self._still(arrival)
            if series is None:
                left.add(arrival.resource)
                continue
            study = [self._view(each) for each in images]
            answer = judge(route, study, self._view(arrival))
            verdicts = self._verdicts(route, answer, [arrival], print_of, images)
            self._arrivals.judge(arrival.resource, verdicts)
        return left

    def _decide_study(self, route: Route, images: Sequence[Arrival]) -> set[str]:
        """All series of the study where this route leaves something undecided, else none."""
        print_of = study_fingerprint(images)
        complete = [each for each in images if self._is_complete(route, each, images)]
        arriving = {each.resource for each in images if each not in complete}
        if not images or _decided(route, [v for each in images for v in each.verdicts], print_of):
            return arriving
        if arriving and not (route.expect and complete):
            return {each.resource for each in images if each.settling}
        answer = judge(route, [self._view(each) for each in complete], None)
        waits = bool(answer.missing) and not self._waited_long_enough(route, images)
        if waits or (not answer.wanted and arriving):
            return {each.resource for each in images if each.settling}
        wanted = [each for each in complete if each.series_uid in answer.series_uids]
        if any(self._still(each) is None for each in wanted):
            return {each.resource for each in images}
        verdicts = self._verdicts(route, answer, wanted, print_of, images)
        self._arrivals.judge(images[0].study_uid, verdicts)
        return arriving

    def _verdicts(
        self,
        route: Route,
        answer: Answer,
        wanted: Sequence[Arrival],
        print_of: str,
        images: Sequence[Arrival],
    ) -> list[Verdict]:
        """What becomes of these images by one route: a job for each application, queued, or the reason why not."""
        verdicts = []
        for application in route.applications:
            job_id = self._queued(route, application, wanted, images) if answer.wanted else None
            verdict = Verdict(route.name, application, job_id, self._reason(route, answer), print_of)
            log.info("study %s: %s", images[0].study_uid, verdict)
            verdicts.append(verdict)
        return verdicts

    def _reason(self, route: Route, answer: Answer) -> str:
        if not answer.missing:
            return answer.reason
        names = ", ".join(answer.missing)
        return f"{names} did not come within {self._longest_wait_s(route):g} s; looked at again when more images come"

    def _queued(
        self, route: Route, application: str, wanted: Sequence[Arrival], images: Sequence[Arrival]
    ) -> str:
        """Raises ConfigurationError when the application is not there: the images then wait for it."""
        changed_at = max(each.changed_at for each in wanted)
        # A series is as urgent as its study may make it; a study as the series that its job is made of.
        views = [self._view(each) for each in (images if route.scope == "series" else wanted)]
        spec = JobSpec(
            algorithm=Catalog(self._settings.apps_dir).get(application).algorithm,
            study_uid=wanted[0].study_uid,
            series_uids=tuple(sorted(each.series_uid for each in wanted)),
            sop_instance_uids=tuple(
                sorted(uid for each in wanted for uid in self._orthanc.sop_instance_uids(each.resource))
            ),
            route=route.name,
            scope=route.scope,
            priority=priority_of(route, views, self._view(wanted[0]) if route.scope == "series" else None),
            destinations=route.destinations,
            superseded=route.superseded,
            priors=route.priors,
            hours=route.hours,
            settle_s=round(max(0.0, time.time() - changed_at), 3),
        )
        return self._jobs.submit(spec, changed_at=changed_at)

    def _is_complete(self, route: Route, arrival: Arrival, images: Sequence[Arrival]) -> bool:
        """Whether a series was quiet for long enough, or has been arriving for so long that it is begun."""
        now = time.time()
        return (
            not arrival.settling
            or now - arrival.changed_at >= self._settle_s(route, arrival, images)
            or now - arrival.arrived_at >= self._longest_wait_s(route)
        )

    def _settle_s(self, route: Route, arrival: Arrival, images: Sequence[Arrival]) -> float:
        if route.settle_s is not None:
            return route.settle_s
        routing = self._settings.routing
        may_be_stat = route.priority == "STAT" or (
            isinstance(route.priority, dict) and "STAT" in route.priority
        )
        if may_be_stat:
            view = self._view(arrival)
            study = [self._view(each) for each in images]
            if priority_of(route, study, view if route.scope == "series" else None) == "STAT":
                return min(routing.stat_settle_s, routing.settle_s)
        return routing.settle_s

    def _longest_wait_s(self, route: Route) -> float:
        return self._settings.routing.longest_wait_s if route.longest_wait_s is None else route.longest_wait_s

    def _waited_long_enough(self, route: Route, images: Sequence[Arrival]) -> bool:
        begun = min((each.arrived_at for each in images if each.settling), default=0.0)
        return time.time() - begun >= self._longest_wait_s(route)

    def _still(self, arrival: Arrival) -> ArchiveSeries | None:
        """The series as the archive holds it, None when it is not what was recorded; then that is mended."""
        series = self._orthanc.series(arrival.resource)
        if series is None:
            self._arrivals.forget(arrival.resource)
            return None
        if fingerprint(series.instances) != arrival.fingerprint:
            # Not quiet after all, or images were deleted, which the log does not tell by series.
            self._arrivals.record(self._arrivals.position() or 0, [series], time.time())
            return None
        return series

    def _view(self, arrival: Arrival) -> Series:
        """What the rules look at, asked of the archive once for each set of images."""
        print_of, known = self._seen.get(arrival.resource, ("", None))
        if known is not None and print_of == arrival.fingerprint:
            return known
        series = self._orthanc.series(arrival.resource)
        attributes: Mapping[str, Any] = self._orthanc.attributes(min(series.instances)) if series else {}
        view = Series(
            arrival.study_uid,
            arrival.series_uid,
            arrival.instances,
            attributes,
            partial(self._orthanc.every_attributes, arrival.resource),
        )
        self._seen[arrival.resource] = (arrival.fingerprint, view)
        return view


def _decided(route: Route, verdicts: Sequence[Verdict], print_of: str) -> bool:
    """Whether this route has said of exactly these images what becomes of them."""
    said = {
        each.application for each in verdicts if each.route == route.name and each.fingerprint == print_of
    }
    return said >= set(route.applications)


def _looks_at_study(conditions: Any) -> bool:
    """Whether any condition is about the other series of the study."""
    if isinstance(conditions, Mapping):
        return any(key in _OF_THE_STUDY or _looks_at_study(value) for key, value in conditions.items())
    return isinstance(conditions, list) and any(_looks_at_study(each) for each in conditions)
