"""What a route may say: which series or studies it is for, when their jobs start, and what follows.

The conditions themselves (`when`, and those under `priority`, `expect` and `priors`) are read by
`isocenter.rules`, which knows what each may be.
"""

from __future__ import annotations

import re
from datetime import time
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from isocenter.map_reference import is_package, is_reference

__all__ = [
    "PRIORITIES",
    "Deidentify",
    "Expected",
    "Hours",
    "OutcomeWanted",
    "Priority",
    "PriorsWanted",
    "Route",
    "Superseded",
]

Priority = Literal["STAT", "urgent", "routine", "batch"]
Superseded = Literal["keep", "hide", "delete"]
OutcomeWanted = Literal["always", "on_failure", "never"]

PRIORITIES: tuple[Priority, ...] = ("STAT", "urgent", "routine", "batch")  # the most urgent first

_Conditions = dict[str, Any]
_TIME = re.compile(r"([01]?[0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9](\.[0-9]+)?)?", re.ASCII)
# The tags are no keys of the file: setting_names leaves them out of what a person is told.
_Priorities = Annotated[
    Annotated[Priority, Tag("[one]")] | Annotated[dict[Priority, _Conditions], Tag("[several]")],
    Discriminator(lambda given: "[several]" if isinstance(given, dict) else "[one]"),
]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Expected(_Part):
    """A series that the job of a study waits for; `name` is what a person is told when it does not come."""

    name: str
    when: _Conditions


class Hours(_Part):
    """The time of day, on the service's own clock, in which a route's jobs may begin. `end` may be the next morning."""

    start: time
    end: time
    days: tuple[Literal["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"], ...] = ()  # of the start; (): all

    @field_validator("start", "end", mode="before")
    @classmethod
    def _a_time_of_day(cls, given: Any) -> Any:
        """Numbers would be seconds; and the zone is that of the service's own clock."""
        text = given.isoformat() if isinstance(given, time) else str(given)
        if not _TIME.fullmatch(text):
            raise ValueError(f"{given!r} is no time of day like 20:00, on the service's own clock")
        return text if text[1] != ":" else f"0{text}"

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.start == self.end:
            raise ValueError("start and end are the same time")
        return self


class PriorsWanted(_Part):
    """Earlier studies of the same patient that an application wants to see beside the new one."""

    newest: int = Field(default=1, ge=1, le=20)
    source: str | None = None  # the name of one of `peers`; None: our own archive
    same_body_part: bool = True
    when: _Conditions = Field(default_factory=dict)  # on each series of the prior study
    max_age_days: int | None = Field(default=None, ge=1)


class Deidentify(_Part):
    """The application sees who no patient is; its results are the patient's again before they are stored.

    `keep`: what it sees all the same, as options of PS3.15, E.3: the dates of the images; sex, age, size and weight.
    """

    keep: tuple[Literal["dates", "patient_characteristics"], ...] = ()


class Route(_Part):
    """One rule: what meets every condition goes to the applications.

    A route of scope "series" makes one job for each series; one of scope "study" makes one job for all series of a
    study that it wants.
    """

    name: str
    applications: tuple[str, ...] = Field(min_length=1)
    scope: Literal["series", "study"] = "series"
    when: _Conditions = Field(default_factory=dict)
    min_instances: int = Field(default=1, ge=1)
    expect: tuple[Expected, ...] = ()  # of a study: it starts as soon as these are complete
    settle_s: float | None = Field(default=None, ge=0)  # None: routing.settle_s, or stat_settle_s
    longest_wait_s: float | None = Field(default=None, gt=0)  # None: routing.longest_wait_s
    priority: _Priorities = "routine"  # or the first whose conditions hold, else routine
    hours: Hours | None = None
    destinations: tuple[str, ...] = ()  # names of `peers`
    priors: PriorsWanted | None = None
    superseded: Superseded = "keep"  # what becomes of results when a larger set's replace them
    # When the study gets a note on how a job ended. Who sees no result has to know that there is none, and why.
    outcome: OutcomeWanted = "on_failure"  # also where it was not applicable, or the images were refused
    outcome_picture: bool = False  # the note's words as a picture too
    deidentify: Deidentify | None = None  # or true, false

    @model_validator(mode="before")
    @classmethod
    def _one_application(cls, content: Any) -> Any:
        """`application: name` says the same as `applications: [name]`."""
        if isinstance(content, dict) and "application" in content:
            if "applications" in content:
                raise ValueError("give application or applications, not both")
            content = dict(content)
            content["applications"] = (content.pop("application"),)
        return content

    @field_validator("deidentify", mode="before")
    @classmethod
    def _or_not(cls, given: Any) -> Any:
        """`deidentify: true` keeps nothing."""
        return ({} if given else None) if isinstance(given, bool) else given

    @field_validator("applications")
    @classmethod
    def _packages_by_digest(cls, applications: tuple[str, ...]) -> tuple[str, ...]:
        """A tag may be another image tomorrow."""
        for name in applications:
            if is_package(name) and not is_reference(name):
                raise ValueError(
                    f"{name!r}: name a package by its digest, map://NAME@sha256:DIGEST, as `isocenter map list` has it"
                )
        return applications

    @field_validator("expect")
    @classmethod
    def _named_once(cls, expect: tuple[Expected, ...]) -> tuple[Expected, ...]:
        if len({each.name for each in expect}) < len(expect):
            raise ValueError("two expected series have the same name")
        return expect

    @model_validator(mode="after")
    def _expects_in_a_study(self) -> Self:
        if self.expect and self.scope != "study":
            raise ValueError("expect needs scope: study")
        return self

    @model_validator(mode="after")
    def _packages_see_one_study(self) -> Self:
        if self.priors is not None and any(map(is_package, self.applications)):
            raise ValueError("priors: a package (map://) is given the new study alone")
        return self
