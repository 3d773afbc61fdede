"""The container engines: which is there, and how each builds a folder with a Dockerfile into an image archive."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from isocenter.maps.image_writer import Draft, taken_layer, write_image
from isocenter.maps.oci import open_image
from isocenter_operators.errors import ConfigurationError, Unavailable

__all__ = ["NAMES", "Engine", "Order", "engine_named", "engine_of"]

NAMES = ("docker", "podman", "buildah")
_ASK_AT_MOST_S = 20
_LINES_TOLD = 3


@dataclass(frozen=True)
class Order:
    """What is to be built: the folder of `dockerfile`, on a base in a file or of this name; saved to `out`, a tar."""

    dockerfile: Path
    base: str | Path
    tag: str
    out: Path
    offline: bool = False


@dataclass(frozen=True)
class Engine:
    """One engine. options: that each command of it gets, as where it keeps its images."""

    name: str
    options: tuple[str, ...] = ()

    @property
    def words(self) -> list[str]:
        """What each command of it begins with."""
        return [self.name, *self.options]

    def why_not(self) -> str:
        """Why it can not be used here; "" where it can."""
        if shutil.which(self.name) is None:
            return f"{self.name} is not installed"
        try:
            asked = subprocess.run(
                [*self.words, "info"],
                capture_output=True,
                text=True,
                timeout=_ASK_AT_MOST_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"{self.name} info does not answer"
        if asked.returncode == 0 and "Cannot connect" not in asked.stdout + asked.stderr:
            return ""
        return f"{self.name} does not work here: {_last(asked.stderr or asked.stdout)}"

    def build(self, order: Order, work: Path, tell: Callable[[str], None]) -> None:
        """Build it. work: a folder for what is made on the way.

        Raises Unavailable with what the engine said where it fails.
        """
        base = order.base
        reference = self._loaded(base, work, tell) if isinstance(base, Path) else base
        pull = [_NEVER[self.name]] if order.offline or isinstance(base, Path) else []
        named = ["--build-arg", f"BASE={reference}", "-t", order.tag, "-f", str(order.dockerfile)]
        self._run([*_BUILD[self.name], *pull, *named, str(order.dockerfile.parent)], tell)
        self._run(self._save(order.tag, order.out), tell)

    def _loaded(self, base: Path, work: Path, tell: Callable[[str], None]) -> str:
        """A base that lies in a file, as an image of the engine's."""
        name = f"localhost/isocenter-base:{open_image(base).digest.removeprefix('sha256:')[:12]}"
        image = open_image(base)
        archive = work / "base.tar"
        write_image(Draft(image.config, [taken_layer(each) for each in image.layers], name), archive)
        if self.name == "buildah":
            self._run(["pull", "--quiet", f"docker-archive:{archive}"], tell)
        else:
            self._run(["load", "-i", str(archive)], tell)
        archive.unlink()
        return name

    def _save(self, tag: str, file: Path) -> list[str]:
        if self.name == "buildah":
            return ["push", "--quiet", tag, f"docker-archive:{file}:{tag}"]  # which is not compressed
        return ["save", "-o", str(file), tag]

    def _run(self, arguments: Sequence[str], tell: Callable[[str], None]) -> None:
        command = [*self.words, *arguments]
        said: list[str] = []
        with subprocess.Popen(
            command,
            env={**_DEFAULTS, **os.environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            for line in process.stdout or ():
                said.append(line.rstrip())
                tell(f"{self.name}: {line.rstrip()}")
        if process.returncode != 0:
            raise Unavailable(
                f"{self.name} {arguments[0]} failed: {' / '.join(said[-_LINES_TOLD:])}; --engine none builds without it"
            )


# Chroot: Buildah's other ways need a runtime, and rights that a container that builds seldom has.
_DEFAULTS = {"SOURCE_DATE_EPOCH": "0", "BUILDAH_ISOLATION": "chroot"}
# Docker writes timestamps of its own; the others take one moment for all.
_BUILD = {
    "docker": ["build"],
    "podman": ["build", "--timestamp", "0", "--format", "oci"],
    "buildah": ["bud", "--timestamp", "0", "--format", "oci", "--layers=false"],
}
_NEVER = {"docker": "--pull=false", "podman": "--pull=never", "buildah": "--pull-never"}


def engine_named(name: str) -> Engine | None:
    """The engine that is asked for; of `auto` the first that works, None where none does, or none is wanted.

    Raises ConfigurationError where the one that is asked for can not be used here.
    """
    if name == "none":
        return None
    for each in NAMES if name == "auto" else (name,):
        engine = engine_of(each)
        why_not = engine.why_not()
        if not why_not:
            return engine
        if name != "auto":
            raise ConfigurationError(f"--engine: {why_not}; --engine none builds without one")
    return None


def engine_of(name: str) -> Engine:
    """The engine, with options of the environment, as ISOCENTER_BUILDAH="--root /somewhere --storage-driver vfs"."""
    return Engine(name, tuple(os.environ.get(f"ISOCENTER_{name.upper()}", "").split()))


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"
