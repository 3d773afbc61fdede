"""Gathers the priors of one job: earlier studies of the patient, newest first, as many as the route asks for."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Protocol

from isocenter.job import JobSpec
from isocenter.peer import DICOMPeer, DICOMwebPeer
from isocenter.priors.criteria import Criteria, Examination
from isocenter.priors.dicom_node import DICOMNode
from isocenter.priors.dicomweb import DICOMwebArchive
from isocenter.priors.other_archive import OtherArchive
from isocenter.priors.own_archive import OwnArchive
from isocenter.priors.patience import Patience, Waiting
from isocenter.priors.patient import Attributes, Moment, Patient, day, text
from isocenter.priors.transport import NoPlace
from isocenter.settings import Settings
from isocenter_operators.errors import (
    ArchiveUnavailable,
    ConfigurationError,
    DeadlineExceeded,
    InputError,
    StorageFull,
    Unavailable,
)
from isocenter_operators.run import Archive, Folder

__all__ = ["Gathered", "gather"]

log = logging.getLogger("isocenter.priors")


@dataclass(frozen=True)
class Gathered:
    """The priors of a job, newest first, one source each; and what a person should know of those that are missing."""

    sources: tuple[Folder | Archive, ...] = ()
    notes: tuple[str, ...] = ()


def gather(settings: Settings, spec: JobSpec, folder: Path, patience: Patience | None = None) -> Gathered:
    """The priors that the job's route asks for, `spec.priors`.

    Those of our own archive are only named; those of a peer are copied into `folder`. They are not stored in our
    archive, where they would be routed as new studies.

    Raises Unavailable when our own archive is away or our disk is full. That a peer is away, or refuses, or has none,
    is told in the notes.
    """
    if spec.priors is None:
        return Gathered()
    logging.getLogger("httpx").setLevel(
        logging.WARNING
    )  # it logs the address of each search: the patient's ID
    waiting = Waiting(patience or Patience.of(spec))
    with _own(settings) as ours:
        current = _examination(ours, spec)
        if isinstance(current, str):
            return Gathered(notes=(_note(0, spec, [current]),))
        criteria = Criteria(spec.priors, current)
        if spec.priors.source is None:
            return _Gathering(spec, criteria, OwnArchive(ours, settings.orthanc, criteria)).gathered()
    try:
        with _peer(settings, spec.priors.source, waiting) as peer:
            return _Gathering(spec, criteria, OtherArchive(peer, criteria, folder, waiting)).gathered()
    except ConfigurationError as error:
        return Gathered(notes=(_note(0, spec, [str(error)]),))


@contextmanager
def _peer(settings: Settings, name: str, waiting: Waiting) -> Iterator[DICOMwebArchive | DICOMNode]:
    """The way to ask this peer. Raises ConfigurationError where there is none."""
    peer = settings.peers.get(name)
    called = f"the archive {name}"
    if isinstance(peer, DICOMwebPeer):
        try:
            tls = peer.context()
        except ConfigurationError as error:
            raise ConfigurationError(f"{called} can not be asked: {error}") from error
        with DICOMwebArchive(called, peer.url, peer.credentials, waiting, tls) as archive:
            yield archive
    elif isinstance(peer, DICOMPeer):
        yield DICOMNode(called, peer, settings.orthanc.aet, waiting)
    elif peer is None:
        raise ConfigurationError(f"the peer {name} is not in this machine's isocenter.yaml")
    else:
        raise ConfigurationError(f"the peer {name} is of kind {peer.kind}, which gives no priors")


class _Holder(Protocol):
    """Where priors are."""

    @property
    def name(self) -> str: ...

    def studies(self, patient: Patient, oldest: date | None, newest: date) -> Sequence[Attributes]: ...

    def series(self, study_uid: str) -> Sequence[Attributes]: ...

    def bring(
        self, study: Attributes, series: Sequence[Attributes], reasons: list[str]
    ) -> Folder | Archive | None:
        """The wanted ones of these series as a source, None where there are none; `reasons` for what is missing."""


@dataclass
class _Gathering:
    """One search, and what it has come to so far."""

    spec: JobSpec
    criteria: Criteria
    holder: _Holder
    sources: list[Folder | Archive] = field(default_factory=list)
    missed: int = 0  # priors that were wanted and could not be had
    reasons: list[str] = field(default_factory=list)
    of_the_patient: int = 0  # earlier studies

    def gathered(self) -> Gathered:
        wanted, name = self.criteria.wanted, self.holder.name
        try:
            for study in self._candidates():
                if len(self.sources) + self.missed == wanted.newest:
                    break
                self._consider(study)
            if len(self.sources) + self.missed < wanted.newest:
                self.reasons.append(f"{name} holds no {self._what()}")
        except StorageFull:
            raise
        except (Unavailable, InputError, ConfigurationError) as error:
            if wanted.source is None:
                raise
            log.warning("priors of job %s: %s", self.spec.identity.job_id[:12], error)
            self.reasons.append(f"{name} {_trouble(error)}")
        notes = []
        if wanted.same_body_part and not self.criteria.by_body_part:
            notes.append("the study names no body part, so its priors were chosen by modality")
        if self.reasons:
            notes.append(_note(len(self.sources), self.spec, self.reasons))
        return Gathered(tuple(self.sources), tuple(notes))

    def _candidates(self) -> list[Attributes]:
        """The patient's earlier studies, newest first."""
        current = self.criteria.current
        oldest = current.moment.oldest(self.criteria.wanted.max_age_days)
        dated: list[tuple[Moment, str, Attributes]] = []
        doubtful = 0
        for study in self.holder.studies(current.patient, oldest, current.moment.day):
            made, uid = Moment.of(study), text(study, "StudyInstanceUID")
            if made is None or uid == self.spec.study_uid or not made.before(current.moment):
                continue
            if oldest is not None and made.day < oldest:
                continue
            same = current.patient.is_same(Patient.of(study))
            if same is None:
                doubtful += 1
            elif same:
                dated.append((made, uid, study))
        self.of_the_patient = len(dated)
        if doubtful:
            self.reasons.append(
                f"{_counted(doubtful)} left out, because the birth date or the issuer of the patient ID does not agree"
            )
        return [study for _, _, study in sorted(dated, key=lambda each: each[:2], reverse=True)]

    def _consider(self, study: Attributes) -> None:
        before = len(self.reasons)
        try:
            likely = self.criteria.likely(self.holder.series(text(study, "StudyInstanceUID")))
            source = self.holder.bring(study, likely, self.reasons) if likely else None
        except (ArchiveUnavailable, DeadlineExceeded, InputError, NoPlace) as error:
            if self.criteria.wanted.source is None and not isinstance(error, InputError):
                raise
            # It may be this study alone that it can not give; when it is away, the next question will show that.
            log.warning("priors of job %s: %s", self.spec.identity.job_id[:12], error)
            self.reasons.append(
                f"the study of {day(study)} was not fetched, because {error}"
                if isinstance(error, NoPlace)
                else f"{self.holder.name} did not give the study of {day(study)}"
            )
            source = None
        if source is not None:
            self.sources.append(source)
        elif len(self.reasons) > before:
            self.missed += 1

    def _what(self) -> str:
        """What is not there, as the end of a sentence."""
        wanted = self.criteria.wanted
        if not self.of_the_patient:
            return "earlier study of this patient" + (" that is recent enough" if wanted.max_age_days else "")
        if wanted.when:
            return "more earlier studies that meet the route's conditions"
        return "more earlier studies" + (" of the same body part" if self.criteria.by_body_part else "")


def _own(settings: Settings) -> DICOMwebArchive:
    orthanc = settings.orthanc
    return DICOMwebArchive("the archive", orthanc.dicomweb_url, orthanc.credentials, tls=orthanc.context())


def _examination(ours: DICOMwebArchive, spec: JobSpec) -> Examination | str:
    """What the job is for, or why no priors can be looked for."""
    series = [
        each for each in ours.series(spec.study_uid) if text(each, "SeriesInstanceUID") in spec.series_uids
    ]
    if not series:
        return "the study is not in the archive any more"
    patient, moment = Patient.of(series[0]), Moment.of(series[0])
    if not patient.id:
        return "the study has no patient ID"
    if moment is None:
        return "the study has no date, so nothing is known to be earlier"
    return Examination(patient, moment, tuple(series))


def _note(count: int, spec: JobSpec, reasons: Sequence[str]) -> str:
    return f"{count} of {spec.priors.newest if spec.priors else 0} priors: {'; '.join(reasons)}"


def _trouble(error: Exception) -> str:
    if isinstance(error, DeadlineExceeded):
        return "did not answer in time"
    return "did not answer" if isinstance(error, Unavailable) else "refused what was asked of it"


def _counted(studies: int) -> str:
    return "1 earlier study was" if studies == 1 else f"{studies} earlier studies were"
