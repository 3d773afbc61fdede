"""The weights of a model, told from others by a hash of the files that the inference server loads."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from isocenter_operators.errors import ConfigurationError
from isocenter_operators.manifest import AppManifest

__all__ = ["digest_of", "weights_of"]

_CHUNK = 1 << 20
_State = tuple[tuple[str, int, int, int, int, int], ...]


def weights_of(app: AppManifest, repositories: Sequence[Path]) -> dict[str, str]:
    """The SHA-256 of each of the application's models in Triton model repositories; what none holds is left out.

    A folder is read once for as long as its files stay what they are: one that was removed, and imported again under
    its name, is another.

    Raises ConfigurationError where the application states other weights, or a file can not be read or is just written.
    """
    weights = dict(app.weights)
    for model, version in app.models.items():
        folders = (repository.resolve() / model / version for repository in repositories)
        folder = next((each for each in folders if each.is_dir()), None)
        if folder is None:
            continue
        found = _digest(folder)
        if weights.get(model, found) != found:
            raise ConfigurationError(
                f"{app.folder / 'app.yaml'}: isocenter.models.{model}: states weights {weights[model][:12]}..., but "
                f"{folder} holds {found[:12]}...; install the weights it was made for, or state the new ones under a "
                "new version of the application",
                path=str(folder),
            )
        weights[model] = found
    return weights


def _digest(folder: Path) -> str:
    seen = _state(folder)
    digest = _once(folder, seen)
    if _state(folder) != seen:
        raise ConfigurationError(
            f"{folder} was changed while it was read: its weights are known when it is whole",
            path=str(folder),
        )
    return digest


@lru_cache(maxsize=256)
def _once(folder: Path, state: _State) -> str:
    return digest_of(folder)


def _state(folder: Path) -> _State:
    """Changes whenever a file does, without any being read. The time of the last change of an inode is in it because a
    copy may be given the size and the time of what it is written over."""
    return tuple(
        (
            file.relative_to(folder).as_posix(),
            at.st_dev,
            at.st_ino,
            at.st_size,
            at.st_mtime_ns,
            at.st_ctime_ns,
        )
        for file in sorted(_files(folder))
        for at in (_looked_at(file),)
    )


def _looked_at(file: Path) -> os.stat_result:
    try:
        return file.stat()
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{file}: can not be read: {error.strerror}", path=str(file))


def digest_of(folder: Path) -> str:
    """The SHA-256 over all files of a model's version folder: names, sizes and bytes, in the order of the names.

    Compiled Python (`__pycache__`), which the server writes itself, is left out. Raises ConfigurationError where a file
    can not be read.
    """
    digest = hashlib.sha256()
    for file in sorted(_files(folder), key=lambda file: file.relative_to(folder).as_posix()):
        try:
            size = file.stat().st_size
            digest.update(f"{file.relative_to(folder).as_posix()}\0{size}\0".encode())
            with file.open("rb") as content:
                while chunk := content.read(_CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise _unreadable(file, error) from error
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [Path(place) / name for name in names]
    return found
