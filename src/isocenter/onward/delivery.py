"""One delivery: what is to be told to one destination of one job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

__all__ = ["Delivery", "DeliveryState", "What"]

What = Literal["results", "superseded", "outcome", "note", "note_withdrawn"]
DeliveryState = Literal["waiting", "sent", "failed", "dropped"]


@dataclass(frozen=True)
class Delivery:
    """One delivery as it stands. Times are in seconds since 1970; `reason` is one sentence for a person, or "".

    `instances` (per instance its UIDs and modality) are fetched from the archive when they are sent; for a webhook
    there are none, and `news` is what it is told.
    """

    id: int
    key: str  # the same for the same delivery, whenever it is sent: 32 hexadecimal digits
    destination: str  # the name of a peer
    study_uid: str
    job_id: str
    what: What
    state: DeliveryState
    attempts: int  # begun in all; with none, nothing of it can have arrived
    failures: int  # since it was queued, or since a person asked for it again
    refusals: int  # of these: the destination, or the archive, said no
    failing_since: float | None
    next_at: float
    reason: str
    created: float
    ended: float | None  # when it was sent, failed or dropped
    instances: tuple[Mapping[str, str], ...]
    news: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """What `isocenter jobs show` tells of it."""
        return {
            "destination": self.destination,
            "what": self.what,
            "state": self.state,
            "attempts": self.attempts,
            "reason": self.reason,
            "created": _moment(self.created),
            "ended": None if self.ended is None else _moment(self.ended),
        }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
