"""One job: what is asked of the queue, and what a person is told about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from isocenter_operators.dicom.identity import Algorithm, JobIdentity

__all__ = ["ENDED", "Job", "JobSpec", "State"]

State = Literal["queued", "running", "done", "not_applicable", "failed", "cancelled"]

ENDED: frozenset[State] = frozenset({"done", "not_applicable", "failed", "cancelled"})


@dataclass(frozen=True)
class JobSpec:
    """One application on one exact set of instances: all that a worker needs to know."""

    algorithm: Algorithm
    study_uid: str
    series_uid: str
    sop_instance_uids: tuple[str, ...]
    route: str
    created: datetime = field(default_factory=lambda: datetime.now(UTC))  # dates the results
    settle_s: float = 0.0  # from the last image seen until the job was made

    @property
    def identity(self) -> JobIdentity:
        return JobIdentity.of(self.sop_instance_uids, self.algorithm, self.created)

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "sop_instance_uids": sorted(self.sop_instance_uids),
            "created": self.created.isoformat(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> JobSpec:
        return cls(
            **{
                **content,
                "algorithm": Algorithm(**content["algorithm"]),
                "sop_instance_uids": tuple(content["sop_instance_uids"]),
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
    study_uid: str
    series_uid: str
    created: datetime
    ended: datetime | None
    attempts: int
    reason: str = ""
    groups: tuple[Mapping[str, Any], ...] = ()  # per region: {"label": ..., "notes": [...], name: value}
    notes: tuple[str, ...] = ()
    results: tuple[Mapping[str, str], ...] = ()  # per stored instance: its UIDs and modality
    seconds: Mapping[str, float] = field(default_factory=dict)  # where the time went, in order

    @property
    def over(self) -> bool:
        """Whether nothing more will happen to it by itself."""
        return self.state in ENDED

    def as_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "created": self.created.isoformat(),
            "ended": self.ended.isoformat() if self.ended else None,
        }
