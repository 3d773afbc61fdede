"""What jobs leave on the disk is removed: by age, and by size with the oldest first."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isocenter.ledger import Ledger
from isocenter.settings import Settings

__all__ = ["Cleaning", "Swept"]

log = logging.getLogger("isocenter.cleaning")

_DAY_S = 86400.0
_MB = 1_000_000


@dataclass(frozen=True)
class Swept:
    """What was removed."""

    folders: int
    bytes: int


@dataclass(frozen=True)
class _Folder:
    path: Path
    changed_at: float  # seconds since 1970
    bytes: int


class Cleaning:
    """The jobs' folders, `data_dir/jobs/<job_id>`: rejected results, and what was fetched for a job."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def sweep(self) -> Swept:
        """Remove folders of jobs that are over. Those of jobs that wait or run are never touched.

        Errors are SQLAlchemy's; a folder that can not be removed is logged, and tried again at the next time.
        """
        limits = self._settings.limits
        over = self._of_ended_jobs()
        oldest_kept = time.time() - limits.jobs_kept_days * _DAY_S
        room = limits.jobs_kept_mb * _MB
        removed = []
        for folder in sorted(
            over, key=lambda each: each.changed_at, reverse=True
        ):  # the newest are kept first
            room -= folder.bytes
            if (folder.changed_at < oldest_kept or room < 0) and _remove(folder.path):
                removed.append(folder)
        return Swept(len(removed), sum(each.bytes for each in removed))

    def _of_ended_jobs(self) -> list[_Folder]:
        folders = list(_folders(self._settings.data_dir / "jobs"))
        known = Ledger(self._settings.database).entries(each.path.name for each in folders)
        # What no ledger knows belongs to nobody any more.
        return [
            each for each in folders if each.path.name not in known or known[each.path.name].state is not None
        ]


def _folders(parent: Path) -> Iterator[_Folder]:
    for path in parent.iterdir() if parent.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            files = [file.lstat() for file in path.rglob("*")]
            changed_at = max(each.st_mtime for each in [path.lstat(), *files])
            yield _Folder(path, changed_at, sum(each.st_size for each in files))


def _remove(path: Path) -> bool:
    try:
        shutil.rmtree(path)
    except OSError as error:
        log.warning("%s can not be removed: %s", path, error.strerror)
        return False
    return True
