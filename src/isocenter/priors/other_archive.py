"""Priors of another archive, copied for one job and checked before anything is computed on them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Protocol

from pydicom import dcmread

from isocenter.priors.criteria import Criteria, Found
from isocenter.priors.patience import Waiting
from isocenter.priors.patient import Attributes, Patient, day, number, text
from isocenter.rules import attributes_of
from isocenter_operators.dicom.series.read import read_file
from isocenter_operators.errors import StorageFull, UnreadableInput
from isocenter_operators.run import Folder

__all__ = ["OtherArchive"]

_TRIES = 2  # of a series that does not arrive complete


class Peer(Protocol):
    """A way to ask another archive: DICOM or DICOMweb."""

    @property
    def name(self) -> str: ...

    def studies(self, patient: Patient, oldest: date | None, newest: date) -> Sequence[Attributes]: ...

    def series(self, study_uid: str) -> Sequence[Attributes]: ...

    def retrieve(self, study_uid: str, series_uid: str, folder: Path) -> int:
        """Copy a series into the folder; returns how many instances the archive says that is, 0: it does not say."""


@dataclass(frozen=True)
class _Arrived:
    found: Found | None  # None: nothing that can be looked at
    folder: Path
    trouble: str = ""  # why it is not used, "" where all is well


class OtherArchive:
    """A peer, asked again while there is patience with it, and not believed without a look."""

    def __init__(self, peer: Peer, criteria: Criteria, folder: Path, waiting: Waiting) -> None:
        self.name = peer.name
        self._peer = peer
        self._criteria = criteria
        self._folder = folder
        self._waiting = waiting

    def studies(self, patient: Patient, oldest: date | None, newest: date) -> Sequence[Attributes]:
        return self._waiting.through(lambda: self._peer.studies(patient, oldest, newest))

    def series(self, study_uid: str) -> Sequence[Attributes]:
        return self._waiting.through(lambda: self._peer.series(study_uid))

    def bring(self, study: Attributes, series: Sequence[Attributes], reasons: list[str]) -> Folder | None:
        """The wanted ones of these series in a folder of their own; a series that is not complete is left out."""
        place = self._folder / str(len(list(self._folder.glob("*"))) + 1)
        study_uid = text(study, "StudyInstanceUID")
        try:
            arrived = [
                self._fetched(study_uid, each, place / str(index)) for index, each in enumerate(series, 1)
            ]
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        wanted = {each.uid for each in self._criteria.met([one.found for one in arrived if one.found])}
        kept = 0
        for one in arrived:
            if one.found is not None and one.found.uid not in wanted:
                shutil.rmtree(one.folder)
            elif one.trouble:
                shutil.rmtree(one.folder)
                reasons.append(f"a series of the study of {day(study)} was left out, because {one.trouble}")
            else:
                kept += 1
        if kept:
            return Folder(place)
        shutil.rmtree(place)
        return None

    def _fetched(self, study_uid: str, series: Attributes, folder: Path) -> _Arrived:
        uid = text(series, "SeriesInstanceUID")
        promised = number(series, "NumberOfSeriesRelatedInstances")
        for _ in range(_TRIES):
            told = self._waiting.through(partial(self._copied, study_uid, uid, folder))
            arrived = self._looked_at(study_uid, uid, folder, promised or told)
            if not arrived.trouble:
                break
        return arrived

    def _copied(self, study_uid: str, series_uid: str, folder: Path) -> int:
        """One try, from the beginning."""
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            return self._peer.retrieve(study_uid, series_uid, folder)
        except OSError as error:
            raise StorageFull(f"priors can not be written below {folder}: {error.strerror}") from error

    def _looked_at(self, study_uid: str, series_uid: str, folder: Path, expected: int) -> _Arrived:
        """What has arrived: every instance is read to its end, and belongs to this patient's series."""
        patient = self._criteria.current.patient
        first: Attributes | None = None
        uids: set[str] = set()
        trouble = ""
        for file in sorted(folder.iterdir()):
            try:
                instance = read_file(file)
            except UnreadableInput:
                instance = None
            if instance is None:
                trouble = "an image arrived damaged"
                continue
            attributes = attributes_of(instance)
            if (instance.StudyInstanceUID, instance.SeriesInstanceUID) != (study_uid, series_uid):
                trouble = "other images came than were asked for"
            elif not patient.is_same(Patient.of(attributes)):
                trouble = "its images do not say surely that they are of this patient"
            first = first or attributes
            uids.add(str(instance.SOPInstanceUID))
        if not trouble and (not uids or len(uids) < expected):
            trouble = f"{len(uids)} of {expected or 'its'} images arrived"
        found = None if first is None else Found(series_uid, len(uids), first, partial(_every, folder))
        return _Arrived(found, folder, trouble)


def _every(folder: Path) -> list[Attributes]:
    return [attributes_of(dcmread(file, stop_before_pixels=True)) for file in sorted(folder.iterdir())]
