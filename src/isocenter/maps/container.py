"""Confined by Docker or Podman, where one of them runs."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from isocenter.maps.engine import engine_of
from isocenter.maps.handover import hand_over
from isocenter.maps.limits import Limits
from isocenter.maps.oci import Image
from isocenter.maps.user import User

__all__ = ["Container", "available", "command_of", "end", "end_noted", "load", "memory_exceeded", "note"]

_TRY_S = 20.0
_LOAD_S = 1800.0
_LOOKS, _BETWEEN_LOOKS_S = 3, 0.5
_EVENTS_LATE_S = 0.5
_NAME = "localhost/isocenter-map"  # the tag is the image's ID
_NOTE = "container"


@dataclass(frozen=True)
class Container:
    """One run. `image` is what the engine calls it; `read`, `write`: the host's folders by where they are to be."""

    image: str
    name: str
    read: Mapping[str, Path]
    write: Mapping[str, Path]
    scratch: tuple[str, ...]
    scratch_size: int  # bytes
    working_directory: str
    environment: Mapping[str, str]
    user: User
    arguments: tuple[str, ...]
    network: bool
    gpus: bool


def available(engine: str) -> bool:
    """Whether the engine is installed, and answers."""
    return not engine_of(engine).why_not()


def load(engine: str, image: Image) -> str | None:
    """Give the engine the image, under a name of ours. Its ID there; None where the engine does not take it."""
    name = f"{_NAME}:{image.config_digest.removeprefix('sha256:')}"
    digests = (image.config_digest, image.digest)  # an engine makes its ID of one of them
    if (known := _id_of(engine, name)) in digests:
        return known
    with subprocess.Popen(
        [*engine_of(engine).words, "load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as loading:
        assert loading.stdin is not None
        hanging = threading.Timer(_LOAD_S, loading.kill)
        hanging.start()
        try:
            with suppress(BrokenPipeError), loading.stdin:
                hand_over(image, name, loading.stdin)
            loading.wait()
        finally:
            hanging.cancel()
    return found if (found := _id_of(engine, name)) in digests else None


def _id_of(engine: str, image: str) -> str | None:
    """None where it has no image of this name."""
    words = [*engine_of(engine).words, "image", "inspect", "--format", "{{.Id}}", image]
    told = subprocess.run(words, capture_output=True, text=True, timeout=_TRY_S, check=False)
    said = told.stdout.strip().removeprefix("sha256:")
    return f"sha256:{said}" if told.returncode == 0 and said and not image.startswith("-") else None


def command_of(engine: str, container: Container, limits: Limits) -> list[str]:
    """The command that runs it in the foreground, and removes it afterwards."""
    words = [
        *engine_of(engine).words,
        "run",
        "--rm",
        "--pull=never",
        "--name",
        container.name,
        "--read-only",
        "--cap-drop=ALL",
        "--log-driver=none",  # it is heard here, and has a log here; an engine's own has no end
    ]
    if engine == "podman":
        words.append("--http-proxy=false")  # else it is given those of whoever runs it, with their passwords
    words += [
        "--security-opt=no-new-privileges",
        f"--memory={limits.memory}",
        f"--memory-swap={limits.memory}",
    ]
    words += [
        f"--cpus={limits.cpu:g}",
        f"--shm-size={limits.shared_memory}",
        f"--pids-limit={limits.processes}",
    ]
    words.append("--network=bridge" if container.network else "--network=none")
    if container.gpus:
        words.append("--gpus=all" if engine == "docker" else "--device=nvidia.com/gpu=all")
    words += _as_user(engine, container.user)
    for target in container.scratch:
        words.append(f"--tmpfs={target}:rw,mode=1777,size={container.scratch_size}")
    # An anonymous volume begins with what the image has in the folder, and goes with the container.
    if container.working_directory != "/":
        words += ["--volume", container.working_directory]
    for target, source in container.read.items():
        words += _bound(engine, source, target, "readonly")
    for target, source in container.write.items():
        words += _bound(engine, source, target)
    for name, value in container.environment.items():
        words += ["--env", f"{name}={value}"]
    if container.arguments:
        words += [f"--entrypoint={container.arguments[0]}", container.image, *container.arguments[1:]]
    else:
        words.append(container.image)
    return words


def _as_user(engine: str, user: User) -> list[str]:
    """Whom it runs as. Where an ordinary user runs the engine, that is he: what it writes has to be his."""
    if os.geteuid() == 0:
        return [f"--user={user.uid}:{user.gid}"]
    here = f"--user={os.getuid()}:{os.getgid()}"
    if engine == "podman":
        return [here, "--userns=keep-id"]
    asked = [*engine_of(engine).words, "info", "--format", "{{.SecurityOptions}}"]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=_TRY_S, check=False)
    return ["--user=0:0"] if "name=rootless" in told.stdout else [here]  # root in there is he out here


def _bound(engine: str, source: Path, target: str, *more: str) -> list[str]:
    """A folder of this machine's. An engine on another one, or beside the container that this process is in, does not
    have it, and says so: asked with `--volume`, Docker would make an empty one there, and the images would be missing.
    """
    if engine != "docker":
        return ["--volume", f"{source}:{target}:{'ro' if more else 'rw'}"]
    fields = io.StringIO()
    csv.writer(fields, lineterminator="").writerow(
        ["type=bind", f"source={source}", f"target={target}", *more]
    )
    return ["--mount", fields.getvalue()]


def memory_exceeded(engine: str, name: str, since: float) -> bool:
    """Whether the kernel has ended a process of the container for its memory. since: when it was begun, Unix time.

    Docker alone tells of one that is gone, and also of a process that was not its first.
    """
    if engine != "docker":
        return False
    until = time.time() + _EVENTS_LATE_S
    words = [*engine_of(engine).words, "events", "--since", f"{since:.3f}", "--until", f"{until:.3f}"]
    words += ["--filter", f"container={name}", "--filter", "event=oom", "--format", "{{.Action}}"]
    try:
        told = subprocess.run(words, capture_output=True, text=True, timeout=_TRY_S, check=False)
    except subprocess.TimeoutExpired:
        return False
    return "oom" in told.stdout.split()


def end(engine: str, name: str) -> None:
    """End and remove a container whose run was broken off. Nothing happens where there is none, or no engine answers.

    The engine may just be making it, and goes on with that when nobody waits any more: so it is looked for again.
    """
    for _ in range(_LOOKS):
        try:
            killed, removed = (
                subprocess.run(
                    [*engine_of(engine).words, *words],
                    capture_output=True,
                    text=True,
                    timeout=_TRY_S,
                    check=False,
                )
                for words in (["kill", name], ["rm", "--force", "--volumes", name])
            )
        except (subprocess.TimeoutExpired, OSError):
            return
        if killed.returncode == 0 or name in removed.stdout:
            return
        time.sleep(_BETWEEN_LOOKS_S)


def note(work: Path, engine: str, name: str) -> None:
    """Leave word of a container beside what is written of its run: whoever started it may be killed, and it goes on."""
    (work / _NOTE).write_text(f"{engine} {name}")


def end_noted(work: Path) -> None:
    """End the container that was left word of, where it still runs."""
    with suppress(OSError, ValueError):
        engine, name = (work / _NOTE).read_text().split()
        end(engine, name)
