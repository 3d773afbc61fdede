"""The DICOMweb client against a real Orthanc, and against what goes wrong on the way to it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ports import free_port
from pydicom.dataset import Dataset
from served import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from isocenter.settings import GatewaySettings, OrthancSettings, Settings
from isocenter.stack.orthanc import running_orthanc
from isocenter_operators.dicom.series.read import read_bytes
from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.errors import (
    ArchiveUnavailable,
    ConfigurationError,
    DeadlineExceeded,
    InputError,
    InvalidResult,
    IsocenterError,
    StorageFull,
)
from isocenter_operators.testing import as_datasets, thorax_phantom

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def series() -> list[Dataset]:
    """Twelve slices of 31 kB."""
    return as_datasets(thorax_phantom(size=(128, 120, 12), spacing_mm=(3.0, 3.0, 25.0)), uid_seed="dicomweb")


def uids_of(series: list[Dataset]) -> tuple[str, str]:
    return str(series[0].StudyInstanceUID), str(series[0].SeriesInstanceUID)


def test_what_is_stored_comes_back_and_storing_it_again_is_no_error(
    orthanc: OrthancSettings, series: list[Dataset]
) -> None:
    study, uid = uids_of(series)
    with DICOMwebClient(orthanc.dicomweb_url) as client:
        for _ in range(2):
            client.store(series)
        client.store([])
        received = [read_bytes(content, origin="a part") for content in client.retrieve_series(study, uid)]
        pixels = {str(each.SOPInstanceUID): each.PixelData for each in received if each is not None}
        assert pixels == {str(each.SOPInstanceUID): each.PixelData for each in series}
        (found,) = client.search_series(study, Modality="CT")
        assert found["0020000E"]["Value"] == [uid]
        assert len(client.search_instances(study, uid)) == len(series)
        assert client.search_series(study, Modality="MR") == []
        with pytest.raises(InputError, match=r"retrieving series 1\.2\.3: HTTP 404 .*inexistent item"):
            list(client.retrieve_series(study, "1.2.3"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for an empty archive and not much more."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system to fill")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_of_the_archive_is_worth_another_try(small_disk: Path, series: list[Dataset]) -> None:
    settings = Settings(
        data_dir=small_disk,
        gateway=GatewaySettings(port=free_port()),
        orthanc=OrthancSettings(http_port=free_port(), dicom_port=free_port()),
    )
    large = as_datasets(thorax_phantom(size=(512, 512, 8), spacing_mm=(0.8, 0.8, 38.0)))
    with (
        running_orthanc(settings),
        DICOMwebClient(settings.orthanc.dicomweb_url) as client,
        # Orthanc 1.10 answers 200 and leaves out what it could not write.
        pytest.raises((ArchiveUnavailable, StorageFull), match="full"),
    ):
        client.store(large)


@contextmanager
def relay(port: int, upstream: int, most: int) -> Iterator[None]:
    """Passes one connection on to `upstream` and breaks it after `most` bytes of the answer."""
    with socket.create_server(("127.0.0.1", port)) as server:

        def pass_on() -> None:
            client, _ = server.accept()
            with client, socket.create_connection(("127.0.0.1", upstream)) as archive:
                archive.sendall(client.recv(65536))
                passed = 0
                while passed < most and (content := archive.recv(min(4096, most - passed))):
                    client.sendall(content)
                    passed += len(content)

        thread = threading.Thread(target=pass_on, daemon=True)
        thread.start()
        yield
        thread.join(10)


def test_a_connection_that_breaks_in_the_middle_of_a_series_is_worth_another_try(
    orthanc: OrthancSettings, series: list[Dataset]
) -> None:
    with DICOMwebClient(orthanc.dicomweb_url) as client:
        client.store(series)
    port = free_port()
    received: list[bytes] = []
    with (
        relay(port, orthanc.http_port, most=150_000),
        DICOMwebClient(f"http://127.0.0.1:{port}/dicom-web") as client,
        pytest.raises(ArchiveUnavailable, match="retrieving series"),
    ):
        received.extend(client.retrieve_series(*uids_of(series)))
    with pytest.raises(ArchiveUnavailable, match="retrieving series"):  # nobody there at all
        list(DICOMwebClient(f"http://127.0.0.1:{port}/dicom-web").retrieve_series(*uids_of(series)))


def answer_of(stored: list[Dataset], failed: Dataset, reason: int | None) -> bytes:
    """A Store Instances Response (PS3.18, 10.5.3.2); without a reason the failed one is not named at all."""

    def item(instance: Dataset, reason: int | None) -> dict[str, object]:
        uid = {"00081155": {"vr": "UI", "Value": [str(instance.SOPInstanceUID)]}}
        return uid if reason is None else uid | {"00081197": {"vr": "US", "Value": [reason]}}

    response = {
        "00081198": {"vr": "SQ", "Value": [item(failed, reason)] if reason else []},
        "00081199": {"vr": "SQ", "Value": [item(each, None) for each in stored]},
    }
    return json.dumps([response]).encode()


Answer = tuple[int, int | None, type[IsocenterError], str]


@pytest.mark.parametrize(
    "answer",
    [
        (409, 0xA700, StorageFull, "out of resources"),
        (202, 0xC122, InvalidResult, "reason 0xc122"),
        (202, 0x0110, ArchiveUnavailable, "does not say why"),
        (200, None, ArchiveUnavailable, "does not say why"),
        (401, None, ConfigurationError, "another name or password"),
        (413, None, InputError, "HTTP 413"),
        (503, None, ArchiveUnavailable, "HTTP 503"),
        (507, None, StorageFull, "disk is full"),
    ],
)
def test_each_answer_of_an_archive_has_its_meaning(series: list[Dataset], answer: Answer) -> None:
    status, reason, kind, said = answer
    body = answer_of(series[:11], series[11], reason)

    def archive(_: Request) -> Response:
        return Response(body, status, media_type="application/dicom+json")

    app = Starlette(routes=[Route("/dicom-web/studies", archive, methods=["POST"])])
    with (
        served(app, free_port()) as url,
        DICOMwebClient(f"{url}/dicom-web") as client,
        pytest.raises(kind, match=said) as refusal,
    ):
        client.store(series)
    assert type(refusal.value) is kind


def test_silence_is_a_deadline_and_nonsense_is_no_answer() -> None:
    with socket.create_server(("127.0.0.1", port := free_port())):
        client = DICOMwebClient(f"http://127.0.0.1:{port}", timeout_s=0.2)
        with client, pytest.raises(DeadlineExceeded, match="no answer in time, searching studies"):
            client.search_studies()
    app = Starlette(routes=[Route("/studies", lambda _: Response("<html>Welcome to the hospital</html>"))])
    with (
        served(app, free_port()) as url,
        DICOMwebClient(url) as client,
        pytest.raises(ArchiveUnavailable, match="not DICOM JSON"),
    ):
        client.search_studies()
    with (
        DICOMwebClient("http://127.0.0.1:port") as client,
        pytest.raises(ConfigurationError, match="not the URL"),
    ):
        client.search_studies()
