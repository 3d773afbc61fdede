"""One job: what is asked of the queue, and what a person is told about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from isocenter.route import (
    PRIORITIES,
    Deidentify,
    Hours,
    OutcomeWanted,
    Priority,
    PriorsWanted,
    Superseded,
)
from isocenter_operators.dicom.identity import Algorithm, JobIdentity

__all__ = ["ENDED", "Job", "JobSpec", "State"]

State = Literal["queued", "running", "done", "not_applicable", "failed", "cancelled"]

ENDED: frozenset[State] = frozenset({"done", "not_applicable", "failed", "cancelled"})


@dataclass(frozen=True)
class JobSpec:
    """One application on one exact set of instances: all that a worker needs to know.

    What the route says of it is copied here, so that a worker with an older isocenter.yaml does the same.
    """

    algorithm: Algorithm
    study_uid: str
    series_uids: tuple[str, ...]  # of the instances
    sop_instance_uids: tuple[str, ...]
    route: str
    scope: Literal["series", "study"] = "series"
    priority: Priority = "routine"
    destinations: tuple[str, ...] = ()
    superseded: Superseded = "keep"
    priors: PriorsWanted | None = None
    hours: Hours | None = None
    created: datetime = field(default_factory=lambda: datetime.now(UTC))  # dates the results
    settle_s: float = 0.0  # from the last image seen until the job was made
    outcome: OutcomeWanted = "never"  # when the study gets a note on how it ended
    outcome_picture: bool = False
    deidentify: Deidentify | None = None  # None: the application sees who the patient is

    @property
    def identity(self) -> JobIdentity:
        """Of images that are seen without some of their attributes the result may be another: that is other work."""
        seen = [self._seen] if self._seen else []
        return JobIdentity.of([*self.sop_instance_uids, *seen], self.algorithm, self.created)

    @property
    def _seen(self) -> str:
        return "" if self.deidentify is None else f"deidentified, with {sorted(self.deidentify.keep)}"

    @property
    def subject(self) -> str:
        """What the newest job of decides: its results replace those of every earlier one with the same subject."""
        what = self.series_uids[0] if self.scope == "series" else self.route
        subject = f"{self.algorithm.name}/{self.study_uid}/{self.scope}/{what}"
        return f"{subject}/{self._seen}" if self._seen else subject

    @property
    def rank(self) -> int:
        """The priority as queues count it: 1 is done first."""
        return PRIORITIES.index(self.priority) + 1

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "series_uids": sorted(self.series_uids),
            "sop_instance_uids": sorted(self.sop_instance_uids),
            "destinations": list(self.destinations),
            "priors": self.priors.model_dump(mode="json") if self.priors else None,
            "hours": self.hours.model_dump(mode="json") if self.hours else None,
            "deidentify": self.deidentify.model_dump(mode="json") if self.deidentify else None,
            "created": self.created.isoformat(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> JobSpec:
        return cls(
            **{
                **content,
                "algorithm": Algorithm(**content["algorithm"]),
                "series_uids": tuple(content["series_uids"]),
                "sop_instance_uids": tuple(content["sop_instance_uids"]),
                "destinations": tuple(content["destinations"]),
                "priors": PriorsWanted(**content["priors"]) if content["priors"] else None,
                "hours": Hours(**content["hours"]) if content["hours"] else None,
                "deidentify": Deidentify(**content["deidentify"]) if content.get("deidentify") else None,
                "created": datetime.fromisoformat(content["created"]),
            }
        )


@dataclass(frozen=True)
class Job:
    """A job as it stands. `reason` is one sentence for a person, "" where there is nothing to explain."""

    id: str  # 64 hexadecimal digits, the identity's
    state: State
    application: str
    route: str
    priority: Priority
    study_uid: str
    series_uids: tuple[str, ...]
    created: datetime
    ended: datetime | None
    attempts: int
    reason: str = ""
    groups: tuple[Mapping[str, Any], ...] = ()  # per region: {"label": ..., "notes": [...], name: value}
    notes: tuple[str, ...] = ()
    results: tuple[Mapping[str, str], ...] = ()  # per stored instance: its UIDs and modality
    seconds: Mapping[str, float] = field(default_factory=dict)  # where the time went, in order
    superseded_by: str = ""  # the job whose results replaced this one's
    models: Mapping[str, str] = field(default_factory=dict)  # that it was made for: name -> version
    outcome_note: str = ""  # how the note in the study on how it ended stands; "" where there is to be none

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it by itself."""
        return self.state in ENDED

    @property
    def series_uid(self) -> str:
        """Of its only series; "" where there are several."""
        return self.series_uids[0] if len(self.series_uids) == 1 else ""

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "series_uid": self.series_uid,
            "created": self.created.isoformat(),
            "ended": self.ended.isoformat() if self.ended else None,
        }
