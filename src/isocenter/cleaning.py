"""What jobs leave on the disk is removed: by age, and by size with the oldest first."""

from __future__ import annotations

import logging
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from isocenter.ledger import Ledger
from isocenter.ledger_entry import Entry
from isocenter.settings import Settings
from isocenter.shadows import Shadows

__all__ = ["Cleaning", "Swept"]

log = logging.getLogger("isocenter.cleaning")

_DAY_S = 86400.0
_MB = 1_000_000
_JOB_ID = re.compile(r"[0-9a-f]{64}")
_FETCHED = "priors"  # what a job's folder holds only while the job runs, unless its worker was killed
_AT_REST_S = 3600.0  # what nobody has changed for so long is not being worked on
_AT_ONCE = 500  # jobs that the ledger is asked about


@dataclass(frozen=True)
class Swept:
    """What was removed: how many jobs' folders, and how many bytes in all."""

    folders: int
    bytes: int


@dataclass(frozen=True)
class _Folder:
    path: Path
    changed_at: float  # seconds since 1970, of the newest of all that is in it
    bytes: int


class Cleaning:
    """The jobs' folders, `data_dir/jobs/<job_id>`: rejected results, and what was fetched for a job."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def sweep(self) -> Swept:
        """Remove folders of jobs that are over, and what was abandoned. Those of jobs that wait or run are not touched.

        Errors are SQLAlchemy's; a folder that can not be removed is logged, and tried again at the next time.
        """
        limits = self._settings.limits
        Shadows(self._settings.data_dir).trim(limits.jobs_kept_days, limits.shadows_kept_mb)
        ledger = Ledger(self._settings.database)
        folders = sorted(_folders(self._settings.data_dir / "jobs"), key=lambda each: each.changed_at)
        known = _known(ledger, [folder.path.name for folder in folders])
        over = [folder for folder in folders if _is_over(known, folder)]
        doomed = {folder for folder in over if self._is_old(folder, known.get(folder.path.name))}
        excess = (
            sum(each.bytes for each in folders if each not in doomed)
            - self._settings.limits.jobs_kept_mb * _MB
        )
        for folder in over:  # the oldest first
            if excess > 0 and folder not in doomed:
                doomed.add(folder)
                excess -= folder.bytes
        removed = [folder for folder in over if folder in doomed and _remove(ledger, folder)]
        abandoned = sum(_remove_fetched(ledger, folder) for folder in over if folder not in doomed)
        return Swept(len(removed), sum(folder.bytes for folder in removed) + abandoned)

    def _is_old(self, folder: _Folder, entry: Entry | None) -> bool:
        kept_s = self._settings.limits.jobs_kept_days * _DAY_S
        if entry is None:
            # What the ledger does not know was left by another installation, or before the database was lost.
            return time.time() - folder.changed_at > min(kept_s, _DAY_S)
        return time.time() - max(folder.changed_at, entry.ended or 0.0) > kept_s


def _folders(parent: Path) -> Iterator[_Folder]:
    for path in parent.iterdir() if parent.is_dir() else ():
        if _JOB_ID.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            yield _measured(path)


def _measured(path: Path) -> _Folder:
    changed_at, size = 0.0, 0
    for file in (path, *path.rglob("*")):
        try:
            found = file.lstat()
        except FileNotFoundError:
            continue  # a worker has just removed it
        changed_at = max(changed_at, found.st_mtime)
        size += found.st_size
    return _Folder(path, changed_at, size)


def _known(ledger: Ledger, job_ids: list[str]) -> dict[str, Entry]:
    known: dict[str, Entry] = {}
    for start in range(0, len(job_ids), _AT_ONCE):
        known |= ledger.entries(job_ids[start : start + _AT_ONCE])
    return known


def _is_over(known: Mapping[str, Entry], folder: _Folder) -> bool:
    entry = known.get(folder.path.name)
    return entry is None or entry.state is not None


def _remove(ledger: Ledger, folder: _Folder) -> bool:
    """Whether it is gone. It stays when its job has been asked for again meanwhile."""
    if not _is_over(ledger.entries([folder.path.name]), folder):
        return False
    return _removed(folder.path)


def _remove_fetched(ledger: Ledger, folder: _Folder) -> int:
    """Remove what was fetched for a job whose worker died, and give how many bytes that were."""
    fetched = folder.path / _FETCHED
    if not fetched.is_dir() or time.time() - folder.changed_at < _AT_REST_S:
        return 0
    size = _measured(fetched).bytes
    over = _is_over(ledger.entries([folder.path.name]), folder)
    return size if over and _removed(fetched) else 0


def _removed(path: Path) -> bool:
    try:
        shutil.rmtree(path)
    except OSError as error:
        log.warning("%s can not be removed: %s", path, error.strerror)
        return False
    return True
