"""A control group of the kernel's: what runs in it gets no more memory, CPU time and processes than it is given.

Both of the kernel's interfaces are tried: the first, with a hierarchy for each resource, and the second. A user who may
make no group in either gets none; then the memory is watched from outside (`memory_watch`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from isocenter.maps.limits import Limits

__all__ = ["Cgroup", "cgroup", "memory_left"]

_MOUNTS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_PREFIX = "isocenter-map-"
_PERIOD_US = 100_000
_EMPTY_WITHIN_S = 5.0
_NO_LIMIT = 1 << 60  # bytes; the first interface tells a number near 2 ** 63 where there is none


@dataclass(frozen=True)
class Cgroup:
    """The group's folders, one for each hierarchy. `memory` is the one that counts memory; None where none does."""

    folders: tuple[Path, ...]
    memory: Path | None

    @property
    def entrances(self) -> tuple[Path, ...]:
        """Who writes his process's number into each of these files is in the group, and so are his children."""
        return tuple(folder / "cgroup.procs" for folder in self.folders)

    @property
    def memory_exceeded(self) -> bool:
        """Whether the kernel has ended a process for the group's memory."""
        if self.memory is None:
            return False
        for name in ("memory.oom_control", "memory.events"):
            for line in _lines(self.memory / name):
                key, _, value = line.partition(" ")
                if key == "oom_kill" and value.strip() not in ("", "0"):
                    return True
        return False

    @property
    def memory_peak(self) -> int | None:
        """The most bytes that it ever held, where the kernel tells."""
        if self.memory is None:
            return None
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            for line in _lines(self.memory / name):
                if line.strip().isdigit():
                    return int(line)
        return None

    def end(self) -> None:
        """End all that runs in it, and remove it."""
        deadline = time.monotonic() + _EMPTY_WITHIN_S
        while time.monotonic() < deadline and any(self._processes()):
            for process in self._processes():
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(process, 9)
            time.sleep(0.02)
        for folder in self.folders:
            with suppress(OSError):
                folder.rmdir()

    def _processes(self) -> Iterator[int]:
        for entrance in self.entrances:
            yield from (int(line) for line in _lines(entrance) if line.strip().isdigit())


@contextmanager
def cgroup(limits: Limits) -> Iterator[Cgroup | None]:
    """A group with these limits while it is needed; None where none can be made that limits memory."""
    made = _first(limits) or _second(limits)
    try:
        yield made
    finally:
        if made is not None:
            made.end()


def memory_left() -> int | None:
    """How many bytes more the group may hold that this process is in, as a container's; None where nothing limits it.

    What it holds of files that were only read counts as free: the kernel takes that back.
    """
    for controller, limit, usage in (
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
        ("", "memory.max", "memory.current"),
    ):
        place = _own_place(controller)
        told = ["".join(_lines(place / name)) for name in (limit, usage)] if place is not None else []
        if place is None or not all(each.isdigit() for each in told):
            continue
        most, used = map(int, told)
        files = dict(line.partition(" ")[::2] for line in _lines(place / "memory.stat")).get(
            "inactive_file", "0"
        )
        return None if most >= _NO_LIMIT else most - used + int(files)
    return None


def _first(limits: Limits) -> Cgroup | None:
    """In the hierarchies of the first interface, below where this process is."""
    name = _name()
    wanted = {
        "memory": {"memory.limit_in_bytes": limits.memory},
        "cpu": {"cpu.cfs_period_us": _PERIOD_US, "cpu.cfs_quota_us": int(limits.cpu * _PERIOD_US)},
        "pids": {"pids.max": limits.processes},
    }
    folders, memory = [], None
    for controller, values in wanted.items():
        place = _own_place(controller)
        made = _made(place / name, values) if place is not None else None
        if made is not None:
            folders.append(made)
            memory = made if controller == "memory" else memory
            # With swap it would only become slow; where the kernel does not count swap there is no such file.
            if controller == "memory":
                _written(made / "memory.memsw.limit_in_bytes", limits.memory)
    if memory is not None:
        return Cgroup(tuple(folders), memory)
    for folder in folders:
        folder.rmdir()
    return None


def _second(limits: Limits) -> Cgroup | None:
    """In the second interface's one hierarchy: below this process's group, or beside it."""
    place = _own_place("")
    if place is None:
        return None
    name = _name()
    for parent in (place, place.parent):
        controllers = " ".join(_lines(parent / "cgroup.subtree_control")).split()
        if "memory" not in controllers:
            continue
        made = _made(parent / name, {"memory.max": limits.memory})
        if made is None:
            continue
        _written(made / "memory.swap.max", 0)
        _written(made / "memory.oom.group", 1)
        if "cpu" in controllers:
            _written(made / "cpu.max", f"{int(limits.cpu * _PERIOD_US)} {_PERIOD_US}")
        if "pids" in controllers:
            _written(made / "pids.max", limits.processes)
        return Cgroup((made,), made)
    return None


def _own_place(controller: str) -> Path | None:
    """The folder of the group that this process is in; `controller` "" is the second interface."""
    for line in _lines(_OWN):
        _, names, path = line.split(":", 2)
        if controller in names.split(",") if controller else names == "":
            roots = [_MOUNTS / controller] if controller else [_MOUNTS, _MOUNTS / "unified"]
            for root in roots:
                # In a container the path may be the host's, and what is mounted the group itself.
                for place in (root / path.strip().lstrip("/"), root):
                    if (place / "cgroup.procs").exists():
                        return place
    return None


def _name() -> str:
    return f"{_PREFIX}{os.getpid()}-{uuid4().hex[:12]}"


def _remove_abandoned(parent: Path) -> None:
    """Groups beside ours whose owner was killed before it could remove them: what was in them ended with it."""
    for folder in parent.glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if not Path("/proc", owner).exists():
            with suppress(OSError):
                folder.rmdir()  # which can only be done where nothing is in it


def _made(folder: Path, values: dict[str, int]) -> Path | None:
    _remove_abandoned(folder.parent)
    try:
        folder.mkdir()
    except OSError:
        return None
    if all(_written(folder / name, value) for name, value in values.items()):
        return folder
    folder.rmdir()
    return None


def _written(file: Path, value: int | str) -> bool:
    try:
        file.write_text(str(value))
    except OSError:
        return False
    return True


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
