"""Whether there is room for what is about to be read, where the process' memory is limited.

Native code that is refused a few bytes ends the process: Holoscan does. So what is large asks first, and leaves some.
"""

from __future__ import annotations

import resource
from pathlib import Path

__all__ = ["require_room"]

_LEFT_BYTES = 128 << 20  # for whatever does not ask


def require_room(size_bytes: int) -> None:
    """Raise MemoryError where `size_bytes` more would come too near to the limit of this process (RLIMIT_DATA)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if limit == resource.RLIM_INFINITY:
        return
    pages = int(Path("/proc/self/statm").read_text().split()[5])  # data and stack
    if pages * resource.getpagesize() + size_bytes + _LEFT_BYTES > limit:
        raise MemoryError
