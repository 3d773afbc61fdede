"""Priors in a DICOMweb archive, our own or another: QIDO-RS and WADO-RS (PS3.18, 10.4 and 10.6)."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from pydicom.datadict import keyword_for_tag

from isocenter.priors.patience import Waiting
from isocenter.priors.patient import Attributes, Patient, text
from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.dicomweb.credentials import Credentials
from isocenter_operators.dicomweb.trust import distrust
from isocenter_operators.errors import ArchiveUnavailable, ConfigurationError

__all__ = ["DICOMwebArchive"]

_OF_STUDY = ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "StudyDate", "StudyTime")
_OF_SERIES = (*_OF_STUDY, "Modality", "BodyPartExamined", "Laterality", "SOPClassUID", "Manufacturer")
_PAGE = 200
_SILENCE_S = 30.0
_UNSAFE = re.compile(r"[^A-Za-z0-9._~-]+")


class DICOMwebArchive:
    """One archive. Every call raises ArchiveUnavailable or DeadlineExceeded when it is away, or how it refuses."""

    def __init__(
        self,
        name: str,
        url: str,
        credentials: Credentials | None = None,
        waiting: Waiting | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.name = name  # as a note names it
        self._waiting = waiting
        self._client = _Client(
            url,
            credentials=credentials,
            timeout_s=waiting.silence_s if waiting else _SILENCE_S,
            tls=tls,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def studies(self, patient: Patient, oldest: date | None, newest: date) -> list[Attributes]:
        """The studies with this patient's ID, of these days. Whose they really are is for the caller to see."""
        days = f"{oldest:%Y%m%d}-{newest:%Y%m%d}" if oldest else f"-{newest:%Y%m%d}"
        exactly = quote(patient.id, safe="")
        found = self._client.pages("studies", f"PatientID={exactly}&StudyDate={days}&{_fields(_OF_STUDY)}")
        if not found and _UNSAFE.search(patient.id):
            # Orthanc 1.10 does not know %20 for a space, nor any other escape; a wildcard it knows (PS3.4, C.2.2.2.4).
            like = _UNSAFE.sub("*", patient.id)
            found = self._client.pages("studies", f"PatientID={like}&StudyDate={days}&{_fields(_OF_STUDY)}")
        return found

    def series(self, study_uid: str) -> list[Attributes]:
        """The series of a study."""
        return self._client.pages(f"studies/{study_uid}/series", _fields(_OF_SERIES))

    def first_instance(self, study_uid: str, series_uid: str) -> Attributes:
        """All attributes of one instance of the series; none where it has none."""
        place = f"studies/{study_uid}/series/{series_uid}/instances"
        for instance in self._client.get(place, "limit=1")[:1]:
            uid = text(instance, "SOPInstanceUID")
            return next(iter(self._client.get(f"{place}/{uid}/metadata")), {})
        return {}

    def every_instance(self, study_uid: str, series_uid: str) -> list[Attributes]:
        """All attributes of each instance of the series."""
        return self._client.get(f"studies/{study_uid}/series/{series_uid}/metadata")

    def retrieve(self, study_uid: str, series_uid: str, folder: Path) -> int:
        """Write the series' instances into the folder, untranscoded; returns 0, for the archive says no number."""
        for number, content in enumerate(self._client.retrieve_series(study_uid, series_uid)):
            if self._waiting:
                self._waiting.refuse_late()
            (folder / f"{number:06}.dcm").write_bytes(content)
        return 0


class _Client(DICOMwebClient):
    """With what a search for priors needs besides: a query of our own spelling, pages, and metadata."""

    def get(self, path: str, query: str = "") -> list[Attributes]:
        doing = f"searching {path}"
        with self._translated(doing):
            response = self._http.get(
                f"{self.base_url}/{path}{'?' if query else ''}{query}",
                headers={"Accept": "application/dicom+json"},
            )
        if response.status_code == 204:
            return []
        self._refuse_error(response, doing)
        answer = self._json(response, doing)
        return (
            [_attributes(item) for item in answer if isinstance(item, dict)]
            if isinstance(answer, list)
            else []
        )

    def pages(self, path: str, query: str) -> list[Attributes]:
        """Everything that matches: an archive may give less at once than it was asked for (PS3.18, 8.3.4.4)."""
        found: dict[str, Attributes] = {}
        given = 0
        while True:
            page = self.get(path, f"{query}&limit={_PAGE}&offset={given}")
            known = len(found)
            found |= {
                text(each, "SeriesInstanceUID") or text(each, "StudyInstanceUID"): each for each in page
            }
            if len(found) == known:  # no more; or an archive that knows no pages and gives all of it again
                return list(found.values())
            given += len(page)

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        """A certificate that is not trusted is not waited for: nobody mends that within a job's patience."""
        try:
            with super()._translated(doing):
                yield
        except ArchiveUnavailable as error:
            if distrust(error):
                raise ConfigurationError(str(error)) from error
            raise


def _fields(keywords: Sequence[str]) -> str:
    # Each by itself: Orthanc 1.10 does not take an escaped comma for one.
    return "&".join(f"includefield={keyword}" for keyword in keywords)


def _attributes(item: Mapping[str, Any]) -> dict[str, Any]:
    """DICOM JSON (PS3.18, F.2) as the rules have attributes: text by keyword, a sequence as a list of such."""
    found: dict[str, Any] = {}
    for tag, element in item.items():
        if not isinstance(element, dict) or len(tag) != 8:
            continue
        name = keyword_for_tag(tag) or f"{tag[:4]},{tag[4:]}".lower()
        values = element.get("Value") or []
        if element.get("vr") == "SQ":
            found[name] = [_attributes(each) for each in values if isinstance(each, dict)]
        elif "BulkDataURI" not in element and "InlineBinary" not in element:
            found[name] = "\\".join(map(_text, values))
    return found


def _text(value: Any) -> str:
    if isinstance(value, dict):  # a person's name
        return str(value.get("Alphabetic", ""))
    return "" if value is None else str(value)
