"""What Docker and Podman are told of a package, and what is done where they do not answer or are killed."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from isocenter.maps import container
from isocenter.maps.container import Container
from isocenter.maps.execution import Command, execute
from isocenter.maps.limits import Limits
from isocenter.maps.user import User

LIMITS = Limits(memory=64 << 20, cpu=1, shared_memory=1 << 20, time_s=30)


def _container(source: Path) -> Container:
    return Container(
        image="sha256:0",
        name="isocenter-map-0",
        read={"/in": source},
        write={"/out": source},
        scratch=("/tmp",),
        scratch_size=1 << 20,
        working_directory="/work",
        environment={},
        user=User(1000, 1000),
        arguments=(),
        network=False,
        gpus=False,
    )


def _engine(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bin").mkdir()
    program = folder / "bin" / "docker"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


def test_docker_makes_no_empty_folder_where_it_has_not_the_images() -> None:
    """With `--volume` it would, on another machine or outside of the container that a worker is in."""
    words = container.command_of("docker", _container(Path("/data/Smith, John")), LIMITS)
    assert 'type=bind,"source=/data/Smith, John",target=/in,readonly' in words
    assert 'type=bind,"source=/data/Smith, John",target=/out' in words
    assert [word for word, before in zip(words[1:], words, strict=False) if before == "--volume"] == ["/work"]


@pytest.mark.parametrize(
    ("options", "user"),
    [("[name=seccomp,profile=default]", "--user=1234:1234"), ("[name=rootless]", "--user=0:0")],
)
def test_whoever_runs_docker_owns_what_it_writes(
    options: str, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a Docker that an ordinary user runs, root is that user, and every other number is nobody's."""
    _engine(tmp_path, f"echo '{options}'", monkeypatch)
    for asked in ("geteuid", "getuid", "getgid"):
        monkeypatch.setattr(os, asked, lambda: 1234)
    assert user in container.command_of("docker", _container(tmp_path), LIMITS)


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_nothing_is_fetched_to_be_run(engine: str) -> None:
    assert "--pull=never" in container.command_of(engine, _container(Path("/data")), LIMITS)


def test_an_engine_that_hangs_does_not_keep_a_job_from_being_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what its command is asked then, nothing comes; what ended the run is what is told."""
    monkeypatch.setattr(container, "_TRY_S", 0.2)
    _engine(tmp_path, "exec sleep 60", monkeypatch)

    class Enough(Exception):
        pass

    def checkpoint() -> None:
        raise Enough

    asked = Command(
        ["docker", "run"],
        tmp_path / "log",
        engine_limits=True,
        checkpoint=checkpoint,
        end=lambda: container.end("docker", "name"),
    )
    began = time.monotonic()
    with pytest.raises(Enough):
        execute(asked, LIMITS)
    assert time.monotonic() - began < 10
    assert not container.memory_exceeded("docker", "name", time.time())


def test_where_an_engines_command_is_killed_its_container_is_ended_and_memory_is_not_blamed(
    tmp_path: Path,
) -> None:
    ended: list[str] = []
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    asked = Command(
        [sys.executable, "-c", program],
        tmp_path / "log",
        engine_limits=True,
        end=lambda: ended.append("name"),
    )
    done = execute(asked, LIMITS)
    assert (done.ending, done.exit_code) == ("ended", 137)
    assert ended == ["name"]


def test_a_container_that_a_dead_worker_left_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _engine(tmp_path, f'echo "$@" >> {tmp_path}/asked', monkeypatch)
    container.end_noted(tmp_path)
    assert not (tmp_path / "asked").exists()
    container.note(tmp_path, "docker", "isocenter-map-0")
    container.end_noted(tmp_path)
    assert (tmp_path / "asked").read_text().splitlines() == [
        "kill isocenter-map-0",
        "rm --force --volumes isocenter-map-0",
    ]
