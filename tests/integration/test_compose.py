"""What docker/compose.yaml describes, as processes on loopback: the containers' commands with their environments.

No container engine is needed, and none is tried here: test_images.py does that where the images are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from composed import ROOT
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
def containers(tmp_path_factory: pytest.TempPathFactory, postgres_server: Server) -> Iterator[Containers]:
    folder = tmp_path_factory.mktemp("containers")
    with running_containers(folder, postgres_server) as running:
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


def test_what_is_backed_up_while_it_runs_is_there_again_after_all_was_lost(
    containers: Containers, thorax: ThoraxPhantom, tmp_path: Path
) -> None:
    write_series(thorax, tmp_path / "study", uid_seed="kept")
    (study_uid,) = containers.isocenter("send", tmp_path / "study")["study_uids"]
    job = containers.job(study_uid)
    kept = containers.modalities(study_uid)
    assert {"SEG", "SR"} <= set(kept)
    engine = engine_of(containers, tmp_path)
    script = scripts(containers, tmp_path)

    # Orthanc's process stops before it is asked for its files: `compose stop` and `start` are the test's to do.
    containers.stop("orthanc")
    done = subprocess.run(
        [script / "backup.sh", tmp_path / "backup"], env=engine, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    order = [
        line for line in (tmp_path / "calls").read_text().splitlines() if "compose" in line or "run" in line
    ]
    assert [
        next(i for i, line in enumerate(order) if what in line)
        for what in ("pg_dump", "stop orthanc", "isocenter_storage", "start orthanc")
    ] == [0, 1, 2, 3]
    again = subprocess.run(
        [script / "backup.sh", tmp_path / "backup"], env=engine, capture_output=True, check=False
    )
    assert again.returncode != 0  # never over another one

    # All is lost.
    for name in list(containers.processes):
        if name != "triton":
            containers.stop(name)
    refused = subprocess.run(
        [script / "restore.sh", tmp_path / "backup"], env=engine, capture_output=True, text=True, check=False
    )
    assert (refused.returncode, "is there already: nothing was restored" in refused.stderr) == (1, True)
    for folder in (containers.storage, containers.data):
        shutil.rmtree(folder)
    shutil.rmtree(script / "secrets")
    containers.forget_database()

    done = subprocess.run(
        [script / "restore.sh", tmp_path / "backup"], env=engine, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (script / "secrets" / "database_url").read_text().strip() == containers.secret("database_url")
    for name in ("orthanc", *WORKERS, "gateway"):
        containers.start(name)
    for name in ("orthanc", *WORKERS, "gateway"):
        containers.wait(name)
    assert containers.isocenter("jobs", "show", job["id"])["results"] == job["results"]
    assert containers.modalities(study_uid) == kept
    # And it goes on.
    write_series(thorax, tmp_path / "next", uid_seed="after")
    (study_uid,) = containers.isocenter("send", tmp_path / "next")["study_uids"]
    assert containers.job(study_uid)["state"] == "done"


def engine_of(containers: Containers, folder: Path) -> dict[str, str]:
    """An environment with a `docker` that does what the scripts ask, on this machine."""
    settings = {
        "volumes": {
            "isocenter_storage": str(containers.storage),
            "isocenter_data": str(containers.data),
            "isocenter_models": str(containers.data / "models"),
        },
        "database": {"isocenter": containers.database},
        "port": containers.postgres.port,
        "programs": str(containers.postgres.programs),
        "calls": str(folder / "calls"),
    }
    (folder / "engine.json").write_text(json.dumps(settings))
    program = folder / "bin" / "docker"
    program.parent.mkdir()
    engine = Path(__file__).parents[1] / "docker_engine.py"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{engine}" "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "DOCKER_ENGINE": str(folder / "engine.json")}


def scripts(containers: Containers, folder: Path) -> Path:
    """docker/ as a site has it, with its secrets in it."""
    there = folder / "docker"
    shutil.copytree(ROOT / "docker", there, ignore=shutil.ignore_patterns("secrets"))
    shutil.copytree(containers.folder / "secrets", there / "secrets")
    return there


def test_each_container_stops_in_time_and_a_worker_comes_back_under_its_name(containers: Containers) -> None:
    assert containers.stop(WORKERS[0]) == 0
    containers.start(WORKERS[0])
    containers.wait(WORKERS[0])
    names = (*WORKERS, "gateway", "orthanc")
    assert {name: containers.stop(name) for name in names} == dict.fromkeys(names, 0)


def _environment_of(pid: int) -> dict[str, str]:
    content = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    return dict(each.split("=", 1) for each in content.split("\0") if "=" in each)
