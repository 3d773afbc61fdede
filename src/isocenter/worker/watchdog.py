"""Ends the worker when a graph hangs, for nothing can interrupt one; the supervisor starts another.

A thread of Python can not do it alone: a call that holds the interpreter's lock stops that too. So faulthandler's own
thread, which needs no lock, is set a little later; it writes where each thread stands, no values, and ends the process.
It knows one time only: that of the block that is to end first.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["at_most"]

log = logging.getLogger("isocenter.worker")

_LOG = 2  # a worker's standard error is its log
_GRACE_S = 2.0  # in which Python may say it in a sentence

_setting = threading.Lock()
_ends: list[float] = []  # of the blocks that are open, by time.monotonic()


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
    else:
        faulthandler.cancel_dump_traceback_later()


def _leave(limit_s: float) -> None:
    log.error("a job has not ended after %g s (worker.longest_attempt_s): this worker ends", limit_s)
    faulthandler.dump_traceback(file=_LOG)  # where it hangs
    os._exit(1)
