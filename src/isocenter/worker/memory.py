"""The memory that a worker may use, so that an absurd study ends its own job and not the worker."""

from __future__ import annotations

import logging
import resource
from pathlib import Path

from isocenter.settings import Settings
from isocenter_operators.errors import ConfigurationError

__all__ = ["limit_memory"]

log = logging.getLogger("isocenter.worker")

_MB = 1 << 20
_LEAST_ROOM_MB = 256  # for jobs, beyond what a worker has in use before its first


def limit_memory(settings: Settings) -> None:
    """Refuse this process more than `worker.memory_limit_mb`: what asks for more then meets a MemoryError.

    To be called once the applications are loaded. What is shared with the inference server is not counted, and the
    processes that decode compressed images have a limit of their own.

    Raises ConfigurationError where the limit leaves no room for a job.
    """
    limit_mb = settings.worker.memory_limit_mb
    if limit_mb is None:
        return
    used_mb, data_mb = _in_use_mb("VmRSS"), _in_use_mb("VmData")
    room_mb = limit_mb - used_mb
    if room_mb < _LEAST_ROOM_MB:
        raise ConfigurationError(
            f"worker.memory_limit_mb is {limit_mb}, and a worker at rest uses {used_mb} MB with these "
            f"applications: set it to at least {used_mb + _LEAST_ROOM_MB}, or leave it out"
        )
    # RLIMIT_DATA counts private memory that can be written (on Linux since 4.7). RLIMIT_AS counts every address, in use
    # or not: 1.4 GB in a worker at rest that uses 0.5 GB, and CUDA reserves addresses for all memory of the machine and
    # its GPUs. Of what RLIMIT_DATA counts 0.2 GB are not in use at rest, so it is the room that is added. The stacks of
    # threads to come, 32 MB each, are taken from it: less may be in use in the end than is allowed, but not more.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = (data_mb + room_mb) * _MB
    # The hard limit stays, because the processes that decode images set their own.
    resource.setrlimit(
        resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
    )
    log.info("memory: %d MB in use, %d MB allowed", used_mb, limit_mb)


def _in_use_mb(line: str) -> int:
    """One line of /proc/self/status, as `VmRSS:  546816 kB`."""
    for each in Path("/proc/self/status").read_text().splitlines():
        name, _, value = each.partition(":")
        if name == line:
            return int(value.split()[0]) // 1024
    raise ConfigurationError(
        f"worker.memory_limit_mb can not be kept on this system: it does not tell of {line}"
    )
