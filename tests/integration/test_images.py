"""The images of docker/Dockerfile, where Docker on this machine has them: the gateway's and the worker's containers,
started as compose.yaml says, beside the processes of the others. They are on the host's network and IPC, as these are.

    docker build -f docker/Dockerfile --target gateway -t isocenter/gateway:0.1.0 .     and worker
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from composed import ROOT, Here, services
from containers import Containers, prepared

from isocenter.maps.reference import has_image
from isocenter.stack.triton_process import remove_leftovers
from isocenter_operators.testing import thorax_phantom, write_series

if TYPE_CHECKING:
    from postgres import Server

_NAMES = ("gateway", "worker")
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not all(has_image("docker", f"isocenter/{name}:0.1.0") for name in _NAMES),
        reason="Docker has no isocenter/gateway:0.1.0 and isocenter/worker:0.1.0 here",
    ),
]
pytest_plugins = ["postgres"]


def docker(*words: str | Path) -> str:
    done = subprocess.run(["docker", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def _start(name: str, service: dict[str, Any], containers: Containers, prefix: str) -> None:
    limits = service["deploy"]["resources"]["limits"]
    words = ["run", "--detach", "--name", f"{prefix}-{name}", "--network=host", "--ipc=host", "--init"]
    words += [
        "--read-only",
        "--cap-drop=ALL",
        *(f"--security-opt={each}" for each in service["security_opt"]),
    ]
    words += [
        f"--pids-limit={limits['pids']}",
        f"--cpus={limits['cpus']}",
        f"--memory={limits['memory']}",
    ]
    words += [f"--tmpfs={each}" for each in service["tmpfs"]]
    for each in service["volumes"]:
        words.append(f"--volume={prefix}-{each}")
    for secret in service["secrets"]:
        words.append(f"--volume={containers.folder / 'secrets' / secret}:/run/secrets/{secret}:ro")
    words.append(f"--volume={ROOT / 'docker' / 'isocenter.yaml'}:/etc/isocenter/isocenter.yaml:ro")
    for kind, values in service.get("ulimits", {}).items():
        words.append(f"--ulimit={kind}={values['soft']}:{values['hard']}")
    ports = containers.ports
    here = Here(
        {
            "http://orthanc:8042": containers.archive_url,
            "triton:8001": f"127.0.0.1:{ports['grpc']}",
        }
    )
    environment = {key: here.text(value) for key, value in service["environment"].items()}
    if name == "gateway":
        # Every address of a container, no other of this machine.
        environment |= {
            "ISOCENTER_GATEWAY__PORT": str(ports["gateway"]),
            "ISOCENTER_GATEWAY__HOST": "127.0.0.1",
        }
    for key, value in environment.items():
        words.append(f"--env={key}={value}")
    command = [
        word.replace("$$", "$") for word in (*service.get("entrypoint", ())[1:], *service.get("command", ()))
    ]
    entrypoint = [f"--entrypoint={service['entrypoint'][0]}"] if "entrypoint" in service else []
    docker(*words, *entrypoint, service["image"], *command)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: Server
) -> Iterator[tuple[Containers, str]]:
    """The processes of Orthanc and Triton, and the two containers; what the containers' names begin with."""
    folder = tmp_path_factory.mktemp("containers")
    containers = prepared(folder, postgres_server)
    prefix = f"isocenter-test-{containers.ports['gateway']}"
    with ExitStack() as ending:
        ending.callback(remove_leftovers)
        ending.callback(containers.stop_all)
        for name in ("orthanc", "triton"):
            containers.start(name)
        for name in ("orthanc", "triton"):
            containers.wait(name)
        for name in _NAMES:
            ending.callback(
                subprocess.run,
                ["docker", "rm", "--force", f"{prefix}-{name}"],
                capture_output=True,
                check=False,
            )
        ending.callback(lambda: sys.stderr.write(_logs(prefix)))
        for name in _NAMES:
            _start(name, services("cpu")[name], containers, prefix)
        yield containers, prefix
    for volume in ("data", "models"):
        subprocess.run(["docker", "volume", "rm", f"{prefix}-{volume}"], capture_output=True, check=False)


def _logs(prefix: str) -> str:
    told = [
        subprocess.run(["docker", "logs", f"{prefix}-{name}"], capture_output=True, text=True, check=False)
        for name in _NAMES
    ]
    return "\n".join(f"{each.stdout[-3000:]}{each.stderr[-3000:]}" for each in told)


def test_a_study_goes_the_whole_way(running: tuple[Containers, str], tmp_path: Path) -> None:
    containers, prefix = running
    for name in _NAMES:
        check = services("cpu")[name]["healthcheck"]["test"]
        words = ["/bin/sh", "-c", check[1].replace("$$", "$")] if check[0] == "CMD-SHELL" else check[1:]
        _await(lambda words=words, name=name: _succeeds(f"{prefix}-{name}", words))  # type: ignore[misc]
    write_series(thorax_phantom(size=(160, 160, 75), spacing_mm=(2.24, 2.24, 4.0)), tmp_path / "study")
    for file in sorted((tmp_path / "study").iterdir()):
        httpx.post(
            f"{containers.archive_url}/instances",
            content=file.read_bytes(),
            auth=containers.auth(),
            timeout=30,
        ).raise_for_status()
    found: list[dict[str, Any]] = []

    def over() -> bool:
        found[:] = [each for each in httpx.get(f"{containers.url}/api/jobs").json()["jobs"] if each["ended"]]
        return bool(found)

    _await(over)
    assert found[0]["state"] == "done", found[0]["reason"]
    assert {"SEG", "SR"} <= set(containers.modalities(found[0]["study_uid"]))


def test_the_containers_may_do_little(running: tuple[Containers, str]) -> None:
    _, prefix = running
    for name in _NAMES:
        container = f"{prefix}-{name}"
        assert docker("exec", container, "id", "-u") == "10001"
        assert not _succeeds(container, ["touch", "/opt/isocenter/new"])
        assert _succeeds(
            container, ["touch", "/var/lib/isocenter/new", "/var/lib/isocenter/models/new", "/tmp/new"]
        )
        rights = docker("exec", container, "grep", "Cap", "/proc/1/status").split()[1::2]
        assert set(rights) == {"0" * 16}


def _succeeds(container: str, words: list[str]) -> bool:
    done = subprocess.run(["docker", "exec", container, *words], capture_output=True, check=False)
    return done.returncode == 0


def _await(condition: Callable[[], bool], within_s: float = 240.0) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.5)
