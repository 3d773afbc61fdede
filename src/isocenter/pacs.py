"""A small client of Orthanc's REST API: the change log, what the rules need to know of a series, and deleting."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

import httpx
from pydicom.datadict import keyword_for_tag

from isocenter.settings import OrthancSettings
from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.dicomweb.trust import distrust, trusted
from isocenter_operators.errors import ArchiveUnavailable

__all__ = [
    "ArchiveInstance",
    "ArchiveSeries",
    "Change",
    "ChangeLog",
    "Orthanc",
    "SeriesInstance",
    "dicomweb_of",
]

_LISTING_S = 60.0  # of thousands of files, which Orthanc opens one by one
_ANSWERS_S = 5.0
_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class Change:
    """One line of Orthanc's change log. `resource` is Orthanc's own identifier, not a DICOM UID."""

    sequence: int
    kind: str  # "NewSeries", "NewInstance", "StableSeries", ...
    resource: str


@dataclass(frozen=True)
class ChangeLog:
    """A page of the change log: `last` is where to read on from, `done` says that nothing follows for now."""

    changes: tuple[Change, ...]
    last: int
    done: bool


@dataclass(frozen=True)
class ArchiveSeries:
    """A series as Orthanc holds it at this moment. `resource` and `instances` are Orthanc's identifiers."""

    resource: str
    study_uid: str
    series_uid: str
    instances: frozenset[str]
    updated_at: float = 0.0  # when the archive last changed it, in whole seconds since 1970


@dataclass(frozen=True)
class SeriesInstance:
    """An instance in the list of its series. `resource` is Orthanc's identifier; `number` is "" where it has none."""

    resource: str
    sop_instance_uid: str
    number: str  # Instance Number, as it is written


@dataclass(frozen=True)
class ArchiveInstance:
    """An instance as Orthanc holds it. `resource` is Orthanc's identifier; `manufacturer` is (0008,0070)."""

    resource: str
    study_uid: str
    series_uid: str
    sop_instance_uid: str
    manufacturer: str


def dicomweb_of(settings: OrthancSettings) -> DICOMwebClient:
    """The archive by DICOMweb. Raises ConfigurationError for files of `orthanc.tls` that can not be used."""
    return DICOMwebClient(settings.dicomweb_url, credentials=settings.credentials, tls=settings.context())


class Orthanc:
    """Orthanc's REST API. Every call raises ArchiveUnavailable when Orthanc is away or refuses.

    Raises ConfigurationError for files of `orthanc.tls` that can not be used.
    """

    def __init__(self, settings: OrthancSettings, timeout_s: float = 10.0) -> None:
        self._url = settings.rest_url
        credentials, tls = settings.credentials, settings.context()
        self._http = httpx.Client(
            base_url=self._url,
            timeout=timeout_s,
            auth=(credentials.username, credentials.password) if credentials else None,
            # Orthanc gzips for whoever accepts it, which costs ten times the transfer itself.
            headers={"Accept-Encoding": "identity"},
            verify=tls or trusted(),
            trust_env=False,
        )

    def __enter__(self) -> Orthanc:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def system(self) -> Mapping[str, Any]:
        """Name, version and plugins of the server, as `/system` and `/plugins` tell."""
        return {**self._get("/system"), "Plugins": self._get("/plugins")}

    def ready(self) -> str | None:
        """None once Orthanc and its DICOMweb plugin answer, otherwise one sentence on what is missing."""
        try:
            plugins = self._get("/plugins", timeout_s=1.5)
        except ArchiveUnavailable as error:
            return str(error)
        if "dicom-web" not in plugins:
            return f"Orthanc at {self._url} answers, but its DICOMweb plugin is not loaded"
        return None

    def answers(self) -> bool:
        """Whether Orthanc itself is there, whatever it says of one study."""
        try:
            self._get("/system", timeout_s=_ANSWERS_S)
        except ArchiveUnavailable:
            return False
        return True

    def changes(self, since: int, limit: int = 2000) -> ChangeLog:
        """What happened after the sequence number `since`, oldest first."""
        page = self._get("/changes", params={"since": since, "limit": limit})
        changes = tuple(Change(int(c["Seq"]), str(c["ChangeType"]), str(c["ID"])) for c in page["Changes"])
        return ChangeLog(changes, int(page["Last"]), bool(page["Done"]))

    def last_change(self) -> int:
        """The newest sequence number of the change log."""
        return int(self._get("/changes", params={"last": ""})["Last"])

    def series(self, resource: str) -> ArchiveSeries | None:
        """The series of this Orthanc identifier, None when it is not (or no longer) there."""
        series = self._find(f"/series/{resource}")
        study = self._find(f"/studies/{series['ParentStudy']}") if series else None
        if series is None or study is None:
            return None
        return ArchiveSeries(
            resource=resource,
            study_uid=str(study["MainDicomTags"]["StudyInstanceUID"]),
            series_uid=str(series["MainDicomTags"]["SeriesInstanceUID"]),
            instances=frozenset(series["Instances"]),
            updated_at=_seconds(str(series.get("LastUpdate", ""))),
        )

    def series_resources(self) -> frozenset[str]:
        """The Orthanc identifiers of every series in the archive."""
        return frozenset(self._get("/series"))

    def instance_count(self) -> int:
        """How many instances the archive holds."""
        return int(self._get("/statistics")["CountInstances"])

    def series_of_instance(self, resource: str) -> str | None:
        """The Orthanc identifier of the series that an instance belongs to, None when it is gone."""
        instance = self._find(f"/instances/{resource}")
        return str(instance["ParentSeries"]) if instance else None

    def study_series(self, study_uid: str) -> list[ArchiveSeries]:
        """The series of the study of this UID, none where the archive holds no such study."""
        found = self._json("POST", "/tools/lookup", content=study_uid)
        studies = [self._find(f"/studies/{each['ID']}") for each in found if each["Type"] == "Study"]
        series = [self.series(resource) for study in studies if study for resource in study["Series"]]
        return [each for each in series if each is not None]

    def attributes(self, instance: str) -> Mapping[str, Any] | None:
        """The attributes of one instance by DICOM keyword, private ones by tag as "0009,1001". None when it is gone.

        Several values as `A\\B`, sequences as lists of such mappings.
        """
        found = self._get(f"/instances/{instance}/tags?short", timeout_s=_LISTING_S, missing_is_none=True)
        return None if found is None else _by_keyword(found)

    def every_attributes(self, resource: str) -> tuple[Mapping[str, Any], ...]:
        """The attributes of each instance of a series, as `attributes` gives them; none when it is gone."""
        path = f"/series/{resource}/instances-tags?short"
        found = self._get(path, timeout_s=_LISTING_S, missing_is_none=True)
        return tuple(map(_by_keyword, (found or {}).values()))

    def instances(self, resource: str) -> tuple[SeriesInstance, ...]:
        """The instances of a series, none when it is gone."""
        found = self._get(f"/series/{resource}/instances", timeout_s=_LISTING_S, missing_is_none=True)
        return tuple(
            SeriesInstance(
                str(each["ID"]),
                str(each["MainDicomTags"]["SOPInstanceUID"]),
                str(each["MainDicomTags"].get("InstanceNumber", "")),
            )
            for each in found or ()
        )

    def find_instances(self, sop_instance_uid: str) -> list[ArchiveInstance]:
        """All that the archive holds under this UID: one, none, or one in each study that was sent it."""
        found = self._json("POST", "/tools/lookup", content=sop_instance_uid)
        instances = [self._instance(str(each["ID"])) for each in found if each["Type"] == "Instance"]
        return [each for each in instances if each and each.sop_instance_uid == sop_instance_uid]

    def series_uids(self, **matching: str) -> frozenset[str]:
        """The Series Instance UIDs of all series that match (keyword=value)."""
        query = {"Level": "Series", "Query": matching, "Expand": True}
        found = self._json("POST", "/tools/find", content=json.dumps(query))
        return frozenset(str(each["MainDicomTags"]["SeriesInstanceUID"]) for each in found)

    def file(self, resource: str) -> bytes | None:
        """The DICOM file of an instance, None when it is gone."""
        response = self._request("GET", f"/instances/{resource}/file", missing_is_none=True)
        return None if response is None else response.content

    def beginning(self, resource: str, size_bytes: int) -> bytes | None:
        """So much of an instance's DICOM file, or all where it is smaller; None when it is gone."""
        try:
            with self._http.stream("GET", f"/instances/{resource}/file") as response:
                if response.status_code == httpx.codes.NOT_FOUND:
                    return None
                response.raise_for_status()
                content = b""
                for chunk in response.iter_bytes(_CHUNK_BYTES):
                    content += chunk
                    if len(content) >= size_bytes:
                        break
                return content
        except httpx.HTTPError as error:
            raise self._away(f"/instances/{resource}/file", error) from error

    def delete_instance(self, resource: str) -> None:
        """Take an instance out of the archive. One that is gone already is no error."""
        self._request("DELETE", f"/instances/{resource}", missing_is_none=True)

    def _instance(self, resource: str) -> ArchiveInstance | None:
        """None when it has gone meanwhile."""
        instance = self._find(f"/instances/{resource}")
        series = self._find(f"/series/{instance['ParentSeries']}") if instance else None
        study = self._find(f"/studies/{series['ParentStudy']}") if series else None
        if instance is None or series is None or study is None:
            return None
        manufacturer = self._request(
            "GET", f"/instances/{resource}/content/0008-0070", missing_is_none=True
        )  # missing: it has none
        return ArchiveInstance(
            resource=resource,
            study_uid=str(study["MainDicomTags"]["StudyInstanceUID"]),
            series_uid=str(series["MainDicomTags"]["SeriesInstanceUID"]),
            sop_instance_uid=str(instance["MainDicomTags"]["SOPInstanceUID"]),
            manufacturer=manufacturer.content.decode("latin-1").strip(" \0") if manufacturer else "",
        )

    def _find(self, path: str) -> Any:
        return self._get(path, missing_is_none=True)

    def _get(
        self,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        timeout_s: float | None = None,
        missing_is_none: bool = False,
    ) -> Any:
        return self._json("GET", path, params=params, timeout_s=timeout_s, missing_is_none=missing_is_none)

    def _json(self, method: str, path: str, **others: Any) -> Any:
        response = self._request(method, path, **others)
        try:
            return None if response is None else response.json()
        except ValueError as error:
            raise ArchiveUnavailable(f"what answers at {self._url}{path} is not Orthanc") from error

    def _request(
        self,
        method: str,
        path: str,
        *,
        content: str | None = None,
        params: Mapping[str, str | int] | None = None,
        timeout_s: float | None = None,
        missing_is_none: bool = False,
    ) -> httpx.Response | None:
        timeout = httpx.USE_CLIENT_DEFAULT if timeout_s is None else timeout_s
        try:
            response = self._http.request(method, path, content=content, params=params, timeout=timeout)
            if missing_is_none and response.status_code == httpx.codes.NOT_FOUND:
                return None
            response.raise_for_status()
            return response
        except httpx.HTTPError as error:
            raise self._away(path, error) from error

    def _away(self, path: str, error: httpx.HTTPError) -> ArchiveUnavailable:
        if isinstance(error, httpx.HTTPStatusError):
            status = error.response.status_code
            hint = "; check orthanc.username and orthanc.password" if status in {401, 403} else ""
            return ArchiveUnavailable(f"Orthanc at {self._url} answered {status} to {path}{hint}")
        if said := distrust(error):
            return ArchiveUnavailable(f"Orthanc at {self._url}: {said}; check orthanc.tls")
        return ArchiveUnavailable(
            f"Orthanc at {self._url} does not answer ({type(error).__name__}); is it running?"
        )


def _seconds(moment: str) -> float:
    """Orthanc's UTC times, 20261124T101500, in seconds since 1970; 0 where there is none."""
    try:
        return datetime.strptime(moment, "%Y%m%dT%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0


def _by_keyword(tags: Mapping[str, Any]) -> dict[str, Any]:
    """Orthanc's own names are not all the standard's: it calls retired attributes RETIRED_..."""
    return {
        keyword_for_tag(tag.replace(",", "")) or tag: (
            [_by_keyword(item) for item in value] if isinstance(value, list) else value
        )
        for tag, value in tags.items()
    }
