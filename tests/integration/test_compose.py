"""What docker/compose.yaml describes, as processes on loopback: the containers' commands with their environments.

No container engine is needed, and none is tried: whether the images can be built is not shown here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from containers import WORKERS, Containers, running_containers

from isocenter_operators.testing import ThoraxPhantom, thorax_phantom, write_series

if TYPE_CHECKING:
    from postgres import Server

pytestmark = pytest.mark.integration
pytest_plugins = ["postgres"]


@pytest.fixture(scope="module")
def thorax() -> ThoraxPhantom:
    return thorax_phantom(size=(160, 160, 75), spacing_mm=(2.24, 2.24, 4.0))


@pytest.fixture(scope="module")
def containers(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: Server, free_ports: Callable[[], int]
) -> Iterator[Containers]:
    folder = tmp_path_factory.mktemp("containers")
    with running_containers(folder, postgres_server, free_ports) as running:
        yield running


def test_a_study_goes_the_whole_way(containers: Containers, thorax: ThoraxPhantom, tmp_path: Path) -> None:
    write_series(thorax, tmp_path / "study")
    sent = containers.isocenter("send", tmp_path / "study")
    (study_uid,) = sent["study_uids"]

    job = containers.job(study_uid)

    assert job["state"] == "done", job["reason"]
    truth = thorax.truth
    for group, lung in zip(job["groups"], (truth.right, truth.left, truth.both), strict=True):
        assert group["volume_mL"] == pytest.approx(lung.volume_mL, rel=0.01)
    assert {"SEG", "SR"} <= set(containers.modalities(study_uid))
    assert containers.isocenter("jobs", "show", job["id"])["state"] == "done"


def test_the_secrets_are_what_opens_the_archive_and_the_database(containers: Containers) -> None:
    assert httpx.get(f"{containers.archive_url}/system").status_code == 401
    assert httpx.get(f"{containers.archive_url}/system", auth=containers.auth()).status_code == 200
    running = [json.dumps(dict(_environment_of(each.pid))) for each in containers.processes.values()]
    for name in ("orthanc_password", "database_password", "database_url"):
        assert not any(containers.secret(name) in each for each in running)


def test_the_gateway_answers_to_its_own_names_only(containers: Containers) -> None:
    answers = {
        name: httpx.get(f"{containers.url}/livez", headers={"Host": name}).status_code
        for name in ("localhost", "gateway", "evil.example")
    }
    assert answers == {"localhost": 200, "gateway": 200, "evil.example": 400}


def test_an_autoscaler_is_told_how_much_there_is_to_do(containers: Containers) -> None:
    give_up = time.monotonic() + 60
    while (told := httpx.get(f"{containers.url}/api/queue").json())["wanted"] and time.monotonic() < give_up:
        time.sleep(0.2)
    assert told == {"waiting": 0, "running": 0, "wanted": 0}


def test_each_container_stops_in_time_and_a_worker_comes_back_under_its_name(containers: Containers) -> None:
    assert containers.stop(WORKERS[0]) == 0
    containers.start(WORKERS[0])
    containers.wait(WORKERS[0])
    names = (*WORKERS, "gateway", "orthanc")
    assert {name: containers.stop(name) for name in names} == dict.fromkeys(names, 0)


def _environment_of(pid: int) -> dict[str, str]:
    content = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    return dict(each.split("=", 1) for each in content.split("\0") if "=" in each)
