"""What the routes say of a series or a study: wanted or not, why not, and how urgent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from isocenter.route import PRIORITIES, Hours, Priority, Route
from isocenter.rules.condition import Subject
from isocenter.rules.reading import Conditions, read
from isocenter.rules.series import OUR_OWN, Series

__all__ = ["Answer", "RouteVerdict", "explain", "explanation", "judge", "priority_of", "why_not"]


@dataclass(frozen=True)
class Answer:
    """What one route says.

    `reason`: "" when wanted, else the first condition that failed and the value seen. `series_uids`: what the job is
    made of; of an expecting route that lacks some, those that are there. `missing`: the names of the series that a
    study's route expects and that are not there.
    """

    wanted: bool
    reason: str
    series_uids: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class RouteVerdict:
    """What one route says of a series, or of a study (then `series_uid` is ""), and what would follow."""

    route: str
    scope: str
    series_uid: str
    applications: tuple[str, ...]
    wanted: bool
    reason: str
    series_uids: tuple[str, ...]
    missing: tuple[str, ...]
    priority: Priority
    destinations: tuple[str, ...]
    hours: Hours | None

    def as_json(self) -> dict[str, Any]:
        hours = self.hours.model_dump(mode="json") if self.hours else None
        return {**asdict(self), "hours": hours}


def judge(route: Route, study: Sequence[Series], series: Series | None) -> Answer:
    """Whether the route wants the series, or of a route of scope "study" (`series` is None) the study.

    `study` is every series of it; results of ours among them count as not there. Raises what `Series.every` raises,
    where a condition needs every instance.
    """
    if broken := _broken(route):
        return Answer(False, broken)
    members = [each for each in study if not each.ours]
    if series is None:
        return _judge_study(route, members)
    reason = OUR_OWN if series.ours else _against(route, series, members)
    return Answer(not reason, reason, () if reason else (series.series_uid,))


def priority_of(route: Route, study: Sequence[Series], series: Series | None) -> Priority:
    """The most urgent one whose conditions hold for the series (of a study: for any of its series), else routine."""
    if isinstance(route.priority, str):
        return route.priority
    members = [each for each in study if not each.ours]
    for priority in PRIORITIES:
        if priority not in route.priority:
            continue
        conditions = read(route.priority[priority])
        asked = members if series is None else [series]
        if not conditions.problems and any(
            conditions.all.ask(Subject.of(each, members)).holds for each in asked
        ):
            return priority
    return "routine"


def why_not(conditions: Mapping[str, Any], study: Sequence[Series], series: Series) -> str:
    """Why a series does not meet these conditions (as of `priors.when`); "" when it does."""
    told = read(conditions)
    if told.problems:
        return f"the rule itself is wrong: {told.problems[0].message}"
    return told.all.ask(Subject.of(series, [each for each in study if not each.ours])).why


def explain(routes: Sequence[Route], study: Sequence[Series]) -> list[RouteVerdict]:
    """What each route says: of each series, in their order, or of the study."""
    found = []
    for route in routes:
        for series in [None] if route.scope == "study" else study:
            answer = judge(route, study, series)
            found.append(
                RouteVerdict(
                    route=route.name,
                    scope=route.scope,
                    series_uid=series.series_uid if series else "",
                    applications=route.applications,
                    wanted=answer.wanted,
                    reason=answer.reason,
                    series_uids=answer.series_uids,
                    missing=answer.missing,
                    priority=priority_of(route, _of_job(study, answer), series),
                    destinations=route.destinations,
                    hours=route.hours,
                )
            )
    return found


def explanation(
    routes: Sequence[Route],
    study: Sequence[Series],
    more: Callable[[RouteVerdict], Mapping[str, Any]] = lambda _: {},
) -> dict[str, Any]:
    """The same as one JSON document about one study. `more`: what else is to be told of a route."""
    verdicts = explain(routes, study)
    return {
        "study_uid": study[0].study_uid if study else "",
        "series": [
            {
                "series_uid": series.series_uid,
                "instances": series.instances,
                "routes": [
                    {**each.as_json(), **more(each)}
                    for each in verdicts
                    if each.series_uid == series.series_uid
                ],
            }
            for series in study
        ],
        "routes": [{**each.as_json(), **more(each)} for each in verdicts if each.scope == "study"],
    }


def _of_job(study: Sequence[Series], answer: Answer) -> Sequence[Series]:
    """The series that the job would be made of, all where there would be none."""
    return [each for each in study if each.series_uid in answer.series_uids] or study


def _broken(route: Route) -> str:
    """Why nothing can be judged by the route: half of a rule would want what the whole one refuses."""
    for conditions in _read_of(route):
        for problem in conditions.problems:
            where = ".".join(map(str, problem.place))
            return f"the rule itself is wrong: {where}: {problem.message}"
    return ""


def _read_of(route: Route) -> Iterator[Conditions]:
    yield read(route.when)
    for expected in route.expect:
        yield read(expected.when)


def _against(route: Route, series: Series, study: Sequence[Series]) -> str:
    """Why the route does not want the series: the first condition that failed and the value seen, or ""."""
    ruling = read(route.when).all.ask(Subject.of(series, study))
    if not ruling.holds:
        return ruling.why
    if series.instances < route.min_instances:
        return f"{series.instances} instances, and should be {route.min_instances} or more"
    return ""


def _judge_study(route: Route, study: Sequence[Series]) -> Answer:
    against = [_against(route, series, study) for series in study]
    members = [series for series, reason in zip(study, against, strict=True) if not reason]
    if not members and not route.expect:
        return Answer(False, _nearest(read(route.when), study, against))
    if not route.expect:
        return Answer(True, "", tuple(series.series_uid for series in members))
    matched = _matched(route, members, study)
    missing = [each for each in route.expect if each.name not in matched]
    chosen = {series.series_uid for series in matched.values()}
    uids = tuple(series.series_uid for series in members if series.series_uid in chosen)
    if not missing:
        return Answer(True, "", uids)
    first = missing[0]
    if members:
        whys = [why_not(first.when, study, series) or "it stands for another one" for series in members]
        reason = _nearest(read(first.when), members, whys)
    else:
        reason = _nearest(read(route.when), study, against)
    return Answer(False, f"{first.name} is not there: {reason}", uids, tuple(each.name for each in missing))


def _matched(route: Route, members: Sequence[Series], study: Sequence[Series]) -> dict[str, Series]:
    """A series for each expected one, by name: the first that matches. None stands for two.

    Where "T1" also matches the series "T1 post", each still finds its own (augmenting paths, as by Kuhn).
    """
    choices = {each.name: [s for s in members if not why_not(each.when, study, s)] for each in route.expect}
    taken: dict[str, str] = {}  # series UID to the name of the expected one it stands for

    def find(name: str, seen: set[str]) -> bool:
        for series in choices[name]:
            uid = series.series_uid
            if uid in seen:
                continue
            seen.add(uid)
            if uid not in taken or find(taken[uid], seen):
                taken[uid] = name
                return True
        return False

    for name in choices:
        find(name, set())
    by_uid = {series.series_uid: series for series in members}
    return {name: by_uid[uid] for uid, name in taken.items()}


def _nearest(conditions: Conditions, study: Sequence[Series], against: Sequence[str]) -> str:
    """Of several series that are not wanted, the reason of the one that met the most conditions."""
    if not study:
        return "the study has no series but results of ours"
    if len(study) == 1:
        return against[0]
    met = [conditions.all.met(Subject.of(series, study)) for series in study]
    best = met.index(max(met))
    return f"none of {len(study)} series; the nearest, {study[best].series_uid}: {against[best]}"
