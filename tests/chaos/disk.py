"""A small disk of its own for a folder, which can be filled: a tmpfs where that may be mounted."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Disk", "mounted"]


class Disk:
    """A mounted folder. `fill` takes its room away, `free` gives it back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, *, but_bytes: int) -> None:
        """Leave at most so much room."""
        with self._ballast.open("ab") as file:
            # Others write meanwhile, so it is done until it has succeeded.
            while (room := shutil.disk_usage(self.folder).free - but_bytes) > 0:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), room)
                except OSError:
                    continue

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


@contextmanager
def mounted(folder: Path, megabytes: int) -> Iterator[Disk | None]:
    """A disk of this size at `folder`; None where it may not be mounted: not root, or no right to."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        yield None
        return
    options = f"size={megabytes}m,mode=0700"
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        yield None
        return
    try:
        yield Disk(folder)
    finally:
        # Lazily: a process that has just been killed may still be on its way out.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
