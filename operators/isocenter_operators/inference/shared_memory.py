"""POSIX shared memory whose owner can be known to be dead.

A region is a file in /dev/shm that its owner holds locked (flock(2)). The kernel drops the lock with the process,
however that ends, so whoever obtains the lock knows that nobody uses the name any more; unlike a process ID this
also holds between containers that share an IPC namespace. The ID stands in the name for people to read, and with it
the namespace that it is of: each container counts its processes from one.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from isocenter_operators.errors import StorageFull

__all__ = ["PREFIX", "SHARED_MEMORY", "Region", "abandoned", "hold", "remove_abandoned", "remove_own"]

SHARED_MEMORY = Path("/dev/shm")
PREFIX = "isocenter.tensors."
_NAMESPACE = Path("/proc/self/ns/pid")


def hold(path: Path) -> int:
    """Create the file `path` and lock it; returns the descriptor that holds the lock until it is closed."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # somebody took it for abandoned between its creation and its lock


def abandoned(path: Path) -> bool:
    """Whether `path` has no owner any more: it is gone, or nobody holds its lock."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except PermissionError:
        return False  # another user's: not ours to judge
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)


def remove_abandoned(prefix: str = PREFIX) -> Iterator[str]:
    """Remove the regions of dead processes; yields their names."""
    for path in SHARED_MEMORY.glob(f"{prefix}*"):
        if abandoned(path):
            path.unlink(missing_ok=True)
            yield path.name


def remove_own() -> None:
    """Remove the regions of this process, before an end that lets nothing be finalized."""
    for path in SHARED_MEMORY.glob(f"{_own()}*"):
        path.unlink(missing_ok=True)


def _own() -> str:
    """What the names of this process's regions begin with."""
    return f"{PREFIX}{os.getpid()}.{_NAMESPACE.stat().st_ino:x}."


class Region:
    """`size` bytes of shared memory, with every page already there.

    Raises StorageFull when /dev/shm has no room, before anything is written: a sparse file would end in SIGBUS.
    """

    def __init__(self, size: int) -> None:
        self.name = f"{_own()}{secrets.token_hex(4)}"
        self.size = size
        path = SHARED_MEMORY / self.name
        self._descriptor = hold(path)
        self._remove = weakref.finalize(self, _remove, path, self._descriptor, os.getpid())
        try:
            os.posix_fallocate(self._descriptor, 0, size)
            self._memory = mmap.mmap(self._descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except OSError as error:
            self._remove()
            if error.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG):
                raise
            raise StorageFull(
                f"{SHARED_MEMORY} has no room for {size / 1e6:.0f} MB; enlarge it (docker: --shm-size)",
                path=str(SHARED_MEMORY),
            ) from error

    @property
    def key(self) -> str:
        """The name for shm_open(3)."""
        return f"/{self.name}"

    def array(self, dtype: DTypeLike, shape: tuple[int, ...], offset: int) -> NDArray[Any]:
        """A view of the memory from byte `offset`. Only good until the region is used for something else."""
        count = int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(self._memory, dtype, count, offset).reshape(shape)

    def write(self, array: NDArray[Any], offset: int) -> None:
        np.copyto(self.array(array.dtype, array.shape, offset), array)

    def read(self, dtype: DTypeLike, shape: tuple[int, ...], offset: int) -> NDArray[Any]:
        """An array of its own."""
        return self.array(dtype, shape, offset).copy()

    def register(self, server: Any, timeout_s: float) -> None:
        server.register_system_shared_memory(self.name, self.key, self.size, client_timeout=timeout_s)

    def unregister(self, server: Any, timeout_s: float) -> None:
        server.unregister_system_shared_memory(self.name, client_timeout=timeout_s)

    def remove(self) -> None:
        """Take the name away and let go. A process that still maps the memory keeps it, so this is always safe."""
        self._remove()

    def abandon(self) -> None:
        """As `remove`: the memory goes when the server lets go too."""
        self._remove()


def _remove(path: Path, descriptor: int, owner: int) -> None:
    if os.getpid() == owner:  # a forked child inherits the object, not the memory
        path.unlink(missing_ok=True)
        os.close(descriptor)
