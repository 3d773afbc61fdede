"""What a graph is given of a job: where its images are, who may be seen in them, which earlier studies there are."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from isocenter.database import database_error
from isocenter.job import JobSpec
from isocenter.settings import Settings
from isocenter.site_key import site_key
from isocenter_operators.dicom.deidentify import Deidentification
from isocenter_operators.run import Archive, Folder

__all__ = ["archive_of", "deidentification_of", "priors_of"]


def archive_of(settings: Settings, spec: JobSpec) -> Archive:
    """Raises ConfigurationError for files of `orthanc.tls` that can not be used."""
    return Archive(
        settings.orthanc.dicomweb_url,
        spec.study_uid,
        spec.series_uids,
        credentials=settings.orthanc.credentials,
        tls=settings.orthanc.context(),
    )


def deidentification_of(settings: Settings, spec: JobSpec) -> Deidentification | None:
    """None where the job's application may see who the patient is. Raises Unavailable."""
    if spec.deidentify is None:
        return None
    try:
        key = site_key(settings.database)
    except SQLAlchemyError as error:
        raise database_error(settings, error) from error
    return Deidentification(key, frozenset(spec.deidentify.keep))


def priors_of(
    settings: Settings, spec: JobSpec, folder: Path
) -> tuple[tuple[Folder | Archive, ...], tuple[str, ...]]:
    """The earlier studies that the job wants, some of them brought to `folder`; and what is to be known of them."""
    if spec.priors is None:
        return (), ()
    from isocenter.priors import gather

    gathered = gather(settings, spec, folder)
    return gathered.sources, gathered.notes
