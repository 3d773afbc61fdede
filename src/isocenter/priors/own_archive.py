"""Priors in our own archive, which the graph reads from there itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import partial

from isocenter.priors.criteria import Criteria, Found
from isocenter.priors.dicomweb import DICOMwebArchive
from isocenter.priors.patient import Attributes, Patient, number, text
from isocenter.settings import OrthancSettings
from isocenter_operators.run import Archive

__all__ = ["OwnArchive"]


class OwnArchive:
    """Our archive. When it is away, that is raised: the job needs it anyway."""

    def __init__(self, archive: DICOMwebArchive, settings: OrthancSettings, criteria: Criteria) -> None:
        self.name = archive.name
        self._archive = archive
        self._settings = settings
        self._criteria = criteria

    def studies(self, patient: Patient, oldest: date | None, newest: date) -> list[Attributes]:
        return self._archive.studies(patient, oldest, newest)

    def series(self, study_uid: str) -> list[Attributes]:
        return self._archive.series(study_uid)

    def bring(self, study: Attributes, series: Sequence[Attributes], reasons: list[str]) -> Archive | None:
        """The wanted ones of these series, in the archive, as they are."""
        study_uid = text(study, "StudyInstanceUID")
        wanted = self._criteria.met([self._found(study_uid, each) for each in series])
        if not wanted:
            return None
        return Archive(
            self._settings.dicomweb_url,
            study_uid,
            tuple(each.uid for each in wanted),
            credentials=self._settings.credentials,
            tls=self._settings.context(),
        )

    def _found(self, study_uid: str, series: Attributes) -> Found:
        uid = text(series, "SeriesInstanceUID")
        # Only conditions need more than the search has told.
        more = self._archive.first_instance(study_uid, uid) if self._criteria.wanted.when else {}
        return Found(
            uid=uid,
            instances=number(series, "NumberOfSeriesRelatedInstances"),
            attributes={**series, **more},
            every=partial(self._archive.every_instance, study_uid, uid),
        )
