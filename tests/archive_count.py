"""What a client counts in the archive: the result series of Isocenter that nothing rejects, over DICOMweb."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.dicomweb.credentials import Credentials

__all__ = ["ResultSeries", "current_results", "rejected_by", "rejection_notes"]

_OURS = "Isocenter"
_SERVICE = "isocenter"  # which makes no results: its documents are notes on how jobs ended
_RESULTS = ("SEG", "SR", "OT")
# PS3.16, CID 7011: the titles by which IHE's Imaging Object Change Management takes instances out of use.
_REJECTING = {"113001", "113037", "113038", "113039"}


@dataclass(frozen=True)
class ResultSeries:
    """One series of results. `instances`: the SOP Instance UIDs that no note rejects, at least one."""

    application: str
    modality: str
    series_uid: str
    instances: tuple[str, ...]


def current_results(
    dicomweb_url: str, study_uid: str, credentials: Credentials | None = None
) -> list[ResultSeries]:
    """The study's result series that are not rejected, by application and modality. Raises ArchiveUnavailable."""
    with DICOMwebClient(dicomweb_url, credentials=credentials) as client:
        rejected = {uid for note in _documents(client, study_uid, "KO") for uid in rejected_by(note)}
        found = []
        for modality in _RESULTS:
            for series in client.search_series(study_uid, Modality=modality):
                series_uid = _first(series, "0020000E")
                instances = list(_instances(client, study_uid, series_uid))
                valid = sorted({str(each.SOPInstanceUID) for each in instances} - rejected)
                if valid and instances[0].get("Manufacturer") == _OURS:
                    application = str(instances[0].ManufacturerModelName)
                    if application == _SERVICE:
                        continue
                    found.append(ResultSeries(application, modality, series_uid, tuple(valid)))
    return sorted(found, key=lambda each: (each.application, each.modality, each.series_uid))


def rejection_notes(dicomweb_url: str, study_uid: str) -> list[Dataset]:
    """The study's Key Object Selection documents that reject something."""
    with DICOMwebClient(dicomweb_url) as client:
        return [note for note in _documents(client, study_uid, "KO") if rejected_by(note)]


def _documents(client: DICOMwebClient, study_uid: str, modality: str) -> Iterator[Dataset]:
    for series in client.search_series(study_uid, Modality=modality):
        yield from _instances(client, study_uid, _first(series, "0020000E"))


def _instances(client: DICOMwebClient, study_uid: str, series_uid: str) -> Iterator[Dataset]:
    for content in client.retrieve_series(study_uid, series_uid):
        yield dcmread(BytesIO(content), stop_before_pixels=True)


def rejected_by(note: Dataset) -> set[str]:
    """The SOP Instance UIDs that a Key Object Selection document takes out of use."""
    (title,) = note.ConceptNameCodeSequence
    if title.CodingSchemeDesignator != "DCM" or title.CodeValue not in _REJECTING:
        return set()
    return {
        str(instance.ReferencedSOPInstanceUID)
        for study in note.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }


def _first(attributes: dict[str, Any], tag: str) -> str:
    return str(attributes[tag]["Value"][0])
