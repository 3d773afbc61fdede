"""Ctrl-C while a graph runs.

Holoscan takes SIGINT and SIGTERM for itself: it would end the graph early and the process without a word, and what
belongs to it would be left behind. Blocked in every thread, they reach nobody but the one that asks for them here.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["attended", "signals_kept"]

_Answer = TypeVar("_Answer")

_STOP = (signal.SIGINT, signal.SIGTERM)
_LOOK_S = 0.05


@contextmanager
def signals_kept() -> Iterator[None]:
    """Keep the signals for `attended`. To be entered before any other thread is started."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def attended(work: Callable[[], _Answer]) -> _Answer:
    """What `work` gives, or raises, in a thread of its own.

    Raises KeyboardInterrupt at once when told to stop. The work can not be ended and goes on until the process ends,
    which has to be by `os._exit`.
    """
    answer: Future[_Answer] = Future()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            answer.set_exception(error)

    threading.Thread(target=run, name="work", daemon=True).start()
    while not answer.done():
        if signal.sigtimedwait(_STOP, _LOOK_S) is not None:
            raise KeyboardInterrupt
    return answer.result()
