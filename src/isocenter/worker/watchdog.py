"""Ends the worker when a graph hangs, for nothing can interrupt one, or when no Python runs; another one is started.

A thread of Python can not do it alone: a call that holds the interpreter's lock stops that too. So faulthandler's own
thread, which needs no lock, is set a little later; it writes where each thread stands, no values, and ends the process.
It knows one time only: that of the block that is to end first; where none is open, by which Python has to have run.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["at_most", "longest_s", "stir"]

log = logging.getLogger("isocenter.worker")

_LOG = 2  # a worker's standard error is its log
_GRACE_S = 2.0  # in which Python may say it in a sentence

_setting = threading.Lock()
_ends: list[float] = []  # of the blocks that are open, by time.monotonic()
_still_s: list[float] = []  # how long no Python may run while none is open; empty: as long as it likes


@contextmanager
def at_most(limit_s: float) -> Iterator[None]:
    """End the process when the block takes longer. The queue gives the job to the next worker."""
    watch = threading.Timer(limit_s, _leave, [limit_s])
    watch.daemon = True
    end = time.monotonic() + limit_s + _GRACE_S
    _open(end)
    watch.start()
    try:
        yield
    finally:
        watch.cancel()
        _close(end)


def stir(still_s: float) -> None:
    """Python runs. End the process when it was not said again within `still_s`, unless a block is open."""
    with _setting:
        _still_s[:] = [still_s]
        _set()


def longest_s() -> float:
    """How long the blocks that are open may go on yet; 0 where none is."""
    with _setting:
        return max(0.0, max(_ends, default=0.0) - time.monotonic())


def _open(end: float) -> None:
    with _setting:
        _ends.append(end)
        _set()


def _close(end: float) -> None:
    with _setting:
        _ends.remove(end)
        _set()


def _set() -> None:
    if _ends:
        faulthandler.dump_traceback_later(max(0.001, min(_ends) - time.monotonic()), exit=True, file=_LOG)
    elif _still_s:
        faulthandler.dump_traceback_later(_still_s[0], exit=True, file=_LOG)
    else:
        faulthandler.cancel_dump_traceback_later()


def _leave(limit_s: float) -> None:
    log.error("a job has not ended after %g s (worker.longest_attempt_s): this worker ends", limit_s)
    faulthandler.dump_traceback(file=_LOG)  # where it hangs
    os._exit(1)
