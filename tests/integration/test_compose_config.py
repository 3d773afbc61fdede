"""docker/compose.yaml as Docker Compose itself reads it: this machine's, or the one of scripts/fetch_compose.sh.

The schema, which the unit tests check, lets pass what Compose refuses.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from composed import COMPOSE, PROFILES, ROOT, services

_FETCHED = ROOT / ".cache" / "compose" / "cli-plugins" / "docker-compose"
_TAKES_THE_FILE = (2, 20)  # Debian 12's 1.29 does not know `name`


pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def program() -> list[str]:
    """How Compose is called here."""
    for words in (["docker", "compose"], ["docker-compose"], [str(_FETCHED)]):
        if shutil.which(words[0]) is None:
            continue
        told = subprocess.run([*words, "version", "--short"], capture_output=True, text=True, check=False)
        numbers = told.stdout.strip().removeprefix("v").split("-")[0].split(".")
        if told.returncode == 0 and tuple(int(each) for each in numbers[:2]) >= _TAKES_THE_FILE:
            return words
    pytest.skip(f"no Docker Compose 2 is installed, nor is {_FETCHED} there: scripts/fetch_compose.sh")


def _config(program: list[str], *words: str | Path) -> subprocess.CompletedProcess[str]:
    # What stands in the file in place of ${NAME:-default} is its own default here.
    own = ("WORKERS", "ISOCENTER_", "COMPOSE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return subprocess.run([*program, *map(str, words)], env=kept, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("profile", PROFILES)
def test_compose_takes_the_file(program: list[str], profile: str) -> None:
    done = _config(program, "--file", COMPOSE, "--profile", profile, "config", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    read: dict[str, Any] = json.loads(done.stdout)

    assert read["services"].keys() == services(profile).keys()
    for name, service in read["services"].items():
        limits = service["deploy"]["resources"]["limits"]
        assert {"cpus", "memory", "pids"} <= limits.keys(), name
        replicas = service["deploy"].get("replicas", 1)
        assert replicas == (3 if name.startswith("workers") else 1)
    published = {
        (port["host_ip"], port["published"])
        for service in read["services"].values()
        for port in service.get("ports", ())
    }
    assert published == {("127.0.0.1", "8080"), ("0.0.0.0", "4242")}


@pytest.mark.parametrize("profile", PROFILES)
def test_compose_takes_the_file_for_packages_with_it(program: list[str], profile: str) -> None:
    files = ["--file", COMPOSE, "--file", COMPOSE.with_name("packages.yaml")]
    done = _config(program, *files, "--profile", profile, "config", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    confined = {name: each["security_opt"] for name, each in json.loads(done.stdout)["services"].items()}
    assert [name for name, options in confined.items() if "systempaths=unconfined" in options] == [
        name for name in confined if name.startswith("worker")
    ]
    assert all(options.count("no-new-privileges:true") == 1 for options in confined.values())


def test_compose_refuses_one_limit_in_two_places(program: list[str], tmp_path: Path) -> None:
    """As this file had it, which its schema allows."""
    (tmp_path / "more.yaml").write_text("services: {gateway: {pids_limit: 7}}\n")
    done = _config(
        program, "--file", COMPOSE, "--file", tmp_path / "more.yaml", "--profile", "cpu", "config", "--quiet"
    )
    assert done.returncode != 0
    assert "pids_limit" in done.stderr
