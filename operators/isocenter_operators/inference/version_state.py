"""How a version of a model stands on Triton."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["VersionState"]


@dataclass(frozen=True)
class VersionState:
    """In Triton's own words (its model repository extension): READY, LOADING, UNLOADING, UNAVAILABLE with a reason, or
    nothing of one that it was never told to load."""

    state: str
    reason: str

    @property
    def failed(self) -> bool:
        """It could not be loaded. What is "unloaded" was let go of: somebody wanted that, or another has failed."""
        return self.state == "UNAVAILABLE" and self.reason != "unloaded"

    @property
    def settled(self) -> bool:
        """It is neither on its way in nor out."""
        return self.state not in ("LOADING", "UNLOADING")
