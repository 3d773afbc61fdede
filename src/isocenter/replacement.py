"""Superseded and withdrawn results in the archive itself: marked, deleted, or valid again, as the ledger says.

Each step changes the archive first and the ledger after it, and is repeated until both are done: doing it twice is
the same as doing it once. What a crash in between can leave behind is a note that nobody knows of, against results that
are current again by now. Such notes are looked for at the start, and after everything that went wrong.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version

from sqlalchemy.exc import SQLAlchemyError

from isocenter.database import prepare
from isocenter.holdings import Holdings, Instances
from isocenter.ledger import Ledger
from isocenter.ledger_entry import Entry
from isocenter.settings import Settings
from isocenter.surprise import log_way, where
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.dicom.results.rejection import rejection_identity, rejection_note
from isocenter_operators.dicom.rules.validate import check
from isocenter_operators.errors import IsocenterError, Unavailable

__all__ = ["Replacement"]

log = logging.getLogger("isocenter.replacement")

_SERVICE = Algorithm("isocenter", version("isocenter"))  # who says that results are superseded
_NEVER = datetime.fromtimestamp(0, UTC)  # a note's UIDs do not depend on its date

_LATE_S = 60.0  # an archive may still work on a request whose sender has given it up


class Replacement:
    """What the housekeeping does about results that are not, or are again, those to go by. For one thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger: Ledger | None = None
        self._doubt = True  # whether the archive may hold a note that the ledger does not know of
        self._withdrawn: list[tuple[float, Entry]] = []  # and from when on they are looked for once more

    def settle(self) -> int:
        """Make the archive agree with the ledger, and give how many jobs' results that concerned.

        Raises Unavailable, at once, when the archive is away; another IsocenterError when something is wrong with one
        job's results, after all the others are done. SQLAlchemy's errors are the database's.
        """
        ledger = self._opened()
        work = self._work(ledger)
        if not work and not self._doubt:
            return 0
        doubted, self._doubt = self._doubt, False
        if doubted:
            work = [*work, partial(self._clear, ledger)]
        try:
            return self._done(work)
        except (Unavailable, SQLAlchemyError):
            self._doubt = True
            raise

    def _done(self, work: Sequence[Callable[[_Archive], int]]) -> int:
        settled = 0
        wrong: list[IsocenterError] = []
        with _Archive(self._settings) as archive:
            for do in work:
                try:
                    settled += do(archive)
                except Unavailable:
                    raise
                except IsocenterError as error:
                    wrong.append(error)
        if wrong:
            raise wrong[0]
        return settled

    def _opened(self) -> Ledger:
        if self._ledger is None:
            prepare(self._settings)
            self._ledger = Ledger(self._settings.database)
        return self._ledger

    def _work(self, ledger: Ledger) -> list[Callable[[_Archive], int]]:
        """First what makes results valid again, then what replaces others: both for a moment is better than none.

        Marks stay until it is known what becomes of the job that runs again; while it runs, the others are current.
        """
        withdraw = [partial(self._withdraw, ledger, entry) for entry in ledger.to_withdraw()]
        over = (entry for entry in ledger.to_restore() if entry.state is not None)
        restore = [partial(self._restore, ledger, entry) for entry in over]
        supersede = [partial(self._supersede, ledger, old, new) for old, new in ledger.to_supersede()]
        return [*withdraw, *restore, *supersede, *self._late(ledger)]

    def _withdraw(self, ledger: Ledger, entry: Entry, archive: _Archive) -> int:
        """Take what a job stored that did not end well out of the archive."""
        if _changed(ledger, entry):
            return 0
        archive.delete(entry.results)
        if _changed(ledger, entry):
            return 0  # it runs again, and will store all of its results again
        ledger.withdrawn(entry.job_id)
        self._withdrawn.append((time.monotonic() + _LATE_S, entry))
        log.info("job %s: what it had stored is withdrawn", entry.job_id[:12])
        return 1

    def _late(self, ledger: Ledger) -> list[Callable[[_Archive], int]]:
        """What was withdrawn a while ago, and may have been stored after that."""
        due = [entry for at, entry in self._withdrawn if at <= time.monotonic()]
        self._withdrawn = [(at, entry) for at, entry in self._withdrawn if at > time.monotonic()]
        return [partial(self._withdraw_late, ledger, entry) for entry in due]

    def _withdraw_late(self, ledger: Ledger, entry: Entry, archive: _Archive) -> int:
        if _changed(ledger, entry) or not archive.delete(entry.results):
            return 0
        log.warning("job %s: what was stored late is withdrawn", entry.job_id[:12])
        return 1

    def _restore(self, ledger: Ledger, entry: Entry, archive: _Archive) -> int:
        """Take every note against these results out of the archive."""
        if _changed(ledger, entry):
            return 0
        archive.delete(entry.marks)
        for other in ledger.rivals(entry):
            archive.delete([_note_uids(entry, other)])
        ledger.restored(entry.job_id)
        log.info("job %s is current again", entry.job_id[:12])
        return 1

    def _supersede(self, ledger: Ledger, old: Entry, new: Entry, archive: _Archive) -> int:
        if _changed(ledger, old) or _changed(ledger, new):
            return 0
        marks: Instances = ()
        if old.policy == "delete":
            archive.delete(old.results)
        else:
            marks = archive.reject(old, new)
        if _changed(ledger, old) or _changed(ledger, new):
            self._doubt = True  # the note may be against what is current again
            return 0
        ledger.superseded(old.job_id, new.job_id, marks)
        log.info("job %s is superseded by job %s (%s)", old.job_id[:12], new.job_id[:12], old.policy)
        return 1

    def _clear(self, ledger: Ledger, archive: _Archive) -> int:
        """Find notes that were not written down, against results that are current, and delete them."""
        there = archive.notes()
        cleared = 0
        for entry, others in ledger.contested() if there else ():
            stray = [note for other in others if (note := _note_uids(entry, other))["series_uid"] in there]
            if not stray or _changed(ledger, entry):
                continue
            if entry.state is None:
                self._doubt = True  # as in `_work`: not before it is known what becomes of this job
            elif archive.delete(stray):
                cleared += 1
                log.warning("job %s is current: a note against it is deleted", entry.job_id[:12])
        return cleared


class _Archive(Holdings):
    """The archive, and the notes against results in it."""

    def reject(self, old: Entry, new: Entry) -> Instances:
        """Store the note that rejects the results of `old`, and give its UIDs; none when no result is there."""
        header = self.header(old.results)
        if header is None:
            return ()
        try:
            note = rejection_note(
                rejected=old.results,
                header=header,
                application=old.application,
                old_job=old.job_id,
                new_job=new.job_id,
                algorithm=_SERVICE,
                created=datetime.fromtimestamp(new.ended or 0, UTC),
                replaced=new.state == "done",
            )
            check(note)
        except IsocenterError:
            raise
        except Exception as error:
            log_way(log, error)
            raise IsocenterError(
                f"job {old.job_id[:12]}: no note that its results are superseded could be made: {where(error)}"
            ) from error
        self.dicomweb.store([note])
        return [_note_uids(old, new.job_id)]

    def notes(self) -> frozenset[str]:
        """The Series Instance UIDs of all notes of ours."""
        return self.orthanc.series_uids(Modality="KO", Manufacturer=_SERVICE.manufacturer)


def _note_uids(old: Entry, new_job: str) -> dict[str, str]:
    """The note that `old` is superseded by this job, as the ledger lists instances."""
    identity = rejection_identity(old.job_id, new_job, _NEVER)
    return {
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.59",
        "sop_instance_uid": identity.uid("ko"),
        "series_uid": identity.uid("ko.series"),
        "study_uid": old.study_uid,
        "modality": "KO",
    }


def _changed(ledger: Ledger, entry: Entry) -> bool:
    """Whether the job is not any more what it was when it was read: it runs again, or is the newest again."""
    now = ledger.entry(entry.job_id)
    return now is None or _standing(now) != _standing(entry)


def _standing(entry: Entry) -> tuple[object, ...]:
    return entry.generation, entry.attempt, entry.state, entry.superseded_by
