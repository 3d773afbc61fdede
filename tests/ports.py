"""TCP ports of loopback for the servers that tests start.

They lie below the ports that the system gives to outgoing connections: a port that is free now, and that a server opens
seconds later, could be taken by any connection of another test meanwhile. Several test processes at once get others
each: a process owns the block that its ports come from.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

__all__ = ["free_port"]

_FIRST, _AFTER_LAST, _BLOCK = 12_000, 20_000, 100


def _owned() -> Iterator[int]:
    starts = list(range(_FIRST, _AFTER_LAST, _BLOCK))
    random.shuffle(starts)
    for start in starts:
        # An abstract address belongs to one socket of this network, and is given back when the process ends.
        owner = socket.socket(socket.AF_UNIX)
        try:
            owner.bind(f"\0isocenter-test-ports-{start}")
        except OSError:
            owner.close()
            continue
        owner.detach()
        yield from range(start, start + _BLOCK)


_ports = _owned()


def free_port() -> int:
    """One that nothing listens on, another at each call."""
    for port in _ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("every port for tests was given away")
