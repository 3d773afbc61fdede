"""What was decided about a study before a rule was as it is now: why a route that would take it makes no job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from isocenter.arrivals import Arrival, Verdict
from isocenter.route import Route
from isocenter.rules import RouteVerdict, Series, explanation

__all__ = ["Decided", "decided", "explained", "without_job"]


@dataclass(frozen=True)
class Decided:
    """What became of images by one application of a route that would take them now. `job_id` None: see `reason`.

    `at`: in seconds since 1970, None where it was by a release that did not note it.
    """

    application: str
    at: float | None
    job_id: str | None
    reason: str

    @property
    def moment(self) -> str:
        return "" if self.at is None else f"{datetime.fromtimestamp(self.at, UTC):%Y-%m-%d %H:%M} UTC"

    def as_json(self) -> dict[str, Any]:
        at = None if self.at is None else datetime.fromtimestamp(self.at, UTC).isoformat()
        return {"application": self.application, "at": at, "job_id": self.job_id, "reason": self.reason}


def decided(verdict: RouteVerdict, arrivals: Sequence[Arrival]) -> list[Decided]:
    """Of each application of a route. None where the route does not want them, or nothing is decided about them yet.

    arrivals: those of the study.
    """
    about = _about(verdict, arrivals)
    if not verdict.wanted or not about or any(each.settling for each in about):
        return []
    said = {each.application: each for each in _said(verdict, about)}
    others = [
        each.decided_at for arrival in about for each in arrival.verdicts if each.decided_at is not None
    ]
    never = Verdict(verdict.route, "", None, "there was no such route", decided_at=max(others, default=None))
    return [
        Decided(name, found.decided_at, found.job_id, found.reason)
        for name in verdict.applications
        for found in [said.get(name, never)]
    ]


def explained(
    routes: Sequence[Route], study: Sequence[Series], arrivals: Sequence[Arrival]
) -> dict[str, Any]:
    """The explanation of a study's rules as one JSON document, with what was decided about it before."""
    return explanation(
        routes, study, lambda verdict: {"decided": [each.as_json() for each in decided(verdict, arrivals)]}
    )


def without_job(verdict: RouteVerdict, arrivals: Sequence[Arrival]) -> list[str]:
    """The applications of a route that would take these images now, and that it made no job of."""
    made = {each.application for each in _said(verdict, _about(verdict, arrivals)) if each.job_id}
    return [name for name in verdict.applications if verdict.wanted and name not in made]


def _about(verdict: RouteVerdict, arrivals: Sequence[Arrival]) -> list[Arrival]:
    """The images that the route decides about: those of its series, or all of the study."""
    return [each for each in arrivals if not each.ours and verdict.series_uid in ("", each.series_uid)]


def _said(verdict: RouteVerdict, about: Sequence[Arrival]) -> list[Verdict]:
    """What the route said of the series, or of the study: of the other it may have spoken before its scope changed."""
    return [
        each
        for arrival in about
        for each in arrival.verdicts
        if each.route == verdict.route
        and each.subject == (arrival.resource if verdict.series_uid else arrival.study_uid)
    ]
