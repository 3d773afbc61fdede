"""Confined by Docker or Podman, where one of them runs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from isocenter.maps.blobs import store_at
from isocenter.maps.engine import engine_of
from isocenter.maps.limits import Limits
from isocenter.maps.oci import REF_NAME
from isocenter.maps.user import User

__all__ = ["Container", "available", "command_of", "end", "load"]

_TRY_S = 20.0
_LOAD_S = 1800.0
_CONTAINERD_NAME = "io.containerd.image.name"


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


def load(engine: str, archive: Path, digests: Collection[str]) -> str | None:
    """Give the engine the image in a file. Its ID there; None where it does not take such a file.

    digests: of the image, of which the engine makes its ID. A file may hold another image, which an engine finds in it
    and others do not, and names that belong to images that are there: the first is not returned, and nothing is loaded
    for the second.
    """
    try:
        names = set(_names_in(archive))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if any(_id_of(engine, name) not in (None, *digests) for name in names):
        return None
    words = [*engine_of(engine).words, "load", "--input", str(archive)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=_LOAD_S, check=False)
    for line in reversed(done.stdout.splitlines()):
        said, _, name = line.partition(": ")
        if done.returncode == 0 and said.startswith("Loaded image"):
            found = _id_of(engine, name.strip())
            return found if found in digests else None
    return None


def _names_in(archive: Path) -> Iterator[str]:
    """What engines would call the images in it."""
    store = store_at(archive)
    if store.has("manifest.json"):
        with store.open("manifest.json") as content:
            for each in json.load(content):
                yield from each.get("RepoTags") or ()
    if store.has("index.json"):
        with store.open("index.json") as content:
            for each in json.load(content)["manifests"]:
                said = each.get("annotations") or {}
                yield from (said[name] for name in (_CONTAINERD_NAME, REF_NAME) if name in said)


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
        "--name",
        container.name,
        "--read-only",
        "--cap-drop=ALL",
    ]
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
    if os.geteuid() != 0:
        words.append(f"--user={os.getuid()}:{os.getgid()}")
        if engine == "podman":
            words.append("--userns=keep-id")
    else:
        words.append(f"--user={container.user.uid}:{container.user.gid}")
    for target in container.scratch:
        words.append(f"--tmpfs={target}:rw,mode=1777,size={container.scratch_size}")
    # An anonymous volume begins with what the image has in the folder, and goes with the container.
    if container.working_directory != "/":
        words += ["--volume", container.working_directory]
    for target, source in container.read.items():
        words += ["--volume", f"{source}:{target}:ro"]
    for target, source in container.write.items():
        words += ["--volume", f"{source}:{target}:rw"]
    for name, value in container.environment.items():
        words += ["--env", f"{name}={value}"]
    if container.arguments:
        words += [f"--entrypoint={container.arguments[0]}", container.image, *container.arguments[1:]]
    else:
        words.append(container.image)
    return words


def end(engine: str, name: str) -> None:
    """End a container that may still run. Nothing happens where it does not."""
    for words in (["kill", name], ["rm", "--force", name]):
        subprocess.run([*engine_of(engine).words, *words], capture_output=True, timeout=_TRY_S, check=False)
