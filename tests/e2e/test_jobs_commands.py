"""What a person does with jobs and rules, by the commands and by the API, at a service that runs: on a real study."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from chaos.installation import install
from ports import free_port

pytestmark = pytest.mark.e2e

Json = dict[str, Any]


@dataclass
class Webhook:
    """A destination that answers as it is told to."""

    status: int = 422
    received: list[Json] = field(default_factory=list)

    def serve(self) -> HTTPServer:
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                hook.received.append(json.loads(content))
                self.send_response(hook.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


@dataclass(frozen=True)
class Service:
    """A stack that runs, seen from a command line and over HTTP."""

    folder: Path
    url: str
    hook: Webhook
    environment: dict[str, str]

    def run(self, *arguments: str) -> tuple[int, Any]:
        """The exit code of a command, and its JSON document."""
        done = subprocess.run(
            [sys.executable, "-m", "isocenter.cli", *arguments, "--json"],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, json.loads(done.stdout)

    def isocenter(self, *arguments: str) -> Any:
        code, document = self.run(*arguments)
        assert code == 0, document
        return document

    def api(self, method: str, path: str, **more: Any) -> httpx.Response:
        return httpx.request(method, f"{self.url}{path}", timeout=30, trust_env=False, **more)

    def job(self, application: str) -> Json:
        """The only job of this application."""
        (found,) = [
            each for each in self.api("GET", "/api/jobs").json()["jobs"] if each["application"] == application
        ]
        return dict(found)

    def has(self, application: str) -> bool:
        return any(each["application"] == application for each in self.api("GET", "/api/jobs").json()["jobs"])

    def delivery(self, job_id: str) -> Json:
        (found,) = self.api("GET", f"/api/jobs/{job_id}").json()["deliveries"]
        return dict(found)


def wait_for(condition: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def configuration(folder: Path, gateway: int, hook: int) -> Json:
    """One application that runs at once and whose outcome is sent on, one that waits for the night, one for MR."""
    install(folder / "apps")
    later = datetime.now() + timedelta(hours=6)
    night = {"start": f"{later:%H:%M}", "end": f"{later + timedelta(hours=1):%H:%M}"}
    every = {
        "name": "every CT",
        "application": "plain",
        "when": {"Modality": "^CT$"},
        "destinations": ["ris"],
    }
    at_night = {"name": "at night", "application": "pair", "scope": "study", "when": {"Modality": "^CT$"}}
    return {
        "data_dir": "data",
        "apps_dir": "apps",
        "gateway": {"port": gateway},
        "orthanc": {"http_port": free_port(), "dicom_port": free_port()},
        "triton": {"url": f"127.0.0.1:{free_port()}"},  # nobody asks it
        "routing": {"settle_s": 1.0},
        "peers": {
            "ris": {"kind": "webhook", "url": f"http://127.0.0.1:{hook}/isocenter", "secret": "not so secret"}
        },
        "routes": [
            every,
            {**at_night, "hours": night},
            {"name": "magnets", "application": "modelled", "when": {"Modality": "^MR$"}},
        ],
    }


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    hook, gateway = Webhook(), free_port()
    server = hook.serve()
    (folder / "isocenter.yaml").write_text(yaml.safe_dump(configuration(folder, gateway, server.server_port)))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ISOCENTER_")}
    with (folder / "up.log").open("wb") as log:
        up = subprocess.Popen(
            [sys.executable, "-m", "isocenter.cli", "up"],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        said = folder / "up.log"
        wait_for(lambda: "ready after" in said.read_text() or up.poll() is not None, 240)
        assert up.poll() is None, said.read_text()
        yield Service(folder, f"http://127.0.0.1:{gateway}", hook, environment)
    finally:
        up.terminate()
        assert up.wait(60) == 0
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def images(test_data: Path) -> Path:
    return test_data / "ct-abdomen-41" / "image"


@pytest.fixture(scope="module")
def study_uid(service: Service, images: Path) -> str:
    """A real CT study: analysed by one application, waiting for the other."""
    (sent,) = service.isocenter("send", str(images))["study_uids"]
    wait_for(lambda: service.has("plain") and service.job("plain")["state"] == "done", 120)
    wait_for(lambda: service.has("pair"))
    return str(sent)


def test_jobs_are_listed_by_state_and_number(service: Service, study_uid: str) -> None:
    every = service.isocenter("jobs", "list")["jobs"]
    assert {each["application"]: each["state"] for each in every} == {"plain": "done", "pair": "queued"}
    assert {each["study_uid"] for each in every} == {study_uid}
    assert service.isocenter("jobs")["jobs"] == every  # without a further word
    assert service.isocenter("jobs", "list", "--limit", "1")["jobs"] == every[:1]
    for state in ("done", "queued", "failed"):
        expected = [each for each in every if each["state"] == state]
        assert service.isocenter("jobs", "list", "--state", state)["jobs"] == expected
        assert service.api("GET", f"/api/jobs?limit=10&state={state}").json()["jobs"] == expected


def test_a_job_is_shown_with_its_results_and_why_it_waits(service: Service, study_uid: str) -> None:
    done = service.isocenter("jobs", "show", service.job("plain")["id"][:12])
    assert [each["modality"] for each in done["results"]] == ["SEG", "SR"]
    assert done["groups"][0]["label"] == "Air"
    waiting = service.job("pair")
    assert waiting["reason"].startswith("waits for")
    assert service.api("GET", f"/api/jobs/{waiting['id']}").json() == {**waiting, "deliveries": []}


def test_what_a_destination_refused_is_sent_again(service: Service, study_uid: str) -> None:
    job_id = service.job("plain")["id"]
    wait_for(lambda: service.delivery(job_id)["state"] == "failed", 120)
    (told,) = service.isocenter("jobs", "show", job_id)["deliveries"]
    assert told == service.delivery(job_id)
    assert "HTTP 422" in told["reason"]
    service.hook.status = 200
    assert service.isocenter("jobs", "resend", job_id) == {"job": job_id, "deliveries": 1}
    wait_for(lambda: service.delivery(job_id)["state"] == "sent")
    assert service.hook.received[-1]["job_id"] == job_id
    assert service.api("POST", f"/api/jobs/{job_id}/resend").json() == {"job": job_id, "deliveries": 0}
    assert service.api("GET", "/api/destinations").json()["destinations"].keys() == {"ris"}


def test_a_job_that_waits_is_cancelled_and_asked_for_again(service: Service, study_uid: str) -> None:
    job_id = service.job("pair")["id"]
    cancelled = service.isocenter("jobs", "cancel", job_id)
    assert (cancelled["id"], cancelled["state"], cancelled["reason"]) == (job_id, "cancelled", "by hand")
    code, refused = service.run("jobs", "cancel", job_id)
    assert (code, refused["status"]) == (1, "failed")
    assert "only a job that waits or runs can be cancelled" in refused["reason"]
    assert service.api("POST", f"/api/jobs/{job_id}/cancel").status_code == 409
    assert service.isocenter("jobs", "retry", job_id)["state"] == "queued"
    assert service.job("pair")["state"] == "queued"
    assert service.api("POST", f"/api/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    assert service.api("POST", f"/api/jobs/{job_id}/retry").json()["state"] == "queued"


def test_a_job_that_is_done_is_done_again_with_the_same_results(service: Service, study_uid: str) -> None:
    before = service.job("plain")
    assert service.isocenter("jobs", "retry", before["id"])["id"] == before["id"]
    wait_for(
        lambda: service.job("plain")["state"] == "done" and service.job("plain")["ended"] > before["ended"]
    )
    assert service.job("plain")["results"] == before["results"]
    found = service.api("GET", f"/dicom-web/studies/{study_uid}/instances?includefield=00080060").json()
    assert sorted(each["00080060"]["Value"][0] for each in found if each["00080060"]["Value"] != ["CT"]) == [
        "SEG",
        "SR",
    ]


def test_the_rules_are_explained_for_files_and_for_a_study_alike(
    service: Service, study_uid: str, images: Path
) -> None:
    series, study = service.isocenter("rules", "explain", str(images))
    assert (series["study_uid"], study["study_uid"], study["series_uid"]) == (study_uid, study_uid, None)
    verdicts = {each["route"]: each for each in series["routes"]}
    assert verdicts["every CT"]["wanted"]
    assert not verdicts["magnets"]["wanted"]
    assert "CT" in verdicts["magnets"]["reason"]
    answer = service.api("POST", "/api/rules/explain", json={"study_uid": study_uid}).json()
    (told,) = [each for each in answer["series"] if each["series_uid"] == series["series_uid"]]
    assert told["routes"] == series["routes"]
    assert service.api("POST", "/api/rules/explain", json={"study_uid": "1.2.3"}).status_code == 404


def test_what_is_not_there_and_what_is_not_understood(service: Service, study_uid: str) -> None:
    code, told = service.run("jobs", "show", "ffff")
    assert (code, told["status"]) == (1, "failed")
    assert "there is no job 'ffff'" in told["reason"]
    assert service.run("jobs", "list", "--state", "lost")[0] == 2
    assert service.api("GET", "/api/jobs?state=lost").status_code == 400
    assert service.api("GET", "/api/jobs/ffff").status_code == 404
    assert service.api("POST", "/api/jobs/ffff/retry").status_code == 404
