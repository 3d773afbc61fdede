"""The size of a thread's stack, of which Holoscan asks for more than systems give."""

from __future__ import annotations

import os
import resource
import sys

__all__ = ["enlarge_stack"]

_STACK_BYTES = 32 * 1024 * 1024


def enlarge_stack() -> None:
    """Start this program again with a larger limit, where it is too small and may be raised.

    Threads take their stack size from the limit at the program's start, so raising it later is of no use to them.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    enough = soft == resource.RLIM_INFINITY or soft >= _STACK_BYTES
    if enough or (hard != resource.RLIM_INFINITY and hard < _STACK_BYTES):
        return
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, hard))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
