"""Confined by bubblewrap: a small program that any user may run, where the kernel lets users make namespaces."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from isocenter.maps import seccomp
from isocenter.maps.cell import Cell
from isocenter.maps.mounts import Mount

__all__ = ["available", "command_of"]

_TRY_S = 20.0
_FILTER = 9  # the number of the open file that bubblewrap reads it from, and closes


def available() -> bool:
    """Whether it is installed and may do here what it is for."""
    if shutil.which("bwrap") is None:
        return False
    words = ["bwrap", "--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "true"]
    try:
        return subprocess.run(words, capture_output=True, timeout=_TRY_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def command_of(cell: Cell, folder: Path) -> list[str]:
    """The command that runs the cell. It ends with its parent, and all that was started in it with it.

    folder: an empty one of this run, where the filter of its calls is left.
    """
    words = [
        *_filtered(folder),
        "--unshare-user",
        "--unshare-pid",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup-try",
    ]
    if not cell.network:
        words.append("--unshare-net")
    if _closes_namespaces():
        words.append("--disable-userns")  # in one of its own it would have every capability
    words += ["--die-with-parent", "--new-session", "--hostname", "map", "--cap-drop", "ALL"]
    words += ["--uid", str(cell.user.uid), "--gid", str(cell.user.gid)]
    for mount in cell.mounts:
        words += _words(mount)
    for device in cell.devices:
        words += ["--dev-bind", str(device), str(device)]
    words += ["--remount-ro", "/", "--clearenv"]
    for name, value in cell.environment.items():
        words += ["--setenv", name, value]
    return [*words, "--chdir", cell.directory, "--", *cell.arguments]


def _filtered(folder: Path) -> list[str]:
    """What begins the command. The filter begins to hold after bubblewrap has done its work."""
    program = seccomp.program()
    if not program:
        return ["bwrap"]
    file = folder / "calls.bpf"
    file.write_bytes(program)
    return ["sh", "-c", f'exec {_FILTER}<"$0" "$@"', str(file), "bwrap", "--seccomp", str(_FILTER)]


@cache
def _closes_namespaces() -> bool:
    """Since 0.8."""
    told = subprocess.run(["bwrap", "--help"], capture_output=True, text=True, timeout=_TRY_S, check=False)
    return "--disable-userns" in told.stdout + told.stderr


def _words(mount: Mount) -> Iterator[str]:
    if mount.kind in ("read", "write"):
        yield from ("--ro-bind" if mount.kind == "read" else "--bind", mount.source, mount.target)
    elif mount.kind == "memory":
        yield from ("--perms", "1777", "--size", str(mount.size), "--tmpfs", mount.target)
    elif mount.kind == "folder":
        yield from ("--dir", mount.target)
    elif mount.kind == "link":
        yield from ("--symlink", mount.source, mount.target)
    elif mount.kind == "processes":
        yield from ("--proc", mount.target)
    else:
        yield from ("--dev", mount.target)
        yield from ("--perms", "1777", "--size", str(mount.size), "--tmpfs", f"{mount.target}/shm")
