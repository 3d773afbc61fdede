"""Decides about a study: which of its series are complete, which routes want them, and which jobs that makes.

Every decision is noted with the fingerprint of the images it was made for. Images that come later change the
fingerprint, so it is made again; the same images never make other work, because a job's ID is the hash of them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from isocenter.arrivals import Arrival, Arrivals, Verdict, study_fingerprint
from isocenter.catalog import Catalog
from isocenter.job import JobSpec
from isocenter.jobs import Jobs
from isocenter.ledger import Ledger
from isocenter.map_reference import package_name
from isocenter.pacs import Orthanc
from isocenter.route import PRIORITIES, Priority, Route
from isocenter.routing.troubles import Troubles
from isocenter.routing.views import Changed, Views
from isocenter.rules import OUR_OWN, Answer, Series, is_our_own, judge, priority_of
from isocenter.settings import Settings
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.errors import ArchiveUnavailable, ConfigurationError

__all__ = ["Decisions"]

log = logging.getLogger("isocenter.routing")

_T = TypeVar("_T")

_OF_THE_STUDY = ("any_series", "no_series", "series_count")  # conditions that another series can change
_COMING = "images may still be coming"


@dataclass
class _Memory:
    """What is remembered of a study while anything about it is undecided; the database knows what must not be lost."""

    views: Views
    troubles: Troubles = field(default_factory=Troubles)  # of the archive with single series
    missing: Troubles = field(default_factory=Troubles)  # applications that are not there
    waiting: dict[str, str] = field(default_factory=dict)  # why, by resource
    decided_at: dict[tuple[str, str], float] = field(default_factory=dict)  # by route and subject
    stat: bool = False  # a route takes it for STAT


@dataclass
class _Look:
    """One look at a study. `left`: the resources about which something is left undecided, and why."""

    memory: _Memory
    images: list[Arrival] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)
    left: dict[str, str] = field(default_factory=dict)
    decisions: list[_Decision] = field(default_factory=list)

    def leave(self, arrivals: Iterable[Arrival], why: str = _COMING) -> None:
        for each in arrivals:
            # That images may still be coming explains less than anything else does.
            if self.left.get(each.resource, _COMING) == _COMING:
                self.left[each.resource] = why

    @property
    def settling(self) -> list[Arrival]:
        return [each for each in self.images if each.settling]

    @property
    def late(self) -> bool:
        """Whether nothing came: the rules were only asked once more. What follows may delay no new work."""
        return bool(self.settling) and all(each.late for each in self.settling)


@dataclass(frozen=True)
class _Decision:
    """What one route says of a subject: a series (its resource) or the study (its UID)."""

    route: Route
    subject: str
    about: tuple[Arrival, ...]  # what waits when it can not be carried out
    wanted: tuple[Arrival, ...]  # what the job is made of
    answer: Answer
    priority: Priority
    print_of: str
    said: tuple[Verdict, ...]  # before, by every route

    @property
    def rank(self) -> int:
        """Not wanted first, because a job that another route makes of these images follows; then the most urgent."""
        return PRIORITIES.index(self.priority) + 1 if self.answer.wanted else 0


class Decisions:
    """Decides about one study at a time. Remembers the attributes of series that are still arriving.

    Errors are those of the queue and SQLAlchemy, and ArchiveUnavailable when the archive itself does not answer. What
    it does not tell of one series is waited for, and so is an application that is not there.
    """

    def __init__(
        self, settings: Settings, orthanc: Orthanc, arrivals: Arrivals, jobs: Jobs, ledger: Ledger
    ) -> None:
        self._settings = settings
        self._orthanc = orthanc
        self._arrivals = arrivals
        self._jobs = jobs
        self._ledger = ledger
        self._studies: dict[str, _Memory] = {}

    def decide(self, study_uid: str) -> bool:
        """Decide what can be decided now; whether nothing is left for later."""
        memory = self._studies.setdefault(study_uid, _Memory(Views(self._orthanc, self._arrivals)))
        look = _Look(memory)
        self._read(look, study_uid)
        for route in self._settings.routes:
            if route.scope == "study":
                self._decide_study(look, route, study_uid)
            else:
                self._decide_series(look, route)
        # Where two routes ask for the same work, it is as urgent as the more urgent one says.
        for decision in sorted(look.decisions, key=lambda each: each.rank):
            self._carry_out(look, decision)
        for arrival in look.settling:
            if arrival.resource not in look.left:
                self._arrivals.close(arrival)
        memory.waiting = look.left
        if not look.left:
            del self._studies[study_uid]
        return not look.left

    def only(self, study_uids: Iterable[str]) -> None:
        """Forget all other studies: they were decided about, or deleted."""
        for study_uid in self._studies.keys() - set(study_uids):
            del self._studies[study_uid]

    def is_stat(self, study_uid: str) -> bool:
        """Whether a study is known to be STAT."""
        memory = self._studies.get(study_uid)
        return memory is not None and memory.stat

    def waiting(self) -> dict[str, str]:
        """Why each series waits that is left undecided, by resource. May be asked from any thread."""
        return {
            resource: why
            for memory in tuple(self._studies.values())
            for resource, why in memory.waiting.items()
        }

    def images_may_come(self) -> bool:
        """Whether anything is left that only time decides."""
        return any(why == _COMING for memory in self._studies.values() for why in memory.waiting.values())

    def troubled(self) -> list[str]:
        """The studies of which the archive does not tell all. May be asked from any thread."""
        return [uid for uid, memory in tuple(self._studies.items()) if any(memory.troubles.reasons)]

    def missing(self) -> list[str]:
        """What is wrong with applications that images wait for."""
        found = (each for memory in self._studies.values() for each in memory.missing.reasons)
        return list(dict.fromkeys(found))

    def _read(self, look: _Look, study_uid: str) -> None:
        """The images of the study, but for what an application of ours made: about that nothing is decided."""
        for arrival in self._arrivals.of_study(study_uid):
            if not arrival.settling:
                look.images += [] if arrival.ours else [arrival]
                continue
            about = ("glance", arrival.resource)
            ours = arrival.ours or self._told(look, about, [arrival], partial(self._is_ours, look, arrival))
            if ours:
                self._close_ours(arrival)
                continue
            look.images.append(arrival)
            if ours is None:
                look.unreadable.add(arrival.resource)

    def _is_ours(self, look: _Look, arrival: Arrival) -> bool:
        return is_our_own(look.memory.views.glance(arrival))

    def _close_ours(self, arrival: Arrival) -> None:
        self._arrivals.judge(arrival.resource, [Verdict("", "", None, OUR_OWN, arrival.fingerprint)])
        self._arrivals.close(arrival, ours=True)

    def _told(
        self, look: _Look, about: tuple[str, ...], of: Sequence[Arrival], ask: Callable[[], _T]
    ) -> _T | None:
        """What the archive tells; None where it can not tell it now, and then these series are left for later."""
        troubles = look.memory.troubles
        if reason := troubles.resting(about):
            look.leave(of, reason)
            return None
        try:
            answer = ask()
        except Changed:
            look.leave(of)
            return None
        except ArchiveUnavailable as error:
            if not self._orthanc.answers():
                raise
            reason = f"can not be routed yet: {error}"
            if troubles.met(about, reason):
                log.warning("study %s, series %s: %s", of[0].study_uid, of[0].series_uid, reason)
            look.leave(of, reason)
            return None
        troubles.over(about)
        return answer

    def _decide_series(self, look: _Look, route: Route) -> None:
        of_the_study = _looks_at_study(route.when)
        for arrival in look.images:
            print_of = study_fingerprint(look.images) if of_the_study else arrival.fingerprint
            if _decided(route, arrival.verdicts, print_of) or not (arrival.settling or of_the_study):
                continue
            waits_for = look.images if of_the_study else [arrival]
            if not all(self._is_complete(look, route, each, arrival.resource) for each in waits_for):
                look.leave([arrival])
                continue
            about = (route.name, arrival.resource)
            judged = self._told(look, about, [arrival], partial(self._judged, look, route, arrival))
            if judged is not None:
                answer, priority = judged
                look.decisions.append(
                    _Decision(
                        route,
                        arrival.resource,
                        (arrival,),
                        (arrival,),
                        answer,
                        priority,
                        print_of,
                        arrival.verdicts,
                    )
                )

    def _judged(self, look: _Look, route: Route, arrival: Arrival) -> tuple[Answer, Priority]:
        views = look.memory.views
        views.refuse_changed(arrival)
        series = views.view(arrival).series
        study = [series]
        if _looks_at_study(route.when) or _looks_at_study(route.priority):
            study = [self._best_view(look, each) for each in look.images]
        return judge(route, study, series), priority_of(route, study, series)

    def _best_view(self, look: _Look, arrival: Arrival) -> Series:
        return (
            look.memory.views.glance(arrival) if arrival.settling else look.memory.views.view(arrival).series
        )

    def _decide_study(self, look: _Look, route: Route, study_uid: str) -> None:
        images, print_of = look.images, study_fingerprint(look.images)
        said = tuple(verdict for each in images for verdict in each.verdicts)
        complete = [each for each in images if self._is_complete(look, route, each, study_uid)]
        arriving = [each for each in images if each not in complete]
        look.leave(arriving)
        if not images or _decided(route, said, print_of):
            return
        if arriving and not (route.expect and complete):
            look.leave(look.settling)
            return
        ask = partial(self._judged_study, look, route, complete)
        judged = self._told(look, (route.name, study_uid), images, ask)
        if judged is None:
            return
        answer, priority = judged
        waits = bool(answer.missing) and not self._waited_long_enough(look, route, study_uid)
        if waits:
            look.leave(look.settling, self._expects(route, answer))
        elif not answer.wanted and arriving:
            look.leave(look.settling)
        else:
            wanted = tuple(each for each in complete if each.series_uid in answer.series_uids)
            look.decisions.append(
                _Decision(route, study_uid, tuple(images), wanted, answer, priority, print_of, said)
            )

    def _judged_study(
        self, look: _Look, route: Route, complete: Sequence[Arrival]
    ) -> tuple[Answer, Priority]:
        views = look.memory.views
        study = {each: views.view(each).series for each in complete}
        answer = judge(route, list(study.values()), None)
        wanted = [series for each, series in study.items() if each.series_uid in answer.series_uids]
        for each in complete:
            if each.series_uid in answer.series_uids:
                views.refuse_changed(each)
        return answer, priority_of(route, wanted, None)

    def _expects(self, route: Route, answer: Answer) -> str:
        names = ", ".join(answer.missing)
        return f"{route.name}: waits for {names}, {self._longest_wait_s(route):g} s at most"

    def _carry_out(self, look: _Look, decision: _Decision) -> None:
        """What becomes of these images by one route: a job for each application, queued, or the reason why not."""
        route, said = decision.route, decision.said
        verdicts = []
        for application in route.applications:
            if _said_by(route, application, said, decision.print_of):
                continue
            if look.late and _has_job(decision, application):
                continue  # nothing came: its images only seem others, as those that were there before and are read now
            if decision.answer.wanted:
                job_id = self._queued(look, decision, application)
                if job_id is None:
                    continue
                verdict = Verdict(route.name, application, job_id, "", decision.print_of)
            else:
                reason = self._reason(route, decision.answer) + self._earlier(decision, application)
                verdict = Verdict(route.name, application, None, reason, decision.print_of)
            log.info("study %s: %s", decision.about[0].study_uid, verdict)
            verdicts.append(verdict)
        self._arrivals.judge(decision.subject, verdicts)
        if verdicts:
            look.memory.decided_at[route.name, decision.subject] = time.time()

    def _reason(self, route: Route, answer: Answer) -> str:
        if not answer.missing:
            return answer.reason
        names = ", ".join(answer.missing)
        return f"{names} did not come within {self._longest_wait_s(route):g} s; looked at again when more images come"

    def _queued(self, look: _Look, decision: _Decision, application: str) -> str | None:
        """The job's ID; None when the application is not there, and then the images wait for it."""
        about = (decision.route.name, decision.subject, application)
        if reason := look.memory.missing.resting(about):
            look.leave(decision.about, reason)
            return None
        try:
            catalog = Catalog.weighed(self._settings)
            algorithm = catalog.for_study(application, decision.wanted[0].study_uid).algorithm
        except ConfigurationError as error:
            look.memory.missing.met(about, str(error))
            look.leave(decision.about, str(error))
            return None
        look.memory.missing.over(about)
        route, wanted = decision.route, decision.wanted
        changed_at = max(each.changed_at for each in wanted)
        views = [look.memory.views.view(each) for each in wanted]
        spec = JobSpec(
            algorithm=algorithm,
            study_uid=wanted[0].study_uid,
            series_uids=tuple(sorted(each.series_uid for each in wanted)),
            sop_instance_uids=tuple(sorted(uid for each in views for uid in each.sop_instance_uids)),
            route=route.name,
            scope=route.scope,
            priority=PRIORITIES[-1] if look.late else decision.priority,
            destinations=route.destinations,
            superseded=route.superseded,
            priors=route.priors,
            hours=route.hours,
            outcome=route.outcome,
            outcome_picture=route.outcome_picture,
            deidentify=route.deidentify,
            settle_s=0.0 if look.late else round(max(0.0, time.time() - changed_at), 3),
        )
        return self._jobs.submit(spec, changed_at=changed_at)

    def _earlier(self, decision: _Decision, application: str) -> str:
        """What becomes of the job that the route made of these series when they had other images, told to be appended.

        One that is not over is cancelled, unless another route asked for it too. Results in the archive stay.
        """
        route, arrival = decision.route, decision.about[0]
        subject = JobSpec(
            Algorithm(package_name(application), ""),
            arrival.study_uid,
            (arrival.series_uid,),
            (),
            route.name,
            route.scope,
            deidentify=route.deidentify,
        ).subject
        ours = {v.job_id for v in decision.said if (v.route, v.application) == (route.name, application)}
        others = {v.job_id for v in decision.said if v.route != route.name}
        told = ""
        for entry in self._ledger.of_study(arrival.study_uid):
            if entry.subject != subject:
                continue
            may_stop = entry.job_id in ours - others
            stopped = f"images came or went, and {route.name} does not want them now"
            if may_stop and entry.state is None and self._jobs.stop(entry.job_id, stopped):
                told = f"; job {entry.job_id[:12]}, of the images before, was cancelled"
            elif entry.results and entry.state in (None, "done") and not entry.superseded_by:
                told = f"; the results of job {entry.job_id[:12]}, of the images before, stay"
        return told

    def _is_complete(self, look: _Look, route: Route, arrival: Arrival, subject: str) -> bool:
        """Whether a series was quiet for long enough, or has been arriving for so long that it is begun.

        The longest wait begins anew with each decision, or one that goes on arriving would make a job at every look.
        After a restart it is counted from the beginning, which makes one job more.
        """
        if not arrival.settling:
            return True
        if arrival.resource in look.unreadable:
            return False
        now = time.time()
        since = max(arrival.arrived_at, look.memory.decided_at.get((route.name, subject), 0.0))
        settled = now - arrival.changed_at >= self._settle_s(look, route, arrival)
        return settled or now - since >= self._longest_wait_s(route)

    def _settle_s(self, look: _Look, route: Route, arrival: Arrival) -> float:
        routing = self._settings.routing
        settle_s = routing.settle_s if route.settle_s is None else route.settle_s
        if arrival.late or not _may_be_stat(route):
            return settle_s
        about = ("urgency", route.name, arrival.resource)
        ask = partial(self._is_stat, look, route, arrival)
        stat = route.priority == "STAT" or self._told(look, about, [arrival], ask)
        if not stat:
            return settle_s
        look.memory.stat = True
        return min(routing.stat_settle_s, settle_s)

    def _is_stat(self, look: _Look, route: Route, arrival: Arrival) -> bool:
        glance = look.memory.views.glance
        study = [glance(arrival)]
        if route.scope == "study" or _looks_at_study(route.priority):
            study = [glance(each) for each in look.images if each.resource not in look.unreadable]
        return priority_of(route, study, glance(arrival) if route.scope == "series" else None) == "STAT"

    def _longest_wait_s(self, route: Route) -> float:
        return self._settings.routing.longest_wait_s if route.longest_wait_s is None else route.longest_wait_s

    def _waited_long_enough(self, look: _Look, route: Route, study_uid: str) -> bool:
        arrived = min((each.arrived_at for each in look.settling), default=0.0)
        since = max(arrived, look.memory.decided_at.get((route.name, study_uid), 0.0))
        return time.time() - since >= self._longest_wait_s(route)


def _decided(route: Route, verdicts: Sequence[Verdict], print_of: str) -> bool:
    """Whether this route has said of exactly these images what becomes of them."""
    return all(_said_by(route, application, verdicts, print_of) for application in route.applications)


def _said_by(route: Route, application: str, verdicts: Sequence[Verdict], print_of: str) -> bool:
    return any(
        (each.route, each.application, each.fingerprint) == (route.name, application, print_of)
        for each in verdicts
    )


def _has_job(decision: _Decision, application: str) -> bool:
    """Whether the route made a job of this series, or study, of whichever images it had then."""
    return any(
        (each.route, each.application, each.subject) == (decision.route.name, application, decision.subject)
        and each.job_id is not None
        for each in decision.said
    )


def _may_be_stat(route: Route) -> bool:
    return route.priority == "STAT" or (isinstance(route.priority, dict) and "STAT" in route.priority)


def _looks_at_study(conditions: Any) -> bool:
    """Whether any condition is about the other series of the study."""
    if isinstance(conditions, Mapping):
        return any(key in _OF_THE_STUDY or _looks_at_study(value) for key, value in conditions.items())
    return isinstance(conditions, list) and any(_looks_at_study(each) for each in conditions)
