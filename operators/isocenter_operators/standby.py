"""A process that is started in advance: it imports what it needs, says so, and begins when it is told to.

Only a process that gets the variable in its environment waits. It is told by a line on its standard input, which
whoever started it keeps open; when that one has ended, there is nothing more to wait for.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

__all__ = ["BEGIN", "READY", "VARIABLE", "stand_by"]

VARIABLE = "ISOCENTER_WAIT"
READY = "isocenter: everything is loaded, and it waits"
BEGIN = "begin"


def stand_by(load: Callable[[], None]) -> bool:
    """Wait, where the environment asks for it. False where nobody will say any more that it is to begin.

    load: what is left to be loaded before the wait, and else comes when it is needed.
    """
    if not os.environ.pop(VARIABLE, ""):
        return True
    load()
    sys.stderr.write(f"{READY}\n")
    sys.stderr.flush()
    return sys.stdin.readline().strip() == BEGIN
