"""Lets the faults happen: each kind at least once, several at a time where they touch different things."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from chaos.faults import Fault, NotNow
from chaos.site import Site

__all__ = ["break_things", "held"]

_PAUSE_S = (0.1, 1.0)  # between the beginnings of two faults
_AT_ONCE = 3  # faults, at most
_OVERTAKEN = 4  # times, at most: a fault that touches much would come last for ever
_TRIES = 3  # to make a fault felt, for each that there is to be


def break_things(
    site: Site, kinds: Sequence[Fault], number: int, rng: random.Random, over: Callable[[], None]
) -> Counter[str]:
    """Let so many faults happen, and give how many there were of each. `over` is called after each."""
    chosen = list(kinds) + [rng.choice(kinds) for _ in range(number - len(kinds))]
    rng.shuffle(chosen)
    plan = [kind.drawn(site, rng) for kind in chosen]
    return _Breaking(site, plan, over).work(rng)


class _Breaking:
    def __init__(self, site: Site, plan: list[Fault], over: Callable[[], None]) -> None:
        self._site = site
        self._plan = plan
        self._over = over
        self._patience = _TRIES * len(plan)
        self._happened: Counter[str] = Counter()
        self._errors: list[BaseException] = []
        self._touched: set[str] = set()
        self._changed = threading.Condition()
        self._running: list[threading.Thread] = []
        self._overtaken = 0

    def work(self, rng: random.Random) -> Counter[str]:
        while (self._plan or self._alive) and not self._errors:
            time.sleep(rng.uniform(*_PAUSE_S))
            with self._changed:
                fault = self._next()
                if fault is None:
                    self._changed.wait(1)
                    continue
                touches = fault.touches(self._site)
                self._touched.update(touches)
            happening = (fault, touches, random.Random(rng.randrange(1 << 30)))
            thread = threading.Thread(target=self._happen, args=happening)
            thread.start()
            self._running.append(thread)
        for each in self._running:
            each.join()
        if self._errors:
            raise self._errors[0]
        return self._happened

    @property
    def _alive(self) -> int:
        return sum(each.is_alive() for each in self._running)

    def _next(self) -> Fault | None:
        """The fault that is next, or one behind it that touches nothing which is being broken."""
        free = [each for each in self._plan if not self._touched & set(each.touches(self._site))]
        if self._alive >= _AT_ONCE or not free:
            return None
        if free[0] is not self._plan[0]:
            if self._overtaken >= _OVERTAKEN:
                return None
            self._overtaken += 1
        else:
            self._overtaken = 0
        self._plan.remove(free[0])
        return free[0]

    def _happen(self, fault: Fault, touches: tuple[str, ...], rng: random.Random) -> None:
        try:
            with held(self._site, touches):
                self._site.note(f"{fault.name}: begins")
                fault.happen(self._site, rng)
                self._site.note(f"{fault.name}: mended")
            with self._changed:
                self._happened[fault.name] += 1
            self._over()
        except NotNow:
            self._site.note(f"{fault.name}: was not felt")
            self._put_off(fault)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._errors.append(error)
        finally:
            with self._changed:
                self._touched.difference_update(touches)
                self._changed.notify_all()

    def _put_off(self, fault: Fault) -> None:
        with self._changed:
            self._plan.append(fault)
            self._patience -= 1
            if self._patience < 0:
                self._errors.append(
                    AssertionError(f"nothing feels the fault {fault.name!r}, again and again")
                )


def held(site: Site, touches: Sequence[str]) -> ExitStack:
    """Nobody else starts or ends these parts meanwhile."""
    holding = ExitStack()
    for part in site.parts:
        if part.name in touches:
            holding.enter_context(part.held)
    return holding
