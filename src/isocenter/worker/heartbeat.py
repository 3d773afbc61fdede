"""Shows again and again that this worker lives, and that somebody takes jobs from its queues.

What hangs in a job is ended by the watchdog. Outside of one, a worker in which no Python runs any more is ended by it
too; one that is frozen, or has no thread left that looks into a queue, shows nothing, which the supervisor and a
container's health check see.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection

from isocenter.settings import Settings
from isocenter.worker import presence, watchdog

__all__ = ["BEAT_S", "Heartbeat"]

log = logging.getLogger("isocenter.worker")

BEAT_S = 5.0
_STILL_S = 120.0  # for so long no Python may run, but in a job
_TAKES = "queue-worker-"  # how DBOS calls the thread that looks into a queue, and starts again where that has ended


class Heartbeat:
    """A thread of its own, for as long as the process lives. `queues`: the names of those that this worker serves."""

    def __init__(
        self,
        settings: Settings,
        queues: Collection[str],
        *,
        beat_s: float = BEAT_S,
        still_s: float = _STILL_S,
    ) -> None:
        self._settings = settings
        self._takers = {f"{_TAKES}{queue}" for queue in queues}
        self._beat_s = beat_s
        self._still_s = still_s
        self._gone: set[str] = set()  # by the beat before: DBOS needs a second to start a thread
        self._told = ""

    def start(self) -> None:
        threading.Thread(target=self._work, name="heartbeat", daemon=True).start()

    def beat(self) -> None:
        """Show it, unless a queue was without a taker twice in a row."""
        watchdog.stir(self._still_s)
        gone = self._takers - {thread.name for thread in threading.enumerate()}
        lost, self._gone = gone & self._gone, gone
        if lost:
            names = ", ".join(sorted(each.removeprefix(_TAKES) for each in lost))
            self._say(f"nobody takes jobs from {names} any more: this worker is to be started again")
            return
        try:
            presence.beat(self._settings, watchdog.longest_s())
        except OSError as error:
            self._say(f"it can not be shown that this worker lives: {error.strerror}")
        else:
            self._told = ""

    def _say(self, trouble: str) -> None:
        if trouble != self._told:
            log.error("%s", trouble)
        self._told = trouble

    def _work(self) -> None:
        pause = threading.Event()
        while True:
            self.beat()
            pause.wait(self._beat_s)
