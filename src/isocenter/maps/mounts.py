"""What a confined package sees as its file system: its own root, which it can only read, and a few places over it.

A root may lack the folders that something is to be mounted on, and nothing is made in it: it may be somebody's folder.
So the folders above such a place are made anew in memory, with all that the root has in them bound back, one by one.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from isocenter.maps.root_folder import resolved

__all__ = ["Mount", "host_system", "mounts_over"]

Kind = Literal["read", "write", "memory", "folder", "link", "processes", "devices"]

# The kernel's own settings and secrets: whoever is root outside may change or read them, whatever he is inside.
_SETTINGS = ("bus", "fs", "irq", "mtrr", "sys", "sysrq-trigger")
_SECRETS = (
    *("kallsyms", "kcore", "keys", "kpagecgroup", "kpagecount", "kpageflags", "latency_stats", "sched_debug"),
    *("slabinfo", "timer_list", "timer_stats", "vmallocinfo"),
)
_HOST = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "etc/ld.so.cache", "etc/alternatives")


@dataclass(frozen=True)
class Mount:
    """One step of making the file system; the steps are done in order.

    kind: read, write: `source` of the host at `target`, a file or a folder. memory: an empty folder, of at most `size`
    bytes. folder: a folder in what is there already. link: symbolic, to `source`. processes: /proc. devices: /dev, with
    the harmless ones and shared memory of `size` bytes.
    """

    kind: Kind
    target: str  # absolute, in the package
    source: str = ""
    size: int = 0


@dataclass(frozen=True)
class _Plan:
    """opened: the folders that are made anew. loose: those of them that can be written to. places: what is mounted."""

    root: Path
    opened: set[str]
    loose: set[str]
    places: Mapping[str, Mount]
    size: int  # bytes


def mounts_over(
    root: Path,
    *,
    read: Mapping[str, Path],
    write: Mapping[str, Path],
    scratch: Sequence[str],
    scratch_size: int,
    shared_memory: int,
) -> list[Mount]:
    """The steps, from the outermost to the innermost.

    read, write: the host's files and folders by where they are to be. scratch: folders that can be written to and are
    forgotten; what the root has in one stays in it, to be read. Sizes in bytes.
    """
    places = {
        **{
            resolved(root, target): Mount("read", resolved(root, target), str(source))
            for target, source in read.items()
        },
        **{
            resolved(root, target): Mount("write", resolved(root, target), str(source))
            for target, source in write.items()
        },
        "/proc": Mount("processes", "/proc"),
        "/dev": Mount("devices", "/dev", size=shared_memory),
    }
    loose = {resolved(root, target) for target in scratch} - set(places)
    opened = _opened(root, (*places, *loose), loose)
    steps = list(_steps(_Plan(root, opened, loose, places, scratch_size), "/"))
    # Last, what lies below a folder that is bound as a whole.
    inner = [places[path] for path in sorted(places) if posixpath.dirname(path) not in opened]
    return [*steps, *inner, *_closed()]


def host_system(root: Path) -> dict[str, Path]:
    """The programs and libraries of this machine, to be read by a root that has none of its own; else nothing."""
    if (root / "usr").exists() or (root / "bin").exists():
        return {}
    return {
        f"/{name}": Path("/", name)
        for name in _HOST
        if Path("/", name).exists() and not (root / name).exists()
    }


def _closed() -> Iterator[Mount]:
    """What nobody in it may change, and what nobody may read."""
    for name in (*_SETTINGS, *_SECRETS):
        path = f"/proc/{name}"
        if Path(path).exists():
            yield Mount("read", path, path if name in _SETTINGS else "/dev/null")


def _opened(root: Path, targets: Sequence[str], loose: set[str]) -> set[str]:
    """The folders that have to be made anew: scratch folders, and those that lack something on the way to a target."""
    opened = {"/", *loose}
    for target in targets:
        path = target
        while path != "/":
            parent = posixpath.dirname(path)
            if not os.path.lexists(_on_host(root, path)) or path in opened:
                opened.add(parent)
            path = parent
    return opened


def _steps(plan: _Plan, folder: str) -> Iterator[Mount]:
    loose = folder in plan.loose
    if folder != "/":
        yield Mount("memory", folder, size=plan.size) if loose else Mount("folder", folder)
    here = _on_host(plan.root, folder)
    names = {each.name for each in here.iterdir()} if here.is_dir() and not here.is_symlink() else set()
    for path in (*plan.opened, *plan.places):
        if path != "/" and posixpath.dirname(path) == folder:
            names.add(posixpath.basename(path))
    for name in sorted(names):
        path = posixpath.join(folder, name)
        if path in plan.places:
            yield plan.places[path]
        elif path in plan.opened:
            yield from _steps(plan, path)
        else:
            yield from _bound(here / name, path, loose)


def _bound(source: Path, path: str, in_scratch: bool) -> Iterator[Mount]:
    if source.is_symlink():
        yield Mount("link", path, str(source.readlink()))
    elif source.is_dir():
        # An empty folder in the working directory is there to be written to.
        yield (
            Mount("folder", path)
            if in_scratch and not any(source.iterdir())
            else Mount("read", path, str(source))
        )
    elif source.is_file():
        yield Mount("read", path, str(source))


def _on_host(root: Path, path: str) -> Path:
    return root / path.lstrip("/")
