"""Which kinds of trouble may pass, how often each is tried again, and how long is waited before that."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from isocenter.settings import WorkerSettings
from isocenter_operators.errors import DeadlineExceeded, ModelCrashed, OutOfMemory, Unavailable

__all__ = ["Trouble", "retry", "trouble_of"]

_LONGEST_PAUSE_S = 60.0
_JITTER = 0.1  # jobs that failed together shall not come back together


@dataclass(frozen=True)
class Trouble:
    """One kind. `tries` in all, None: worker.attempts."""

    name: str
    tries: int | None


# Whatever is no Unavailable (geometry, an unreadable input, an invalid result, a wrong setting) is never tried again:
# the same input gives the same end.
_AWAY = Trouble("away", None)  # the archive, the inference server, the database; no room on a disk
_DEADLINE = Trouble("deadline", 3)  # a call of a model that did not end
_CRASH = Trouble(
    "crash", 5
)  # the model's process died; calls that waited behind the guilty one are told the same
_MEMORY = Trouble("memory", 2)  # others may have needed it at the same time


def trouble_of(error: Unavailable) -> Trouble:
    if isinstance(error, OutOfMemory) or "out of memory" in str(error).lower():
        return _MEMORY
    if isinstance(error, ModelCrashed):
        return _CRASH
    if isinstance(error, DeadlineExceeded) and error.model is not None:
        return _DEADLINE
    return _AWAY


def retry(trouble: str, met: Mapping[str, int], worker: WorkerSettings) -> float | None:
    """Seconds until the next attempt; None when this kind of trouble was `met` as often as it may be."""
    tries = {each.name: each.tries for each in (_AWAY, _DEADLINE, _CRASH, _MEMORY)}[
        trouble
    ] or worker.attempts
    if met[trouble] >= tries:
        return None
    # The exponent is bounded: the worker may try for hours, and a float has an end.
    pause_s = min(worker.retry_after_s * 2.0 ** min(met[trouble] - 1, 30), _LONGEST_PAUSE_S)
    return pause_s * random.uniform(1 - _JITTER, 1 + _JITTER)
