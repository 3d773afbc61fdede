"""Passwords and secrets on their way into the children of a running stack."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from ports import free_port
from pydantic import BaseModel, SecretStr
from served import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from isocenter.database import prepare
from isocenter.job import JobSpec
from isocenter.ledger import Ledger
from isocenter.settings import OrthancSettings, Settings
from isocenter.stack.running import exclusively, running, write
from isocenter.stack.up import stack
from isocenter_operators.dicom.identity import Algorithm

pytestmark = pytest.mark.integration

PEERS: dict[str, Any] = {
    "cloud": {
        "kind": "dicomweb",
        "url": "https://cloud/dicom-web",
        "username": "c",
        "password": "of the cloud",
    },
    "second": {
        "kind": "orthanc",
        "url": "http://second:8042",
        "username": "s",
        "password": "of the second: #1",
    },
    "ris": {"kind": "webhook", "url": "http://ris/isocenter", "secret": "of the RIS"},
    "vna": {"kind": "dicom", "host": "vna", "port": 104, "aet": "VNA"},
    "share": {"kind": "folder", "path": "/mnt/results"},
}


def secrets(part: object, place: str = "") -> Iterator[tuple[str, str]]:
    """Every secret in the settings, with where it stands."""
    if isinstance(part, SecretStr):
        yield place, part.get_secret_value()
    elif isinstance(part, BaseModel):
        for name in type(part).model_fields:
            yield from secrets(getattr(part, name), f"{place}.{name}")
    elif isinstance(part, dict):
        for name, each in part.items():
            yield from secrets(each, f"{place}.{name}")
    elif isinstance(part, tuple | list):
        for number, each in enumerate(part):
            yield from secrets(each, f"{place}.{number}")


def test_every_secret_reaches_the_children(tmp_path: Path) -> None:
    settings = Settings(
        data_dir=tmp_path, orthanc={"username": "u", "password": "of ours"}, peers=PEERS, routes=[]
    )
    known = dict(secrets(settings))
    assert known == {
        ".orthanc.password": "of ours",
        ".peers.cloud.password": "of the cloud",
        ".peers.second.password": "of the second: #1",
        ".peers.ris.secret": "of the RIS",
    }
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.yaml").touch(mode=0o644)  # as somebody may have left it
    with exclusively(settings):
        file = write(settings)
        found = running(settings)
    assert found is not None
    assert dict(secrets(found)) == known
    assert "**" not in file.read_text()
    assert found.model_dump() == settings.model_dump()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_running_stack_signs_with_the_secret_itself(
    tmp_path: Path, orthanc: OrthancSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given by the environment, which the children do not get."""
    monkeypatch.setenv("ISOCENTER_PEERS__RIS__SECRET", "of the RIS")
    told: list[tuple[bool, str]] = []

    async def respond(request: Request) -> Response:
        body = await request.body()
        said = [request.headers[f"X-Isocenter-{name}"] for name in ("Timestamp", "Delivery")]
        wanted = hmac.new(b"of the RIS", ".".join(said).encode() + b"." + body, hashlib.sha256).hexdigest()
        genuine = hmac.compare_digest(f"sha256={wanted}", request.headers["X-Isocenter-Signature"])
        told.append((genuine, json.loads(body)["job_id"]))
        return Response(status_code=204)

    (tmp_path / "apps").mkdir()
    port = free_port()
    settings = Settings(
        data_dir=tmp_path / "data",
        apps_dir=tmp_path / "apps",
        gateway={"port": free_port()},
        orthanc={"url": orthanc.rest_url},
        triton={"url": "127.0.0.1:1"},  # nothing is computed
        peers={"ris": {"kind": "webhook", "url": f"http://127.0.0.1:{port}/isocenter"}},
        routes=[],
    )
    said: list[str] = []
    with (
        served(Starlette(routes=[Route("/isocenter", respond, methods=["POST"])]), port),
        stack(settings, say=said.append) as up,
    ):
        job_id = _failed_job(up.settings)
        give_up = time.monotonic() + 60
        while not told:
            assert up.supervisor.failure is None
            assert time.monotonic() < give_up, said
            time.sleep(0.05)
    assert told == [(True, job_id)]


def _failed_job(settings: Settings) -> str:
    """The ledger holds a job that has ended, and that the webhook is to be told of."""
    spec = JobSpec(
        algorithm=Algorithm("trivial", "1.0"),
        study_uid="1.2",
        series_uids=("1.2.3",),
        sop_instance_uids=("1.2.3.1",),
        route="CT",
        destinations=("ris",),
        created=datetime(2026, 11, 22, 10, 30),
    )
    prepare(settings)
    ledger = Ledger(settings.database)
    ledger.enter(spec)
    ledger.begin(spec.identity.job_id, "worker", "life")
    ledger.end(spec.identity.job_id, "done")
    return spec.identity.job_id
