"""A package by whatever a person names it: a file, a folder, or an image that an engine on this machine has."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from isocenter.maps.engine import NAMES, engine_of
from isocenter.maps.package import Package, open_package
from isocenter_operators.errors import ConfigurationError, InputError

__all__ = ["has_image", "opened"]

# Each engine's way to say whether it has an image, and to write it into a file.
_COMMANDS = {
    "docker": (("image", "inspect"), ("save", "--output={file}", "{image}")),
    "podman": (("image", "inspect"), ("save", "--format=oci-archive", "--output={file}", "{image}")),
    "buildah": (("inspect", "--type=image"), ("push", "{image}", "oci-archive:{file}")),
}
_LOOK_S = 30.0


@contextmanager
def opened(source: str) -> Iterator[Package]:
    """The package that is meant.

    Raises ConfigurationError where there is none of this name, and InputError where it can not be read.
    """
    if Path(source).exists():
        yield open_package(Path(source))
        return
    engine = next((name for name in NAMES if has_image(name, source)), None)
    if engine is None:
        there = [name for name in NAMES if shutil.which(name)]
        asked = f", and {' and '.join(there)} has no image of this name" if there else ""
        raise ConfigurationError(f"{source}: there is no such file or folder{asked}", path=source)
    with TemporaryDirectory(prefix="isocenter-map-") as folder:
        yield open_package(_saved(engine, source, Path(folder) / "image.tar"))


def has_image(engine: str, image: str) -> bool:
    """Whether this engine is here, answers, and has an image of this name. It is not fetched from anywhere."""
    look, _ = _COMMANDS[engine]
    if shutil.which(engine) is None or image.startswith("-"):
        return False
    try:
        found = subprocess.run(
            [*engine_of(engine).words, *look, image], capture_output=True, timeout=_LOOK_S, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return found.returncode == 0


def _saved(engine: str, image: str, file: Path) -> Path:
    _, save = _COMMANDS[engine]
    words = [*engine_of(engine).words, *(word.format(file=file, image=image) for word in save)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise InputError(
            f"{image}: {engine} could not write it into a file: {said[-1] if said else 'no reason given'}"
        )
    return file
