"""What the supervisor knows of one child process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Child"]


@dataclass(frozen=True)
class Child:
    """One process of the stack: how it is started, and how one sees that it is ready.

    `ready` answers None once the child serves, and otherwise one sentence on what is still missing. It returns
    within two seconds and raises nothing.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]  # added to the supervisor's own
    log: Path
    ready: Callable[[], str | None]
    address: str  # what a person is told: "http://127.0.0.1:8042"
    ready_within_s: float = 60.0
    stop_within_s: float = 10.0
