"""How long a job waits for another system's priors before it goes on without them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from isocenter.job import JobSpec
from isocenter_operators.errors import ArchiveUnavailable, DeadlineExceeded

__all__ = ["Patience", "Waiting"]

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Patience:
    """Seconds. `away_s`: for all tries at a system that does not answer; `silence_s`: for one answer, or the next
    image; `longest_s`: for all priors of a job, however busily they come."""

    away_s: float = 60.0
    silence_s: float = 30.0
    longest_s: float = 300.0
    first_pause_s: float = 1.0  # between two tries; doubled after each

    @classmethod
    def of(cls, spec: JobSpec) -> Patience:
        """Somebody waits for a STAT result, and would rather have it without the priors than late."""
        return cls(away_s=6.0, silence_s=6.0, longest_s=60.0) if spec.priority == "STAT" else cls()


class Waiting:
    """What is left of the patience with one system. `late` is when all of it must be over."""

    def __init__(self, patience: Patience) -> None:
        self.silence_s = patience.silence_s
        self.late = time.monotonic() + patience.longest_s
        self._away_s = patience.away_s  # what is left for tries that fail
        self._pause_s = patience.first_pause_s

    def through(self, do: Callable[[], _Result]) -> _Result:
        """`do`, again while the system is away and time is left. Raises what it raises after that."""
        while True:
            self.refuse_late()
            began = time.monotonic()
            try:
                return do()
            except (ArchiveUnavailable, DeadlineExceeded):
                self._away_s -= time.monotonic() - began + self._pause_s
                if self._away_s <= 0 or time.monotonic() + self._pause_s >= self.late:
                    raise
                time.sleep(self._pause_s)
                self._pause_s *= 2

    def refuse_late(self) -> None:
        """Raises DeadlineExceeded once all the time is spent."""
        if time.monotonic() >= self.late:
            raise DeadlineExceeded("the time that a job waits for its priors is over")
