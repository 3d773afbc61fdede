"""Tells studies how their jobs ended: a note in the archive, for as long as it is true.

As in `isocenter.replacement`, each step is written down before and after it is done, and repeated until both are: a
crash at any moment changes nothing in the end, and doing a step twice is the same as doing it once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filereader import read_partial

from isocenter.database import prepare
from isocenter.holdings import Holdings, Instances
from isocenter.job import JobSpec
from isocenter.jobs import Jobs
from isocenter.ledger import Ledger
from isocenter.ledger_entry import Entry
from isocenter.notices import Notice, Notices
from isocenter.settings import Settings
from isocenter.surprise import log_way, where
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.dicom.results.outcome_note import (
    NoteImages,
    NoteSubject,
    outcome_identity,
    outcome_note,
    outcome_picture,
)
from isocenter_operators.dicom.results.rejection import rejection_note
from isocenter_operators.dicom.rules.validate import check
from isocenter_operators.errors import IsocenterError, Unavailable
from isocenter_operators.form import ResultForm

__all__ = ["Telling"]

log = logging.getLogger("isocenter.telling")

_SERVICE = Algorithm("isocenter", version("isocenter"))  # who tells
_REST_S = 30.0  # after something was wrong with one job's note
_TRIED = 3  # images of a series whose header is asked for; some may be damaged
_MANY = "100000"
_HEADER_BYTES = 4_000_000  # all that comes before an image's pixels and the descriptions of its frames
_FRAMES = 0x52009229  # Shared Functional Groups Sequence: from here on an image tells of its frames
_WITHDRAWN = {  # what a note that is not valid any more has said, by how the job ended
    "done": "is done",
    "not_applicable": "is not applicable",
    "refused": "could not use the images",
    "failed": "has failed",
}


class Telling:
    """What the housekeeping does about notes that are to be in their studies, or not any more. For one thread."""

    def __init__(self, settings: Settings, jobs: Jobs) -> None:
        self._settings = settings
        self._jobs = jobs
        self._open: tuple[Ledger, Notices] | None = None
        self._resting: dict[tuple[str, int], float] = {}  # until when nothing is tried about a notice

    def settle(self) -> int:
        """Make the notes in the archive agree with how the jobs stand, and give how many were stored or withdrawn.

        Raises Unavailable, at once, when the archive is away; any IsocenterError when something is wrong with one job's
        note, after all the others are done. SQLAlchemy's errors are the database's.
        """
        ledger, notices = self._opened()
        due = [each for each in notices.open() if self._resting.get(_key(each), 0.0) <= time.monotonic()]
        if not due:
            return 0
        settled = 0
        wrong: list[IsocenterError] = []
        with Holdings(self._settings) as archive:
            for notice in due:
                try:
                    settled += self._settle(ledger, notices, notice, archive)
                except IsocenterError as error:
                    # What the archive can not do for one study, as where it has an empty file, holds up no other.
                    if isinstance(error, Unavailable) and not archive.orthanc.answers():
                        notices.troubled(due, str(error))
                        raise
                    notices.troubled([notice], str(error))
                    self._resting[_key(notice)] = time.monotonic() + _REST_S
                    wrong.append(error)
        if wrong:
            raise wrong[0]
        return settled

    def _opened(self) -> tuple[Ledger, Notices]:
        if self._open is None:
            prepare(self._settings)
            self._open = Ledger(self._settings.database), Notices(self._settings.database)
        return self._open

    def _settle(self, ledger: Ledger, notices: Notices, notice: Notice, archive: Holdings) -> int:
        subject = ledger.of_subject(notice.subject)
        job = next((each for each in subject if each.job_id == notice.job_id), None)
        changed = 0
        # While it runs again, what the last end was is still what there is to know; its next end opens the notice.
        if job is not None and job.state is not None:
            successor = _successor(notice, job, subject)
            if successor is not None:
                changed = _withdraw(notices, notice, successor, archive)
            elif notice.withdrawn_by is not None or notice.marks:
                changed = _restore(notices, notice, archive)
                notice = replace(notice, marks=(), withdrawn_by=None)
            if successor is None and not notice.stored and _is_of(notice, job):
                changed = self._store(notices, notice, job, archive)
        notices.settled(notice)
        self._resting.pop(_key(notice), None)
        return changed

    def _store(self, notices: Notices, notice: Notice, job: Entry, archive: Holdings) -> int:
        spec = self._jobs.spec(notice.job_id)
        if spec is None:
            notices.troubled([notice], "there is no record any more of what the job was asked to do")
            return 0
        images = _images(archive, spec)
        header = _header(archive, images, spec.study_uid)
        if header is None:
            notices.troubled([notice], "its images are not in the archive any more")
            return 0
        results = job.results if notice.ending == "done" else ()
        made = _note(notice, _subject(notice, spec, images, results), header, self._settings.result_form())
        notices.storing(notice, [_listed(each) for each in made])
        archive.dicomweb.store(made)
        notices.stored(notice)
        log.info("job %s: its study is told (%s)", notice.job_id[:12], notice.ending)
        return 1


def _key(notice: Notice) -> tuple[str, int]:
    return notice.job_id, notice.attempt


def _is_of(notice: Notice, job: Entry) -> bool:
    """Whether this is how the job has ended; not by a person who has stopped it since."""
    return job.attempt == notice.attempt and job.state != "cancelled"


def _successor(notice: Notice, job: Entry, subject: Sequence[Entry]) -> Entry | None:
    """The job whose end has made the note invalid: the same one, run again, or a newer one of its subject.

    A newer one that failed replaces no results, and so no note that tells of some.
    """
    if job.attempt != notice.attempt and job.state in ("done", "not_applicable", "failed"):
        return job
    # Its results are taken back, and what they had made invalid does not become true by that.
    if job.state == "cancelled" and (notice.ending == "done" or notice.withdrawn_by == job.job_id):
        return job
    enough = {"done", "not_applicable"} if notice.ending == "done" else {"done", "not_applicable", "failed"}
    newer = [each for each in subject if each.generation > job.generation and each.state in enough]
    return newer[-1] if newer else None


def _withdraw(notices: Notices, notice: Notice, successor: Entry, archive: Holdings) -> int:
    """The note goes as superseded results go, by its route's policy; one that is not known to be there is deleted."""
    if notice.withdrawn_by is not None:
        return 0
    header = archive.header(notice.instances) if notice.stored and notice.policy != "delete" else None
    if header is None:
        archive.delete(notice.instances)
        notices.deleted(notice, successor.job_id)
    else:
        mark = _mark(notice, successor, header)
        # One that was stored before a crash, for another successor, is not to be forgotten.
        notices.marking(notice, [*(each for each in notice.marks if each != _listed(mark)), _listed(mark)])
        archive.dicomweb.store([mark])
        notices.withdrawn(notice, successor.job_id)
    log.info("job %s: what its study was told is not valid any more", notice.job_id[:12])
    return 1


def _restore(notices: Notices, notice: Notice, archive: Holdings) -> int:
    """What had replaced it is not there any more."""
    archive.delete(notice.marks)
    notices.restored(notice)
    return 1


def _images(archive: Holdings, spec: JobSpec) -> tuple[NoteImages, ...]:
    """What of the job's images is in the archive, by series."""
    found = []
    for series in archive.dicomweb.search_series(spec.study_uid):
        series_uid = _text(series, "0020000E")
        if series_uid not in spec.series_uids:
            continue
        listed = archive.dicomweb.search_instances(spec.study_uid, series_uid, limit=_MANY)
        instances = sorted((_text(each, "00080018"), _text(each, "00080016")) for each in listed)
        wanted = tuple((sop_class, uid) for uid, sop_class in instances if uid in spec.sop_instance_uids)
        if wanted:
            number = _text(series, "00200011")
            modality = _text(series, "00080060") or "OT"
            found.append(
                NoteImages(series_uid, modality, wanted, int(number) if number.isdecimal() else None)
            )
    return tuple(sorted(found, key=lambda each: (each.number or 0, each.series_uid)))


def _header(archive: Holdings, images: Sequence[NoteImages], study_uid: str) -> Dataset | None:
    """Patient and study of the first image that is there and can be read; None where none is there.

    Raises an IsocenterError where some are, and none of them can be read.
    """
    trouble: IsocenterError | None = None
    for _, sop_instance_uid in (each for series in images for each in series.instances[:_TRIED]):
        try:
            for found in archive.orthanc.find_instances(sop_instance_uid):
                content = archive.orthanc.beginning(found.resource, _HEADER_BYTES)
                if content is not None and found.study_uid == study_uid:
                    return _read(content, sop_instance_uid)
        except IsocenterError as error:
            trouble = error
    if trouble is not None:
        raise trouble
    return None


def _read(content: bytes, sop_instance_uid: str) -> Dataset:
    try:
        header: Dataset = read_partial(BytesIO(content), stop_when=lambda tag, vr, length: tag >= _FRAMES)
    except Exception as error:
        log_way(log, error)
        raise IsocenterError(
            f"image {sop_instance_uid} can not be read in the archive: {where(error)}"
        ) from error
    return header


def _subject(
    notice: Notice, spec: JobSpec, images: tuple[NoteImages, ...], results: Instances
) -> NoteSubject:
    return NoteSubject(
        application=spec.algorithm,
        job_id=notice.job_id,
        ending=notice.ending,
        reason=notice.reason,
        ended=datetime.fromtimestamp(notice.ended, UTC),
        images=images,
        results=tuple(results),
    )


def _note(notice: Notice, subject: NoteSubject, header: Dataset, form: ResultForm) -> list[Dataset]:
    given: dict[str, Any] = {
        "subject": subject,
        "header": header,
        "maker": _SERVICE,
        "identity": outcome_identity(notice.job_id, notice.attempt, subject.ended),
        "disclaimer": form.disclaimer,
    }
    try:
        made: list[Dataset] = [outcome_note(**given)]
        if notice.picture:
            made.append(outcome_picture(**given))
        made = form.given(made)
        for each in made:
            check(each)
    except IsocenterError:
        raise
    except Exception as error:
        log_way(log, error)
        raise IsocenterError(
            f"job {notice.job_id[:12]}: no note on how it ended could be made: {where(error)}"
        ) from error
    return made


def _mark(notice: Notice, successor: Entry, header: Dataset) -> Dataset:
    """What says in the archive that the note is not valid any more."""
    again = (
        "has been run again since"
        if successor.job_id == notice.job_id
        else "has run on a newer set of images since"
    )
    note: Dataset = rejection_note(
        rejected=notice.instances,
        header=header,
        application=notice.application,
        old_job=str(notice.instances[0]["sop_instance_uid"]),
        new_job=successor.job_id,
        algorithm=_SERVICE,
        created=datetime.fromtimestamp(successor.ended or 0, UTC),
        text=(
            f"Superseded, do not use: the note that {notice.application} {_WITHDRAWN[notice.ending]}, job "
            f"{notice.job_id[:12]}. {notice.application} {again}: job {successor.job_id[:12]}."
        ),
    )
    check(note)
    return note


def _listed(instance: Dataset) -> dict[str, str]:
    """An instance as the ledger lists it."""
    return {
        "sop_class_uid": str(instance.SOPClassUID),
        "sop_instance_uid": str(instance.SOPInstanceUID),
        "series_uid": str(instance.SeriesInstanceUID),
        "study_uid": str(instance.StudyInstanceUID),
        "modality": str(instance.Modality),
    }


def _text(attributes: Mapping[str, Any], tag: str) -> str:
    """The first value of an attribute in DICOM JSON (PS3.18, F.2), "" where it has none."""
    values = attributes.get(tag, {}).get("Value") or [""]
    return str(values[0])
