"""What a site has of its own where the internet is not reached: a registry of images, and an index of Python packages.

Both are in the network of a test's Docker, which takes the registry for Docker Hub's mirror.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from engines import COMPOSE, MIRROR, command, end

__all__ = ["BRIDGE", "publish", "running_index", "running_registry"]

# Docker's own bridge, at which containers and builds find the index.
BRIDGE = "172.17.0.1"

_STARTS_WITHIN_S = 30.0
_CONFIGURATION = """\
version: 0.1
storage:
  filesystem:
    rootdirectory: {folder}
http:
  addr: {address}
"""


@contextmanager
def running_registry(inside: list[str], folder: Path) -> Iterator[None]:
    """One that is empty; `inside` enters the network of the Docker that is to find it."""
    program = COMPOSE / "bin" / "docker-registry"
    if not program.exists():
        pytest.skip(f"there is no {program}: scripts/fetch_compose.sh")
    configuration, log = folder / "config.yml", folder / "log"
    configuration.write_text(_CONFIGURATION.format(folder=folder / "images", address=MIRROR))
    with log.open("wb") as written:
        words = [*inside, str(program), "serve", str(configuration)]
        process = subprocess.Popen(words, stdout=written, stderr=subprocess.STDOUT)
    try:
        give_up = time.monotonic() + _STARTS_WITHIN_S
        while b"listening on" not in log.read_bytes():
            assert process.poll() is None, log.read_text(errors="replace")
            assert time.monotonic() < give_up, log.read_text(errors="replace")
            time.sleep(0.1)
        yield
    finally:
        end(process)


def publish(image: str) -> str:
    """Put an image of Docker Hub's library there, under its own name, and give its digest."""
    there = f"{MIRROR}/library/{image}"
    assert command("docker", "tag", image, there).returncode == 0, image
    pushed = command("docker", "push", there)
    command("docker", "rmi", there)
    found = re.search(r"digest: (sha256:[0-9a-f]{64})", pushed.stdout)
    assert found, pushed.stdout + pushed.stderr
    return found[1]


@contextmanager
def running_index(folder: Path, inside: list[str], log: Path) -> Iterator[str]:
    """Serves `folder`, which has a folder of wheels for each package; yields the address for pip. `log`: who asked."""
    words = [*inside, sys.executable, "-u", "-m", "http.server", "--bind", BRIDGE, "8000"]
    with log.open("wb") as written:
        process = subprocess.Popen(words, cwd=folder, stdout=written, stderr=subprocess.STDOUT)
    try:
        yield f"http://{BRIDGE}:8000"
    finally:
        end(process)
