"""The gate before the work: how much a worker does at once, and that it begins nothing while the disk is full."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from isocenter.disk import shortage
from isocenter.settings import Settings

__all__ = ["Gate"]

log = logging.getLogger("isocenter.worker")

_LOOK_S = 1.0


@dataclass(frozen=True, order=True)
class _Ticket:
    rank: int  # 1 is STAT
    number: int  # in the order they came
    suspect: bool


class Gate:
    """Gives jobs their places: worker.concurrency common ones, and worker.stat_slots for STAT. Safe for threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._changed = threading.Condition()
        self._numbers = count()
        self._waiting: set[_Ticket] = set()
        self._common: set[_Ticket] = set()
        self._stat: set[_Ticket] = set()
        self._closed = False
        self._shortage = ""

    def close(self) -> None:
        """Let nobody in any more."""
        with self._changed:
            self._closed = True

    @property
    def at_rest(self) -> bool:
        """Whether nothing is done, and nothing waits for a place."""
        with self._changed:
            return not (self._waiting or self._common or self._stat or self._closed or self._shortage)

    @contextmanager
    def place(
        self, rank: int, *, suspect: bool, look: Callable[[], None], tell: Callable[[str], None]
    ) -> Iterator[None]:
        """Wait for a place, by rank and then in the order they came, and hold it for the block.

        A job that has cost a worker its life before is a `suspect`: only STAT jobs run beside it, and no other suspect,
        so that a second death is hardly anybody else's. `look` is called every second of the wait, and may raise;
        `tell` is told what is waited for when that is no other job, and "" when it is over.
        """
        ticket = _Ticket(rank, next(self._numbers), suspect)
        self._wait(ticket, look, tell)
        try:
            yield
        finally:
            with self._changed:
                self._common.discard(ticket)
                self._stat.discard(ticket)
                self._changed.notify_all()

    def _wait(self, ticket: _Ticket, look: Callable[[], None], tell: Callable[[str], None]) -> None:
        told = ""
        with self._changed:
            self._waiting.add(ticket)
        try:
            while not self._enter(ticket):
                look()
                if told != self._shortage:
                    told = self._shortage
                    tell(told)
        finally:
            with self._changed:
                self._waiting.discard(ticket)
                self._changed.notify_all()
        if told:
            tell("")

    def _enter(self, ticket: _Ticket) -> bool:
        """Whether there was a place; when there is none, this waits a moment for one."""
        with self._changed:
            if not self._is_closed() and self._next() == ticket:
                (self._stat if self._takes_stat(ticket) else self._common).add(ticket)
                return True
            self._changed.wait(_LOOK_S)
            return False

    def _is_closed(self) -> bool:
        short = shortage(self._settings) or ""
        if bool(short) != bool(self._shortage):
            log.warning("%s", short or "the disk has room again: jobs go on")
        # Told once: the number of free megabytes changes all the time.
        self._shortage = self._shortage if short and self._shortage else short
        return self._closed or bool(short)

    def _next(self) -> _Ticket | None:
        alone = False  # the first that waits wants to be: nobody overtakes it but STAT
        for ticket in sorted(self._waiting):
            if self._takes_stat(ticket) or (not alone and self._takes_common(ticket)):
                return ticket
            alone |= ticket.suspect
        return None

    def _takes_common(self, ticket: _Ticket) -> bool:
        if ticket.suspect or any(each.suspect for each in self._common | self._stat):
            return not self._common and not any(each.suspect for each in self._stat)
        return len(self._common) < self._settings.worker.concurrency

    def _takes_stat(self, ticket: _Ticket) -> bool:
        free = ticket.rank == 1 and len(self._stat) < self._settings.worker.stat_slots
        return free and not (ticket.suspect and any(each.suspect for each in self._common | self._stat))
