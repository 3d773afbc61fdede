"""Instances as MONAI Deploy's own domain types, and back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from monai.deploy.core.domain.dicom_series import DICOMSeries
from monai.deploy.core.domain.dicom_series_selection import StudySelectedSeries
from monai.deploy.core.domain.dicom_study import DICOMStudy
from pydicom.dataset import Dataset

from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.errors import NotApplicable

__all__ = ["identity_of", "selected_instances", "studies_of"]

_STUDY_KEYWORDS = ("StudyID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber")
_SERIES_KEYWORDS = (
    "SeriesDate",
    "SeriesTime",
    "Modality",
    "SeriesDescription",
    "BodyPartExamined",
    "PatientPosition",
    "SeriesNumber",
    "Laterality",
)


def studies_of(instances: Iterable[Dataset]) -> list[DICOMStudy]:
    """The studies and series that the instances belong to, in the order they are met."""
    studies: dict[str, DICOMStudy] = {}
    series: dict[str, DICOMSeries] = {}
    for instance in instances:
        study_uid, series_uid = str(instance.StudyInstanceUID), str(instance.SeriesInstanceUID)
        if study_uid not in studies:
            studies[study_uid] = DICOMStudy(study_uid)
            _copy(instance, studies[study_uid], _STUDY_KEYWORDS)
        if series_uid not in series:
            series[series_uid] = DICOMSeries(series_uid)
            _copy(instance, series[series_uid], _SERIES_KEYWORDS)
            studies[study_uid].add_series(series[series_uid])
        series[series_uid].add_sop_instance(instance)
    return list(studies.values())


def selected_instances(selection: Sequence[StudySelectedSeries]) -> list[Dataset]:
    """The instances of the first selected series. Raises NotApplicable where none was selected."""
    for study in selection:
        for selected in study.selected_series:
            return [instance.get_native_sop_instance() for instance in selected.series.get_sop_instances()]
    raise NotApplicable("no series was selected")


def identity_of(
    instances: Iterable[Dataset], algorithm: Algorithm, created: datetime | None = None
) -> JobIdentity:
    """The identity of running `algorithm` on these instances, now or at the given time."""
    uids = (str(instance.SOPInstanceUID) for instance in instances)
    return JobIdentity.of(uids, algorithm, created or datetime.now(UTC))


def _copy(instance: Dataset, target: DICOMStudy | DICOMSeries, keywords: Sequence[str]) -> None:
    for keyword in keywords:
        if keyword in instance:
            setattr(target, keyword, instance[keyword].value)
