"""A package that is started in advance, with nothing to work on yet: the two sides of its wait.

It is started like any run, in folders, limits and confinement of its own. It imports what it needs, says so, and waits;
it is let begin once, and ends after that. No process sees the images of two runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Literal

from isocenter_operators import standby

__all__ = ["STANDBY_LABEL", "STANDBY_VALUE", "Standby", "State"]

# What a package of ours says of itself that can wait. One that says so and can not is not begun, or begins at once with
# no image there: whatever it is, it may do no more than a run of it.
STANDBY_LABEL, STANDBY_VALUE = "org.isocenter.standby", "stdin"

State = Literal["starting", "ready", "begun", "over"]


class Standby:
    """One wait. Safe for threads: one runs the package, another one will need it."""

    def __init__(self, idle_s: float, has_room: Callable[[int], bool] = lambda _: True) -> None:
        """Unless somebody has claimed it, it waits for `idle_s` at most, and only as long as there is room for it.

        has_room: asked now and then, with the number of its first process.
        """
        self.idle_s = idle_s
        self.has_room = has_room
        self._changed = threading.Condition()
        self._state: State = "starting"
        self._claimed = False

    @property
    def state(self) -> State:
        with self._changed:
            return self._state

    def end_idle(self) -> bool:
        """It has waited long enough, or is in the way: whether it is over, as it is unless somebody has claimed it."""
        with self._changed:
            if not self._claimed:
                self._become("over")
            return self._state == "over"

    def hear(self, line: str) -> None:
        """A line that the package has said."""
        with self._changed:
            if self._state == "starting" and line == standby.READY:
                self._become("ready")

    def claim(self) -> bool:
        """Take it: from now on it waits until it is begun or ended. False where it is over."""
        with self._changed:
            self._claimed = self._state in ("starting", "ready")
            return self._claimed

    def begin(self) -> bool:
        """Let it begin. False where it does not wait."""
        with self._changed:
            if self._state != "ready":
                return False
            self._become("begun")
            return True

    def end(self) -> bool:
        """It is not wanted any more, or has ended: whether nobody had claimed it."""
        with self._changed:
            self._become("over")
            return not self._claimed

    def wait(self, since: State, timeout_s: float) -> State:
        """Its state, once it is another one than `since`, or after the time."""
        with self._changed:
            self._changed.wait_for(lambda: self._state != since, timeout_s)
            return self._state

    def _become(self, state: State) -> None:
        self._state = state
        self._changed.notify_all()
