"""Routes whose models are not there: told from the folders of the embedded Triton, and by another one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from starlette.applications import Starlette
from tritonclient.grpc import service_pb2, service_pb2_grpc

from isocenter.gateway.app import create_app
from isocenter.route import Route
from isocenter.route_models import RouteModels, missing_models
from isocenter.settings import OrthancSettings, Settings, TritonSettings
from isocenter.stack.up import stack
from isocenter_operators.errors import ConfigurationError, IsocenterError

LIVER = "application: {title: L, version: '2'}\nisocenter: {models: {liver_net: 3}}"


class Index(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Of a server that has version 3 of liver_net, which could not be loaded, and version 2."""

    def RepositoryIndex(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        entry = service_pb2.RepositoryIndexResponse.ModelIndex
        return service_pb2.RepositoryIndexResponse(
            models=[
                entry(name="liver_net", version="2", state="READY"),
                entry(name="liver_net", version="3", state="UNAVAILABLE", reason="no memory"),
                entry(name="other", version="", state="", reason=""),
            ]
        )


@pytest.fixture
def triton() -> Iterator[str]:
    with ThreadPoolExecutor(1) as threads:
        server = grpc.server(threads)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Index(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


def write(folder: Path, name: str, content: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)


def site(folder: Path, *applications: str, **settings: Any) -> Settings:
    write(folder / "apps" / "liver", "app.yaml", LIVER)
    for model, version in (("liver_net", "1"), ("liver_net", "2"), ("self_test", "1")):
        write(folder / "models" / model, "config.pbtxt", "")
        write(folder / "models" / model / version, "model.py", "")
    routes = tuple(Route(name=f"all of {each}", application=each) for each in applications)
    return Settings(
        data_dir=folder / "data",
        apps_dir=folder / "apps",
        routes=routes,
        **({"triton": TritonSettings(model_repository=folder / "models")} | settings),
    )


def test_the_embedded_servers_folders_tell_which_route_lacks_which_model(tmp_path: Path) -> None:
    settings = site(tmp_path, "liver")
    (told,) = missing_models(settings)
    assert told == (
        "route 'all of liver': its application liver asks for version 3 of the model 'liver_net'; "
        f"in {tmp_path / 'models'} there is of its versions only 1, 2: its jobs can not run"
    )
    write(tmp_path / "models" / "liver_net" / "3", "model.py", "")
    assert missing_models(settings) == []
    write(tmp_path / "apps" / "liver", "app.yaml", LIVER.replace("liver_net", "liver_ner"))
    (told,) = missing_models(settings)
    assert "there is no such model, only liver_net, self_test" in told
    assert missing_models(settings.model_copy(update={"routes": ()})) == []


def test_an_application_that_went_away_is_told_with_its_route(tmp_path: Path) -> None:
    (told,) = missing_models(site(tmp_path, "lung"))
    assert told.startswith("route 'all of lung': there is no application 'lung' in ")
    assert told.endswith("(installed: liver)")
    package = "map://lung@sha256:" + "0" * 64
    (told,) = missing_models(site(tmp_path, package))
    assert told.startswith(f"route 'all of {package}': ")


def test_a_model_that_the_start_is_refused_for_is_told_once(tmp_path: Path) -> None:
    elsewhere = OrthancSettings(url="http://127.0.0.1:9")
    settings = site(tmp_path, "liver", orthanc=elsewhere)
    write(tmp_path / "apps" / "liver", "app.yaml", LIVER.replace("liver_net", "gone"))
    said: list[str] = []
    refused = pytest.raises(ConfigurationError, match="has no model 'gone', only liver_net, self_test")
    with refused, stack(settings, move_ports=True, say=said.append):
        pass
    assert said == []


def test_a_server_elsewhere_is_asked_what_it_serves(tmp_path: Path, triton: str) -> None:
    settings = site(tmp_path, "liver", triton=TritonSettings(url=triton))
    (told,) = missing_models(settings)
    assert f"on Triton at {triton} there is of its versions only 2: its jobs can not run" in told
    write(tmp_path / "apps" / "liver", "app.yaml", LIVER.replace("3", "2"))
    assert missing_models(settings) == []


def test_a_server_that_is_away_is_no_missing_model_and_is_not_asked_each_time(
    tmp_path: Path, triton: str
) -> None:
    settings = site(tmp_path, "liver", triton=TritonSettings(url="127.0.0.1:1"))
    with pytest.raises(IsocenterError, match="does not answer"):
        missing_models(settings)
    now = [0.0]
    models = RouteModels(settings, clock=lambda: now[0])
    assert models.told() == []
    models._settings = settings.model_copy(update={"triton": TritonSettings(url=triton)})
    assert models.told() == []
    now[0] = 31.0
    assert len(models.told()) == 1


class _Idle:
    """A router and a queue with nothing in them."""

    def newest(self, _limit: int = 100) -> list[Any]:
        return []

    def list(self, _limit: int = 100, _state: Any = None) -> list[Any]:
        return []

    def study(self, _study_uid: str) -> list[Any]:
        return []

    def known(self, _study_uid: str) -> list[Any]:
        return []

    def status(self) -> dict[str, Any]:
        return {"away": ""}


async def _got(app: Starlette, *paths: str) -> list[httpx.Response]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return [await client.get(path) for path in paths]


def test_the_status_page_and_the_start_tell_it_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = site(tmp_path, "liver")
    idle: Any = _Idle()
    page, health = asyncio.run(_got(create_app(settings, router=idle, jobs=idle), "/status", "/healthz"))
    assert "asks for version 3 of the model" in page.text
    assert "asks for version 3 of the model" in health.json()["warnings"][0]
    said: list[str] = []
    monkeypatch.setattr("isocenter.stack.up.Supervisor", lambda *_, **__: nullcontext())  # nothing starts
    elsewhere = settings.model_copy(update={"orthanc": OrthancSettings(url="http://127.0.0.1:9")})
    with stack(elsewhere, move_ports=True, say=said.append):
        pass
    assert "asks for version 3 of the model" in said[0]
    assert said[1].startswith("starting triton")
