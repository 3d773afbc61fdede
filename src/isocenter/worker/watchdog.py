"""Ends the worker when a graph hangs, for nothing can interrupt one; the supervisor starts another."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["at_most"]

log = logging.getLogger("isocenter.worker")


@contextmanager
def at_most(limit_s: float) -> Iterator[None]:
    """End the process when the block takes longer. The queue gives the job to the next worker."""
    watch = threading.Timer(limit_s, _leave, [limit_s])
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


def _leave(limit_s: float) -> None:
    log.error("a job has not ended after %g s (worker.longest_attempt_s): this worker ends", limit_s)
    os._exit(1)
