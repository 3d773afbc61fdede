"""What becomes the command that is executed: `python launch.py PARENT OOM_SCORE [CGROUP.PROCS ...] -- COMMAND ...`.

It goes into the control groups, leaves behind what a worker's process has set for itself alone (blocked signals, a
limit of memory), and ends when the process that started it does. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

__all__ = ["main"]

_SET_DEATH_SIGNAL = 1  # <sys/prctl.h>
_NOT_FOUND = 127  # what a shell answers


def main() -> int:
    separator = sys.argv.index("--")
    parent, oom_score, *entrances = sys.argv[1:separator]
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):  # it has died before it could be followed
        return _NOT_FOUND
    for entrance in entrances:
        Path(entrance).write_text(str(os.getpid()))
    if int(oom_score) > 0:
        Path("/proc/self/oom_score_adj").write_text(oom_score)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored_by_python, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash would leave patients' images on the disk
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
    command = sys.argv[separator + 1 :]
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"{command[0]} can not be started: {error.strerror}\n")
    return _NOT_FOUND


if __name__ == "__main__":
    sys.exit(main())
