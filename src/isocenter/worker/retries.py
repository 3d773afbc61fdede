"""Which kinds of trouble may pass, how often each is tried again, and how long is waited before that."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from isocenter.settings import WorkerSettings
from isocenter_operators.errors import (
    ConfigurationError,
    DeadlineExceeded,
    ModelCrashed,
    OutOfMemory,
    Unavailable,
)

__all__ = ["BUSY", "Trouble", "retry", "trouble_of"]

_LONGEST_PAUSE_S = 60.0
_JITTER = 0.1  # jobs that failed together shall not come back together


@dataclass(frozen=True)
class Trouble:
    """One kind. `tries` in all, None: worker.attempts."""

    name: str
    tries: int | None


# Geometry, an unreadable input, an invalid result are never tried again: the same input gives the same end.
_AWAY = Trouble("away", None)  # the archive, the inference server, the database; no room on a disk
_DEADLINE = Trouble("deadline", 3)  # a call of a model that did not end
BUSY = Trouble("busy", 20)  # the model was at work on others' calls until the deadline
# An application that is being installed, a password that is being changed: some ten minutes.
_SETTING = Trouble("setting", 15)
_CRASH = Trouble(
    "crash", 5
)  # the model's process died; calls that waited behind the guilty one are told the same
_MEMORY = Trouble("memory", 2)  # others may have needed it at the same time


def trouble_of(error: Unavailable | ConfigurationError) -> Trouble:
    if isinstance(error, ConfigurationError):
        return _SETTING
    if isinstance(error, OutOfMemory) or "out of memory" in str(error).lower():
        return _MEMORY
    if isinstance(error, ModelCrashed):
        return _CRASH
    if isinstance(error, DeadlineExceeded) and error.model is not None:
        return _DEADLINE
    return _AWAY


def retry(trouble: str, met: Mapping[str, int], worker: WorkerSettings) -> float | None:
    """Seconds until the next attempt; None when this kind of trouble was `met` as often as it may be."""
    kinds = (_AWAY, _DEADLINE, BUSY, _SETTING, _CRASH, _MEMORY)
    tries = {each.name: each.tries for each in kinds}[trouble] or worker.attempts
    if met[trouble] >= tries:
        return None
    # The exponent is bounded: the worker may try for hours, and a float has an end.
    pause_s = min(worker.retry_after_s * 2.0 ** min(met[trouble] - 1, 30), _LONGEST_PAUSE_S)
    return pause_s * random.uniform(1 - _JITTER, 1 + _JITTER)
