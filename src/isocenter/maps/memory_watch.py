"""The memory of a process and all that it started, counted from outside: where no control group can be made."""

from __future__ import annotations

from pathlib import Path

import psutil

__all__ = ["memory_of_tree"]


def memory_of_tree(process: int) -> int:
    """Bytes that it and its descendants hold now. What several share counts once, where the kernel tells (Pss)."""
    try:
        root = psutil.Process(process)
        family = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    return sum(_memory_of(each) for each in family)


def _memory_of(process: psutil.Process) -> int:
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        resident: int = process.memory_info().rss
    except psutil.Error:
        return 0
    return resident
