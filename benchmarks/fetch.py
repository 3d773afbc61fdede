"""A whole series out of a real Orthanc: ours against dicomweb-client, and against the bare bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
from comparison import Comparison, side_by_side
from dicomweb_client.api import DICOMwebClient as PeerClient
from series import embedded_settings

from isocenter.cli.sending import send
from isocenter.stack.orthanc import running_orthanc
from isocenter_operators.dicom.series.read import read_bytes, read_folder
from isocenter_operators.dicomweb.client import DICOMwebClient

_AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'


def compare(chest: Path) -> Iterator[Comparison]:
    first = read_folder(chest)[0]
    study, series = str(first.StudyInstanceUID), str(first.SeriesInstanceUID)
    with embedded_settings() as settings, running_orthanc(settings):
        send(chest, settings)
        url = settings.orthanc.dicomweb_url
        peer = PeerClient(url)
        with DICOMwebClient(url) as client, httpx.Client(trust_env=False, timeout=60) as http:

            def ours() -> int:
                return len([read_bytes(c, origin=series) for c in client.retrieve_series(study, series)])

            def dicomweb_client() -> int:
                return len(peer.retrieve_series(study, series))

            def bare() -> int:
                path = f"{url}/studies/{study}/series/{series}"
                headers = {"Accept": _AS_STORED, "Accept-Encoding": "identity"}
                with http.stream("GET", path, headers=headers) as response:
                    return sum(len(chunk) for chunk in response.iter_raw(1 << 20))

            yield side_by_side("fetch a series", ours, dicomweb_client, against="dicomweb-client")
            yield side_by_side("fetch a series, bare", ours, bare, against="its WADO-RS bytes alone")
