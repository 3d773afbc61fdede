"""The embedded Orthanc as it is configured, and the script that runs in it."""

from __future__ import annotations

import importlib.util
import json
import queue
import socket
import stat
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from ports import free_port
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pynetdicom import AE

from isocenter.settings import GatewaySettings, OrthancSettings, Settings
from isocenter.stack import orthanc as stack_orthanc
from isocenter.stack.orthanc import orthanc_child, running_orthanc
from isocenter_operators.errors import ArchiveUnavailable, ConfigurationError

pytestmark = pytest.mark.integration

SCRIPTS = Path(__file__).parents[2] / "orthanc"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path,
        gateway=GatewaySettings(port=free_port()),
        orthanc=OrthancSettings(http_port=free_port(), dicom_port=free_port()),
    )


@pytest.fixture
def slices(test_data: Path) -> list[FileDataset]:
    return [dcmread(file) for file in sorted((test_data / "ct-abdomen-41" / "image").iterdir())]


@pytest.fixture
def events(settings: Settings) -> Iterator[queue.Queue[dict[str, Any]]]:
    """What is posted to where the gateway would be."""
    posted: queue.Queue[dict[str, Any]] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            posted.put({"path": self.path, **body})
            self.send_response(202)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", settings.gateway.port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield posted
        server.shutdown()


def c_store(orthanc: OrthancSettings, instances: list[FileDataset]) -> list[int]:
    """Send by C-STORE, each in its own transfer syntax, and give the status of each."""
    scu = AE(ae_title="SCANNER")
    for instance in instances:
        context = (instance.SOPClassUID, instance.file_meta.TransferSyntaxUID)
        if not any(
            (known.abstract_syntax, known.transfer_syntax[0]) == context for known in scu.requested_contexts
        ):
            scu.add_requested_context(*context)
    association = scu.associate(orthanc.host, orthanc.dicom_port, ae_title=orthanc.aet)
    assert association.is_established
    try:
        return [int(association.send_c_store(instance).Status) for instance in instances]
    finally:
        association.release()


def stored(orthanc: OrthancSettings) -> int:
    return int(httpx.get(f"{orthanc.rest_url}/statistics").json()["CountInstances"])


def test_every_common_transfer_syntax_is_taken_and_kept(settings: Settings, test_data: Path) -> None:
    # The nine files are one image with one SOP Instance UID: each is sent to an empty archive.
    with running_orthanc(settings):
        for file in sorted((test_data / "transfer-syntaxes" / "In").rglob("*.dcm")):
            instance = dcmread(file)
            assert c_store(settings.orthanc, [instance]) == [0], file.name
            (held,) = httpx.get(f"{settings.orthanc.rest_url}/instances").json()
            syntax = httpx.get(f"{settings.orthanc.rest_url}/instances/{held}/metadata/TransferSyntax").text
            assert syntax == instance.file_meta.TransferSyntaxUID
            httpx.delete(f"{settings.orthanc.rest_url}/instances/{held}").raise_for_status()


def test_storing_the_same_instance_again_changes_nothing(
    settings: Settings, slices: list[FileDataset]
) -> None:
    with running_orthanc(settings):
        assert c_store(settings.orthanc, slices[:1]) == [0]
        before = httpx.get(f"{settings.orthanc.rest_url}/instances?expand").json()
        assert c_store(settings.orthanc, slices[:1]) == [0]
        assert httpx.get(f"{settings.orthanc.rest_url}/instances?expand").json() == before
        kinds = [c["ChangeType"] for c in httpx.get(f"{settings.orthanc.rest_url}/changes").json()["Changes"]]
        assert kinds.count("NewInstance") == 1


def test_the_script_tells_which_series_of_which_study_changed(
    settings: Settings, slices: list[FileDataset], events: queue.Queue[dict[str, Any]]
) -> None:
    with running_orthanc(settings):
        assert set(c_store(settings.orthanc, slices[:3])) == {0}
        seen: list[str] = []
        while "StableSeries" not in seen:
            event = events.get(timeout=10)
            assert event["path"] == "/api/events/orthanc"
            for change in event["changes"]:
                assert set(change) == {"change", "series", "study"}
                assert change["series"] == slices[0].SeriesInstanceUID
                assert change["study"] == slices[0].StudyInstanceUID
                seen.append(change["change"])
        assert seen[0] == "NewSeries"


def test_without_a_gateway_everything_is_stored_and_it_is_said_once(
    settings: Settings, slices: list[FileDataset]
) -> None:
    with running_orthanc(settings):
        assert set(c_store(settings.orthanc, slices)) == {0}
        assert stored(settings.orthanc) == len(slices)
        log = settings.data_dir / "orthanc" / "orthanc.log"
        give_up = time.monotonic() + 10
        while "gateway is not told" not in log.read_text():
            assert time.monotonic() < give_up
            time.sleep(0.05)
    assert log.read_text().count("gateway is not told") == 1


def test_a_gateway_that_never_answers_holds_nobody_up(settings: Settings, slices: list[FileDataset]) -> None:
    with socket.create_server(("127.0.0.1", settings.gateway.port)), running_orthanc(settings):
        assert set(c_store(settings.orthanc, slices)) == {0}
        assert stored(settings.orthanc) == len(slices)


def test_with_a_user_nobody_else_gets_in(settings: Settings) -> None:
    guarded = Settings.model_validate(
        {
            **settings.model_dump(),
            "orthanc": {**settings.orthanc.model_dump(), "username": "isocenter", "password": "s3cret"},
        }
    )
    with running_orthanc(guarded):
        url = f"{guarded.orthanc.rest_url}/system"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, auth=("isocenter", "s3cret")).json()["DicomAet"] == "ISOCENTER"
    file = guarded.data_dir / "orthanc" / "orthanc.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_missing_plugin_is_named_with_its_package(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack_orthanc, "_PLUGIN_FOLDERS", (str(tmp_path),))
    with pytest.raises(ConfigurationError, match=r"libOrthancDicomWeb\.so.*apt-get install orthanc-dicomweb"):
        orthanc_child(settings)


def test_a_program_that_is_named_takes_its_own_plugins_and_no_others(
    settings: Settings, tmp_path: Path
) -> None:
    program, plugins = tmp_path / "bin" / "Orthanc", tmp_path / "share" / "orthanc" / "plugins"
    named = settings.model_copy(update={"orthanc": settings.orthanc.model_copy(update={"program": program})})
    with pytest.raises(ConfigurationError, match=r"orthanc\.program: there is no program .*/bin/Orthanc"):
        orthanc_child(named)
    for file in (program, plugins / "libOrthancDicomWeb.so"):
        file.parent.mkdir(parents=True)
        file.touch(mode=0o755)
    with pytest.raises(ConfigurationError, match=rf"libOrthancPython\.so is not there.*{plugins}"):
        orthanc_child(named)
    (plugins / "libOrthancPython.so").touch()
    child = orthanc_child(named)
    assert child.argv[0] == str(program)
    written = json.loads(Path(child.argv[1]).read_text())
    assert [Path(plugin).parent for plugin in written["Plugins"]] == [plugins] * 2


def test_a_port_in_use_is_told_at_once(settings: Settings) -> None:
    with (
        socket.create_server(("127.0.0.1", settings.orthanc.http_port)),
        pytest.raises(ArchiveUnavailable, match=r"ended with code .* see .*orthanc\.log"),
        running_orthanc(settings),
    ):
        pass


@pytest.fixture
def nudger() -> ModuleType:
    """The script's logic, without Orthanc."""
    spec = importlib.util.spec_from_file_location("nudger", SCRIPTS / "nudger.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_changes_that_wait_are_merged_and_bounded(nudger: ModuleType) -> None:
    posted: queue.Queue[list[str]] = queue.Queue()
    may_go_on = threading.Event()

    def post(body: bytes) -> None:
        posted.put([change["series"] for change in json.loads(body)["changes"]])
        may_go_on.wait(10)

    teller = nudger.Nudger(lambda change: {"series": change[1]}, post, pytest.fail, capacity=3)
    teller.start()
    teller.add(("NewSeries", "first"))
    assert posted.get(timeout=5) == ["first"]
    for series in ("a", "b", "a", "c", "a", "d"):
        teller.add(("NewSeries", series))  # returns although a post is under way
    may_go_on.set()
    assert posted.get(timeout=5) == ["c", "a", "d"]
    teller.stop()
    assert posted.empty()


def test_after_an_outage_the_newest_changes_are_told(nudger: ModuleType) -> None:
    posted: queue.Queue[bytes] = queue.Queue()
    warned: queue.Queue[str] = queue.Queue()
    away = threading.Event()
    away.set()

    def post(body: bytes) -> None:
        if away.is_set():
            raise ConnectionRefusedError("refused")
        posted.put(body)

    teller = nudger.Nudger(lambda change: {"series": change[1]}, post, warned.put)
    teller.start()
    teller.add(("NewSeries", "lost"))
    assert "refused" in warned.get(timeout=5)
    away.clear()
    teller.add(("NewSeries", "next"))
    assert b"next" in posted.get(timeout=5)
    teller.stop()
    assert warned.empty()
