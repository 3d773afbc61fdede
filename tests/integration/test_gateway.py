"""The gateway in front of a real Orthanc, and its own pages."""

from __future__ import annotations

import gzip
import http.client
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from copy import deepcopy
from pathlib import Path
from typing import cast

import httpx
import psutil
import pytest
import yaml
from ports import free_port
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from served import served
from starlette.applications import Starlette
from starlette.routing import Route
from unit.result_cases import findings_of, phantom_case, report_of, seg_of

from isocenter.arrivals import Arrival
from isocenter.database import prepare
from isocenter.gateway import create_app
from isocenter.gateway.marking import Marking
from isocenter.gateway.proxy import DICOMwebProxy
from isocenter.job import JobSpec
from isocenter.jobs import Jobs
from isocenter.ledger import Ledger
from isocenter.route import Superseded
from isocenter.routing import Router
from isocenter.rules import Series
from isocenter.settings import GatewaySettings, OrthancSettings, Settings
from isocenter.stack.orthanc import running_orthanc
from isocenter.worker.runner import stored_as_json
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.result_gate import stored_instance

pytestmark = pytest.mark.integration


class Nudges:
    """Stands where the router does, and counts."""

    def __init__(self) -> None:
        self.arrived = threading.Event()

    def study(self, study_uid: str) -> list[Series]:
        return []

    def known(self, study_uid: str) -> list[Arrival]:
        return []

    def nudge(self) -> None:
        self.arrived.set()

    def status(self) -> dict[str, str]:
        return {"away": ""}

    def newest(self, limit: int = 100) -> list[Arrival]:
        return []


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "data",
        gateway=GatewaySettings(port=free_port(), ohif=tmp_path / "ohif"),
        orthanc=OrthancSettings(http_port=free_port(), dicom_port=free_port()),
    )


@pytest.fixture
def gateway(settings: Settings, jobs: Jobs) -> Iterator[httpx.Client]:
    """A gateway whose Orthanc is away."""
    app = create_app(settings, router=Nudges(), jobs=jobs)
    with served(app, settings.gateway.port) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


@pytest.fixture
def stored(orthanc: OrthancSettings, test_data: Path) -> tuple[str, str]:
    """Study and series UID of five slices that Orthanc holds."""
    files = sorted((test_data / "ct-abdomen-41" / "image").iterdir())[:5]
    for file in files:
        httpx.post(f"{orthanc.rest_url}/instances", content=file.read_bytes()).raise_for_status()
    first = dcmread(files[0], stop_before_pixels=True)
    return str(first.StudyInstanceUID), str(first.SeriesInstanceUID)


@pytest.fixture
def proxied(orthanc: OrthancSettings, settings: Settings, jobs: Jobs) -> Iterator[httpx.Client]:
    """A gateway before the session's Orthanc."""
    both = settings.model_copy(update={"orthanc": orthanc})
    app = create_app(both, router=Nudges(), jobs=jobs)
    with served(app, settings.gateway.port) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def test_urls_in_answers_stay_on_the_gateways_origin(proxied: httpx.Client, stored: tuple[str, str]) -> None:
    study, series = stored
    origin = str(proxied.base_url).rstrip("/")
    found = proxied.get("/dicom-web/studies", params={"StudyInstanceUID": study}).json()
    assert [one["00081190"]["Value"] for one in found] == [[f"{origin}/dicom-web/studies/{study}"]]

    metadata = proxied.get(f"/dicom-web/studies/{study}/series/{series}/metadata")
    urls = set(re.findall(r'"(https?://[^"]+)"', metadata.text))
    assert urls
    assert all(url.startswith(f"{origin}/dicom-web/studies/{study}") for url in urls)
    bulk = re.findall(r'"BulkDataURI"\s*:\s*"([^"]+)"', metadata.text)
    assert proxied.get(bulk[0]).status_code == 200


def test_a_query_reaches_the_archive_as_it_was_written(
    proxied: httpx.Client, stored: tuple[str, str]
) -> None:
    study, series = stored
    path = f"/dicom-web/studies/{study}/series"
    assert proxied.get(path, params={"SeriesInstanceUID": series, "Modality": "CT"}).json()
    assert proxied.get(path, params={"SeriesInstanceUID": series, "Modality": "MR"}).json() == []


@pytest.fixture
def superseded(orthanc: OrthancSettings, settings: Settings) -> dict[str, list[Dataset]]:
    """A study in the session's Orthanc, whose results of two applications are superseded: those to keep and to hide."""
    prepare(settings)
    ledger, study_uid = Ledger(settings.database), generate_uid()
    volume, labels = phantom_case()
    held: dict[str, list[Dataset]] = {"images": [deepcopy(each) for each in volume.sources[:2]]}
    for policy in ("keep", "hide", "current"):
        seg = seg_of(volume, labels)
        held[policy] = [seg, report_of(volume, findings_of(volume, labels), seg)]
    for kind, instances in held.items():
        series = {each.SeriesInstanceUID: generate_uid() for each in instances}
        for each in instances:
            each.StudyInstanceUID, each.SeriesInstanceUID = study_uid, series[each.SeriesInstanceUID]
            each.SOPInstanceUID = each.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        if kind in ("keep", "hide"):
            spec = JobSpec(
                algorithm=Algorithm(kind, "1"),
                study_uid=study_uid,
                series_uids=("1.2.3.4",),
                sop_instance_uids=("1.2.3.4.5",),
                route="chest",
                superseded=cast(Superseded, kind),
            )
            job_id = spec.identity.job_id
            ledger.enter(spec)
            ledger.store(job_id, stored_as_json([stored_instance(each) for each in instances]))
            ledger.end(job_id, "done")
            ledger.superseded(job_id, "f" * 64, [])
        with DICOMwebClient(orthanc.dicomweb_url) as client:
            client.store(instances)
    return held


@pytest.fixture
def marking(orthanc: OrthancSettings, settings: Settings) -> Iterator[httpx.Client]:
    """The proxy before the session's Orthanc, with the ledger beside it."""
    proxy = DICOMwebProxy(orthanc, Marking(settings))

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await proxy.aclose()

    routes = [Route("/dicom-web/{path:path}", proxy.respond, methods=["GET", "POST"])]
    app = Starlette(routes=routes, lifespan=lifespan)
    with (
        served(app, settings.gateway.port) as url,
        httpx.Client(base_url=f"{url}/dicom-web", timeout=60) as client,
    ):
        yield client


def series_of(instances: list[Dataset]) -> set[str]:
    return {str(each.SeriesInstanceUID) for each in instances}


def listed(answer: httpx.Response) -> dict[str, set[str | None]]:
    """The series in a list, with their descriptions."""
    assert answer.status_code == 200, answer.text
    found: dict[str, set[str | None]] = {}
    for item in answer.json():
        description = item.get("0008103E", {}).get("Value", [None])[0]
        found.setdefault(item["0020000E"]["Value"][0], set()).add(description)
    return found


@pytest.mark.parametrize(
    "path", ["series", "metadata", "instances?includefield=SeriesDescription", "/series"]
)
def test_a_reader_sees_which_results_are_superseded(
    marking: httpx.Client, superseded: dict[str, list[Dataset]], path: str
) -> None:
    study = superseded["images"][0].StudyInstanceUID
    url = f"/studies/{study}/{path}" if not path.startswith("/") else f"{path}?StudyInstanceUID={study}"
    found = listed(marking.get(url))
    seen = series_of([*superseded["images"], *superseded["keep"], *superseded["current"]])
    assert set(found) == seen
    for each in superseded["keep"]:
        assert found[each.SeriesInstanceUID] == {f"SUPERSEDED: {each.SeriesDescription}"}
    for each in superseded["current"]:
        assert found[each.SeriesInstanceUID] == {each.SeriesDescription}


def test_what_is_asked_for_by_its_uid_is_given_and_called_superseded(
    marking: httpx.Client, superseded: dict[str, list[Dataset]]
) -> None:
    for kind, prefix in (("keep", "SUPERSEDED: "), ("hide", "SUPERSEDED: "), ("current", "")):
        for each in superseded[kind]:
            series = f"/studies/{each.StudyInstanceUID}/series/{each.SeriesInstanceUID}"
            metadata = listed(marking.get(f"{series}/metadata"))
            assert metadata == {each.SeriesInstanceUID: {f"{prefix}{each.SeriesDescription}"}}
            instances = marking.get(f"{series}/instances").json()
            assert len(instances) == (0 if kind == "hide" else 1)
            whole = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
            assert each.SOPInstanceUID.encode() in marking.get(series, headers=whole).content


def test_urls_and_queries_are_those_of_the_archive_where_results_are_superseded_too(
    marking: httpx.Client, superseded: dict[str, list[Dataset]]
) -> None:
    path = f"/studies/{superseded['images'][0].StudyInstanceUID}/series"
    only = marking.get(path, params={"Modality": "CT"})
    assert set(listed(only)) == series_of(superseded["images"])
    assert only.headers["content-type"].startswith("application/dicom+json")
    assert only.json()[0]["00081190"]["Value"][0].startswith(str(marking.base_url))
    assert marking.get(path, params={"Modality": "MR"}).json() == []
    assert len(marking.get(path, params={"limit": 1}).json()) <= 1


def test_a_list_that_could_not_be_marked_is_refused(
    marking: httpx.Client, superseded: dict[str, list[Dataset]], stored: tuple[str, str]
) -> None:
    xml = {"Accept": 'multipart/related; type="application/dicom+xml"'}
    study = superseded["images"][0].StudyInstanceUID
    refused = marking.get(f"/studies/{study}/metadata", headers=xml)
    assert refused.status_code == 406
    assert "ask for application/dicom+json" in refused.json()["error"]
    whole = marking.get(f"/studies/{stored[0]}/metadata", headers=xml)
    assert whole.status_code == 200  # of a study without superseded results
    assert b"NativeDicomModel" in whole.content


def test_without_the_ledger_no_list_is_given_but_images_are(
    marking: httpx.Client, settings: Settings, stored: tuple[str, str]
) -> None:
    settings.data_dir.mkdir(exist_ok=True)
    (settings.data_dir / "isocenter.sqlite").write_bytes(b"no database" * 1000)
    refused = marking.get(f"/studies/{stored[0]}/series")
    assert refused.status_code == 503
    assert "can not be used" in refused.json()["error"]
    whole = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
    assert marking.get(f"/studies/{stored[0]}/series/{stored[1]}", headers=whole).status_code == 200
    assert marking.get("/studies").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "servers",
        "info",
        "studies/../servers",
        "studies/%2e%2e/servers",
        "studies/%252e%252e/servers",
        "studies/%2e%2e%2fservers",
        "studies%3f/../servers",
        "studies%23",
        "..%2finstances",
        "studies/1.2\\..\\..",
    ],
)
def test_nothing_but_dicomweb_resources_passes(proxied: httpx.Client, path: str) -> None:
    # http.client sends the path as it is; httpx would tidy it.
    connection = http.client.HTTPConnection("127.0.0.1", proxied.base_url.port or 0, timeout=10)
    connection.request("GET", f"/dicom-web/{path}")
    assert connection.getresponse().status == 404
    connection.close()


def test_orthanc_away_is_said_in_one_sentence(gateway: httpx.Client, settings: Settings) -> None:
    answer = gateway.get("/dicom-web/studies")
    assert answer.status_code == 502
    assert answer.json()["error"].startswith(f"Orthanc at {settings.orthanc.rest_url} does not answer")
    health = gateway.get("/healthz")
    assert health.status_code == 503
    assert health.json()["parts"]["orthanc"]["up"] is False
    assert "make ohif" in health.json()["parts"]["viewer"]["missing"]


def test_alive_says_nothing_of_others_and_the_queue_how_much_there_is_to_do(gateway: httpx.Client) -> None:
    assert gateway.get("/livez").json() == {"status": "alive"}
    assert gateway.get("/api/queue").json() == {"waiting": 0, "running": 0, "wanted": 0}


def test_names_are_those_that_are_set(settings: Settings, jobs: Jobs) -> None:
    named = settings.model_copy(update={"gateway": settings.gateway.model_copy(update={"names": ("pacs",)})})
    with served(create_app(named, router=Nudges(), jobs=jobs), named.gateway.port) as url:
        told = {
            name: httpx.get(f"{url}/livez", headers={"Host": name}).status_code for name in ("pacs", "else")
        }
    assert told == {"pacs": 200, "else": 400}


def test_orthancs_password_stays_with_the_gateway(settings: Settings, jobs: Jobs) -> None:
    guarded = Settings.model_validate(
        {
            **settings.model_dump(exclude={"orthanc"}),
            "orthanc": {**settings.orthanc.model_dump(), "username": "isocenter", "password": "s3cret"},
        }
    )
    with running_orthanc(guarded):
        assert httpx.get(f"{guarded.orthanc.dicomweb_url}/studies").status_code == 401
        with served(create_app(guarded, router=Nudges(), jobs=jobs), guarded.gateway.port) as url:
            assert httpx.get(f"{url}/dicom-web/studies").json() == []
            assert httpx.get(f"{url}/healthz").json()["parts"]["orthanc"] == {"up": True}


def test_the_plugins_nudge_arrives(settings: Settings, jobs: Jobs, test_data: Path) -> None:
    router = Nudges()
    slice_ = next((test_data / "ct-abdomen-41" / "image").iterdir())
    with (
        served(create_app(settings, router=router, jobs=jobs), settings.gateway.port),
        running_orthanc(settings),
    ):
        assert not router.arrived.is_set()
        httpx.post(f"{settings.orthanc.rest_url}/instances", content=slice_.read_bytes()).raise_for_status()
        assert router.arrived.wait(10)


@pytest.mark.parametrize(
    ("content", "status"),
    [(b'{"changes": []}', 202), (b"not JSON", 400), (b"[" * 60_000, 400), (b" " * 70_000, 413)],
)
def test_an_event_is_small_json(gateway: httpx.Client, content: bytes, status: int) -> None:
    assert gateway.post("/api/events/orthanc", content=content).status_code == status
    # In chunks, of which no header says how many there will be.
    assert gateway.post("/api/events/orthanc", content=iter([content])).status_code == status


def test_other_sites_pages_can_neither_act_nor_read(gateway: httpx.Client) -> None:
    crossing = {"Sec-Fetch-Site": "cross-site"}
    assert gateway.post("/api/events/orthanc", json={}, headers=crossing).status_code == 403
    for origin, status in (("http://elsewhere.example", 403), ("null", 403), (str(gateway.base_url), 202)):
        answer = gateway.post("/api/events/orthanc", json={}, headers={"Origin": origin.rstrip("/")})
        assert answer.status_code == status, origin
    assert gateway.get("/api/jobs", headers={"Host": "rebound.example:8080"}).status_code == 400
    assert gateway.get("/api/jobs", headers={"Host": "localhost:8080"}).status_code == 200


def test_jobs_are_listed_shown_cancelled_and_retried(gateway: httpx.Client, jobs: Jobs) -> None:
    spec = JobSpec(
        algorithm=Algorithm("ct_lung_density", "1"),
        study_uid="1.2.3",
        series_uids=("1.2.3.4",),
        sop_instance_uids=("1.2.3.4.5",),
        route="<b>chest</b>",
    )
    job_id = jobs.submit(spec)
    assert [job["id"] for job in gateway.get("/api/jobs").json()["jobs"]] == [job_id]
    shown = gateway.get(f"/api/jobs/{job_id}").json()
    assert (shown["state"], shown["study_uid"]) == ("queued", "1.2.3")

    assert gateway.post(f"/api/jobs/{job_id}/retry").status_code == 409
    assert gateway.post(f"/api/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    page = gateway.get("/status").text
    assert 'href="/viewer?StudyInstanceUIDs=1.2.3"' in page
    assert "cancelled" in page
    pressed = gateway.post(f"/api/jobs/{job_id}/retry", headers={"Accept": "text/html"})
    assert (pressed.status_code, pressed.headers["location"]) == (303, "/status")
    assert gateway.get(f"/api/jobs/{job_id}").json()["state"] == "queued"

    assert gateway.get("/api/jobs/f00").status_code == 404
    assert gateway.post("/api/jobs/f00/cancel").status_code == 404
    assert gateway.get("/api/jobs?limit=many").status_code == 400


def test_without_ohif_the_page_says_how_to_get_it(gateway: httpx.Client) -> None:
    page = gateway.get("/")
    assert page.status_code == 200
    assert "make ohif" in page.text
    assert gateway.get("/viewer?StudyInstanceUIDs=1").status_code == 503
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_the_viewers_files_have_their_types_and_lifetimes(gateway: httpx.Client, settings: Settings) -> None:
    folder = settings.gateway.ohif
    assert folder is not None
    folder.mkdir()
    (folder / "index.html").write_text("<html>OHIF</html>")
    (folder / "app.bundle.0f6159c501addfe9.js").write_text("run()")
    (folder / "app.bundle.0f6159c501addfe9.js.gz").write_bytes(gzip.compress(b"run()"))
    (folder / "34b1e6b1deb5828e.wasm").write_bytes(b"\0asm")
    (folder / "init-service-worker.js").write_text("importScripts('https://elsewhere.example')")
    (folder.parent / "secret.txt").write_text("secret")

    script = gateway.get("/app.bundle.0f6159c501addfe9.js")
    assert (script.text, script.headers["content-encoding"]) == ("run()", "gzip")
    assert script.headers["content-type"].startswith("text/javascript")
    assert "immutable" in script.headers["cache-control"]
    plain = gateway.get("/app.bundle.0f6159c501addfe9.js", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert gateway.get("/34b1e6b1deb5828e.wasm").headers["content-type"] == "application/wasm"
    for place in ("/", "/viewer?StudyInstanceUIDs=1.2.3", "/segmentation"):
        page = gateway.get(place)
        assert (page.text, page.headers["cache-control"]) == ("<html>OHIF</html>", "no-cache")
    assert gateway.get("/gone.bundle.js").status_code == 404
    assert gateway.get("/init-service-worker.js").text == ""
    assert "secret" not in gateway.get("/..%2fsecret.txt").text
    for strange in ("/%00", f"/{'a' * 5000}"):
        assert gateway.get(strange).status_code == 200  # a place inside the viewer, for all that is known
    assert "'/dicom-web'" in gateway.get("/app-config.js").text


def test_the_status_page_says_of_each_series_why_it_has_no_job(
    settings: Settings, jobs: Jobs, stored: tuple[str, str], orthanc: OrthancSettings
) -> None:
    routes = [{"name": "<i>chest</i>", "application": "a", "when": {"Modality": "^MR$"}}]
    site = Settings.model_validate(
        {
            **settings.model_dump(),
            "orthanc": orthanc.model_dump(),
            "routing": {"settle_s": 4.0},
            "routes": routes,
        }
    )
    router = Router(site)
    with (
        served(create_app(site, router=router, jobs=jobs), site.gateway.port) as url,
        httpx.Client(base_url=url) as client,
    ):
        router.look()
        settling = client.get("/status").text
        assert "images may still be coming" in settling
        assert stored[1] in settling
        give_up, page = time.monotonic() + 30, settling
        while "images may still be coming" in page and time.monotonic() < give_up:
            time.sleep(0.5)
            router.look()
            page = client.get("/status").text
        reason = "&lt;i&gt;chest&lt;/i&gt;: Modality is &#x27;CT&#x27;, and should be like &#x27;^MR$&#x27;"
        assert reason in page
        assert "images may still be coming" not in page
        (settings.data_dir / "isocenter.sqlite").write_bytes(b"no database" * 1000)
        assert client.get("/status").status_code == 503
        assert "can not be used" in client.get("/healthz").json()["parts"]["router"]["missing"]
    router.stop()


@pytest.fixture
def gateway_process(settings: Settings, orthanc: OrthancSettings, tmp_path: Path) -> Iterator[psutil.Process]:
    """The gateway as it is really started."""
    file = tmp_path / "isocenter.yaml"
    (tmp_path / "apps").mkdir()
    content = {
        "data_dir": str(settings.data_dir),
        "apps_dir": str(tmp_path / "apps"),
        "gateway": {"port": settings.gateway.port, "ohif": str(tmp_path / "ohif")},
        "orthanc": {"http_port": orthanc.http_port, "dicom_port": orthanc.dicom_port},
        "routes": [],
    }
    file.write_text(yaml.safe_dump(content))
    process = subprocess.Popen([sys.executable, "-m", "isocenter.gateway", "--config", str(file)])
    try:
        _wait_until_up(process, settings.gateway)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        assert process.wait(15) == 0


def _wait_until_up(process: subprocess.Popen[bytes], gateway: GatewaySettings) -> None:
    give_up = time.monotonic() + 30
    while True:
        assert process.poll() is None
        assert time.monotonic() < give_up
        try:
            httpx.get(f"{gateway.url}/healthz")
        except httpx.ConnectError:
            time.sleep(0.05)
        else:
            return


def test_a_large_series_streams_both_ways_with_flat_memory(
    gateway_process: psutil.Process, settings: Settings, orthanc: OrthancSettings, test_data: Path
) -> None:
    files = sorted((test_data / "ct-chest-275" / "image").rglob("*.dcm"))
    size = sum(file.stat().st_size for file in files)
    assert size > 100_000_000
    first = dcmread(files[0], stop_before_pixels=True)
    path = f"/studies/{first.StudyInstanceUID}/series/{first.SeriesInstanceUID}"

    def parts() -> Iterator[bytes]:
        for file in files:
            yield b"--part\r\nContent-Type: application/dicom\r\n\r\n" + file.read_bytes() + b"\r\n"
        yield b"--part--"

    before = gateway_process.memory_info().rss
    with httpx.Client(base_url=f"{settings.gateway.url}/dicom-web", timeout=60) as client:
        stow = client.post(
            "/studies",
            content=parts(),
            headers={
                "Content-Type": 'multipart/related; type="application/dicom"; boundary=part',
                "Accept": "application/dicom+json",
            },
        )
        assert stow.status_code == 200
        accept = {"Accept": 'multipart/related; type="application/dicom"; transfer-syntax=*'}
        received = 0
        with client.stream("GET", path, headers=accept) as answer:
            assert answer.status_code == 200
            for chunk in answer.iter_raw():
                received += len(chunk)
    assert received > size
    held = len(httpx.get(f"{orthanc.dicomweb_url}{path}/instances", params={"limit": 1000}).json())
    assert held == len(files)
    high_water = int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{gateway_process.pid}/status").read_text())[1])  # type: ignore[index]
    assert high_water * 1024 - before < 50_000_000  # of 145 MB each way
