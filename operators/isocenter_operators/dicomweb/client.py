"""A DICOMweb archive as a client sees it (PS3.18, 10): retrieve a series, search, store."""

from __future__ import annotations

import ssl
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from types import TracebackType
from typing import Any, Self

import httpx
from pydicom.dataset import Dataset

from isocenter_operators.dicomweb.credentials import Credentials
from isocenter_operators.dicomweb.download import CONNECT_S, DownloadError, Downloads
from isocenter_operators.dicomweb.multipart import boundary_of, parts
from isocenter_operators.dicomweb.trust import distrust, trusted
from isocenter_operators.errors import (
    ArchiveUnavailable,
    ConfigurationError,
    DeadlineExceeded,
    InputError,
    InvalidResult,
    StorageFull,
)

__all__ = ["DICOMwebClient"]

# Any transfer syntax, as stored: asking for one makes the archive transcode.
_WHOLE_INSTANCES = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_REASON_BYTES = 1 << 16  # at most, of an answer that is an error
# At a time: of what does not fit into the socket's buffer httpx makes a copy, again and again.
_SENT_BYTES = 1 << 20
_PASSING = {408, 425, 429}
_PROCESSING_FAILURE = 0x0110  # PS3.7, C.5.8: nothing is said of its cause


def _file_of(instance: Dataset) -> bytes:
    """The instance as a DICOM file, by pydicom."""
    content = BytesIO()
    instance.save_as(content, enforce_file_format=True)
    return content.getvalue()


class DICOMwebClient:
    """One DICOMweb service. Safe to use from several threads.

    Parameters
    ----------
    base_url
        Where the service's resources begin, as `http://127.0.0.1:8042/dicom-web`.
    credentials
        For an archive that asks for a name and a password.
    timeout_s
        The longest that the archive may be silent.
    tls
        For https: whom we believe, and our certificate. None: the authorities that everybody believes.
    """

    def __init__(
        self,
        base_url: str,
        *,
        credentials: Credentials | None = None,
        timeout_s: float = 60.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        tls = tls or trusted()
        self._downloads = Downloads(credentials, timeout_s, tls)
        self._http = httpx.Client(
            timeout=httpx.Timeout(timeout_s, connect=CONNECT_S),
            # Archives that compress what is already DICOM cost ten times the transfer.
            headers={"Accept-Encoding": "identity"},
            auth=(credentials.username, credentials.password) if credentials else None,
            verify=tls,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def retrieve_series(self, study_uid: str, series_uid: str) -> Iterator[memoryview]:
        """Each instance of the series, as a DICOM file's bytes, while the next ones are still on their way.

        WADO-RS (PS3.18, 10.4). Raises InputError where the archive does not know the series, ArchiveUnavailable where
        it does not answer or stops in the middle.
        """
        doing = f"retrieving series {series_uid}"
        url = f"{self.base_url}/studies/{study_uid}/series/{series_uid}"
        with self._translated(doing), self._downloads.get(url, accept=_WHOLE_INSTANCES) as download:
            if not 200 <= download.status < 300:
                said = download.read(_REASON_BYTES)
                self._refuse_error(
                    httpx.Response(download.status, headers=[*download.headers.items()], content=said), doing
                )
            try:
                yield from parts(download, boundary_of(download.headers.get("Content-Type", "")))
            except ValueError as error:
                raise ArchiveUnavailable(
                    f"{self.base_url}: {doing}: {error}", series_uid=series_uid
                ) from error

    def search_series(self, study_uid: str, **matching: str) -> list[dict[str, Any]]:
        """QIDO-RS: the study's series as DICOM JSON, those that match (keyword=value)."""
        return self._search(f"studies/{study_uid}/series", matching)

    def search_instances(self, study_uid: str, series_uid: str, **matching: str) -> list[dict[str, Any]]:
        """QIDO-RS: the series' instances as DICOM JSON."""
        return self._search(f"studies/{study_uid}/series/{series_uid}/instances", matching)

    def search_studies(self, **matching: str) -> list[dict[str, Any]]:
        """QIDO-RS: studies as DICOM JSON, those that match (keyword=value)."""
        return self._search("studies", matching)

    def store(self, instances: Sequence[Dataset], encode: Callable[[Dataset], bytes] = _file_of) -> None:
        """STOW-RS (PS3.18, 10.5): all of them in one request, every one acknowledged or an error is raised.

        encode: makes the bytes of a DICOM file of each.

        Storing what is already there succeeds; a warning, as of a coerced attribute, is no failure. Raises StorageFull;
        InvalidResult where the archive refuses an instance, with its reason; ArchiveUnavailable where it did not store
        one without a reason, as Orthanc on a full disk.
        """
        if not instances:
            return
        boundary = uuid.uuid4().hex
        body = list(_stow_body(map(encode, instances), boundary))
        with self._translated("storing results"):
            response = self._http.post(
                f"{self.base_url}/studies",
                content=_pieces(body),
                headers={
                    "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
                    "Content-Length": str(sum(map(len, body))),
                    "Accept": "application/dicom+json",
                },
            )
        if response.status_code not in (200, 202, 409):
            self._refuse_error(response, "storing results")
        self._refuse_unstored(response, {str(instance.SOPInstanceUID) for instance in instances})

    def _search(self, path: str, matching: Mapping[str, str]) -> list[dict[str, Any]]:
        with self._translated(f"searching {path}"):
            response = self._http.get(
                f"{self.base_url}/{path}", params=dict(matching), headers={"Accept": "application/dicom+json"}
            )
        if response.status_code == 204:
            return []
        self._refuse_error(response, f"searching {path}")
        found = self._json(response, f"searching {path}")
        if not isinstance(found, list):
            raise ArchiveUnavailable(f"{self.base_url}: searching {path}: the answer is no list")
        return found

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (httpx.TimeoutException, TimeoutError) as error:
            raise DeadlineExceeded(f"{self.base_url}: no answer in time, {doing}") from error
        except (httpx.HTTPError, DownloadError) as error:
            said = distrust(error) or str(error) or type(error).__name__
            raise ArchiveUnavailable(f"{self.base_url}: {doing}: {said}") from error
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ConfigurationError(
                f"{self.base_url} is not the URL of a DICOMweb service: {error}"
            ) from error

    def _refuse_error(self, response: httpx.Response, doing: str) -> None:
        if response.is_success:
            return
        said = f"{self.base_url}: {doing}: HTTP {response.status_code} {response.reason_phrase}{_reason(response)}"
        if response.status_code == 507:
            raise StorageFull(f"{said}: the archive's disk is full")
        if response.status_code in (401, 403):
            raise ConfigurationError(f"{said}: the archive wants another name or password")
        if response.status_code in _PASSING or response.status_code >= 500:
            raise ArchiveUnavailable(said)
        raise InputError(said)

    def _refuse_unstored(self, response: httpx.Response, wanted: set[str]) -> None:
        answer = self._json(response, "storing results")
        if isinstance(answer, list):  # DICOM JSON wraps every answer in an array; Orthanc does not
            answer = answer[0] if answer else {}
        stored = {_value(item, "00081155") for item in _items(answer, "00081199")}
        reasons = {_value(item, "00081155"): _value(item, "00081197") for item in _items(answer, "00081198")}
        missing = sorted(wanted - stored)
        if not missing:
            return
        said = f"{self.base_url}: {len(missing)} of {len(wanted)} results were not stored ({missing[0]}"
        given = [reasons.get(uid) for uid in missing]
        known = [reason for reason in given if reason not in (None, _PROCESSING_FAILURE)]
        if any(0xA700 <= reason <= 0xA7FF for reason in known):  # PS3.18, I.2
            raise StorageFull(f"{said}): the archive is out of resources; is its disk full?")
        if known:
            raise InvalidResult(
                f"{said}): the archive refuses them with reason {known[0]:#06x} (PS3.18, I.2)"
            )
        raise ArchiveUnavailable(f"{said}), and the archive does not say why; is its disk full?")

    def _json(self, response: httpx.Response, doing: str) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise ArchiveUnavailable(
                f"{self.base_url}: {doing}: the answer (HTTP {response.status_code}) is not DICOM JSON"
            ) from error


def _reason(response: httpx.Response) -> str:
    """Orthanc's own word for what went wrong, which quotes nothing of the request."""
    try:
        answer = response.json()
    except ValueError:
        return ""
    message = answer.get("Message") if isinstance(answer, dict) else None
    return f" ({message})" if isinstance(message, str) else ""


def _items(answer: Any, tag: str) -> list[Any]:
    """The items of a sequence in DICOM JSON (PS3.18, F.2)."""
    element = answer.get(tag) if isinstance(answer, dict) else None
    return (element.get("Value") or []) if isinstance(element, dict) else []


def _value(item: Any, tag: str) -> Any:
    """The first value of an item's attribute; None where it has none, as of an instance that could not be read."""
    return next(iter(_items(item, tag)), None)


def _stow_body(files: Iterable[bytes], boundary: str) -> Iterator[bytes]:
    for file in files:
        yield f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        yield file
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _pieces(body: Iterable[bytes]) -> Iterator[bytes]:
    for part in body:
        for start in range(0, len(part), _SENT_BYTES):
            yield part[start : start + _SENT_BYTES]
