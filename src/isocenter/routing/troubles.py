"""What can not be decided about for now, and when it is tried again."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Troubles"]

_FIRST_S = 2.0
_LONGEST_S = 30.0


@dataclass(frozen=True)
class _Trouble:
    reason: str
    pause_s: float
    until: float  # by the monotonic clock


class Troubles:
    """Reasons by what they are about. Each is rested from for twice as long as the time before."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], _Trouble] = {}

    def resting(self, about: tuple[str, ...]) -> str:
        """The reason why this is not tried now; "" when it is to be."""
        known = self._known.get(about)
        return known.reason if known is not None and time.monotonic() < known.until else ""

    def met(self, about: tuple[str, ...], reason: str) -> bool:
        """It was tried in vain; whether this is news."""
        known = self._known.get(about)
        pause_s = min(known.pause_s * 2, _LONGEST_S) if known else _FIRST_S
        self._known[about] = _Trouble(reason, pause_s, time.monotonic() + pause_s)
        return known is None or known.reason != reason

    def over(self, about: tuple[str, ...]) -> None:
        self._known.pop(about, None)

    @property
    def reasons(self) -> Iterable[str]:
        return dict.fromkeys(each.reason for each in tuple(self._known.values()))
