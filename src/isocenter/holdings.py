"""What the archive holds of ours, by two ways in: its REST API to find and delete, DICOMweb to look and store."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Self

from pydicom import dcmread
from pydicom.dataset import Dataset

from isocenter.pacs import ArchiveInstance, Orthanc, dicomweb_of
from isocenter.settings import Settings
from isocenter.surprise import log_way, where
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.errors import IsocenterError

__all__ = ["Holdings", "Instances"]

log = logging.getLogger("isocenter.archive")

Instances = Sequence[Mapping[str, str]]  # per instance its UIDs and modality, as the ledger has them

_MANUFACTURER = Algorithm("", "").manufacturer


class Holdings:
    """The archive. Every call raises ArchiveUnavailable, or another Unavailable, when it is away.

    Raises ConfigurationError for files of `orthanc.tls` that can not be used.
    """

    def __init__(self, settings: Settings) -> None:
        orthanc = settings.orthanc
        self.orthanc = Orthanc(orthanc)
        self.dicomweb = dicomweb_of(orthanc)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.orthanc.close()
        self.dicomweb.close()

    def delete(self, instances: Instances) -> int:
        """Delete these, and only where they are ours; how many there were. What is gone already is no error."""
        found = [instance for each in instances for instance in self._found(each)]
        for instance in found:
            self.orthanc.delete_instance(instance.resource)
        return len(found)

    def header(self, instances: Instances) -> Dataset | None:
        """Patient and study of these, from the smallest of them that is there and ours. None when all are gone."""
        for each in sorted(instances, key=lambda result: result["modality"] != "SR"):
            for found in self._found(each):
                content = self.orthanc.file(found.resource)
                if content is not None:
                    return _read(content, found)
        return None

    def _found(self, instance: Mapping[str, str]) -> list[ArchiveInstance]:
        """The instance as the archive holds it. Whatever else has the same UID is left alone."""
        return [
            each
            for each in self.orthanc.find_instances(instance["sop_instance_uid"])
            if each.series_uid == instance["series_uid"]
            and each.study_uid == instance["study_uid"]
            and each.manufacturer == _MANUFACTURER
        ]


def _read(content: bytes, found: ArchiveInstance) -> Dataset:
    try:
        return dcmread(BytesIO(content), stop_before_pixels=True)
    except Exception as error:
        log_way(log, error)
        raise IsocenterError(
            f"result {found.sop_instance_uid} can not be read in the archive: {where(error)}"
        ) from error
