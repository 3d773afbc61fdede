"""A whole series out of a real Orthanc: ours against dicomweb-client, the archive's zip, and the bare bytes."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from comparison import Comparison, machine, side_by_side
from dicomweb_client.api import DICOMwebClient as PeerClient
from pydicom import dcmread
from series import embedded_settings
from volume import memory_of

from isocenter.cli.sending import send
from isocenter.stack.orthanc import running_orthanc
from isocenter_operators.dicom.series.part10 import Seen
from isocenter_operators.dicom.series.read import read_bytes, read_folder
from isocenter_operators.dicomweb.client import DICOMwebClient

_AS_STORED = {
    "Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*',
    "Accept-Encoding": "identity",
}


def compare(chest: Path) -> Iterator[Comparison]:
    first = read_folder(chest)[0]
    study, series = str(first.StudyInstanceUID), str(first.SeriesInstanceUID)
    with embedded_settings() as settings, running_orthanc(settings):
        send(chest, settings)
        url = settings.orthanc.dicomweb_url
        peer = PeerClient(url)
        with DICOMwebClient(url) as client:

            def ours() -> int:
                seen = Seen()
                received = client.retrieve_series(study, series)
                return len([read_bytes(content, origin=series, seen=seen) for content in received])

            def dicomweb_client() -> int:
                return len(peer.retrieve_series(study, series))

            yield side_by_side("fetch a series", ours, dicomweb_client, against="dicomweb-client")
            archive = _Archive(url.removesuffix("/dicom-web"), series)
            yield side_by_side(
                "fetch a series, zip", ours, archive.read, against="Orthanc's archive, read by pydicom"
            )
            bare = _Bare(f"{url}/studies/{study}/series/{series}")
            yield side_by_side(
                "fetch a series, bare", ours, bare.read, against="its WADO-RS bytes, thrown away"
            )
        memory = memory_of("archive", url, study, series)
        yield Comparison("series to volume, memory", memory, None, "x", "times the voxels' bytes", machine())


class _Archive:
    """The series as Orthanc's zip."""

    def __init__(self, url: str, series_uid: str) -> None:
        query = {"Level": "Series", "Query": {"SeriesInstanceUID": series_uid}}
        (id_,) = httpx.post(f"{url}/tools/find", json=query, trust_env=False).json()
        self._url = f"{url}/series/{id_}/archive"

    def read(self) -> int:
        with zipfile.ZipFile(
            io.BytesIO(httpx.get(self._url, trust_env=False, timeout=60).content)
        ) as archive:
            return len([dcmread(io.BytesIO(archive.read(name))) for name in archive.namelist()])


class _Bare:
    """The answer's bytes by the socket's own reading, each megabyte over the one before."""

    def __init__(self, url: str) -> None:
        self._place = urlsplit(url)
        self._buffer = bytearray(1 << 20)

    def read(self) -> int:
        connection = HTTPConnection(self._place.hostname or "", self._place.port)
        connection.request("GET", self._place.path, headers=_AS_STORED)
        response, size = connection.getresponse(), 0
        while count := response.readinto(self._buffer):
            size += count
        connection.close()
        return size
