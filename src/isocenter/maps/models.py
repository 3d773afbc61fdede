"""The models of a package: folders of a Triton model repository, or any others, and what tells them from others."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isocenter.maps.app_folder import AppFolder
from isocenter.weights import digest_of
from isocenter_operators.errors import ConfigurationError

__all__ = ["PackagedModel", "models_of"]

_SELF_TEST = (
    "self_test"  # by which the embedded Triton is seen to serve: isocenter_operators.inference.self_test
)


@dataclass(frozen=True)
class PackagedModel:
    """One model. `files`: by their paths below its folder. `sha256`: of its version's files, see isocenter.weights."""

    name: str
    version: str  # "" where it has none
    files: dict[str, Path]
    sha256: str

    def file_digests(self) -> dict[str, str]:
        """The SHA-256 of each of its files."""
        digests = {}
        for path, file in self.files.items():
            with file.open("rb") as stream:
                digests[path] = hashlib.file_digest(stream, "sha256").hexdigest()
        return digests


def models_of(app: AppFolder, folder: Path | None, repositories: Sequence[Path]) -> tuple[PackagedModel, ...]:
    """Those that the application names, and those in `folder`: each of its folders is one, as it is for the SDK.

    repositories: of Triton models, where those that the application names lie, unless `folder` has them.

    Raises ConfigurationError where one is missing, or has other weights than app.yaml states.
    """
    found = {model.name: model for model in _in(folder)} if folder is not None else {}
    places = ([folder] if folder is not None else []) + list(repositories)
    wanted = {**app.models, **({_SELF_TEST: "1"} if app.models else {})}
    for name, version in wanted.items():
        found[name] = model = _triton_model(name, version, places)
        if app.weights.get(name, model.sha256) != model.sha256:
            raise ConfigurationError(
                f"app.yaml states the weights {app.weights[name][:12]}... for the model {name!r}, and those here are "
                f"{model.sha256[:12]}...: bring the ones it was made for, or state these under a new version"
            )
    return tuple(found[name] for name in sorted(found))


def _in(folder: Path) -> list[PackagedModel]:
    if folder.is_file():
        return [_model(folder.stem, "", {folder.name: folder})]
    if not folder.is_dir():
        raise ConfigurationError(f"--models: there is no {folder}", path=str(folder))
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    loose = {path.name: path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix != ".md"}
    models = [_model(each.name, "", _files(each)) for each in folders]
    return models if not loose else [*models, _model(folder.resolve().stem, "", loose)]


def _triton_model(name: str, version: str, places: Sequence[Path]) -> PackagedModel:
    for place in places:
        model = place / name
        if (model / "config.pbtxt").is_file() and (model / version).is_dir():
            files = {
                path: file
                for path, file in _files(model).items()
                if "/" not in path or path.startswith(f"{version}/") or not path.split("/")[0].isdecimal()
            }
            return PackagedModel(name, version, files, digest_of(model / version))
    looked = ", ".join(map(str, places)) or "any folder"
    raise ConfigurationError(
        f"app.yaml names the model {name!r} version {version}, which is not in {looked}: give the folder that holds "
        f"{name}/config.pbtxt and {name}/{version} by --models"
    )


def _model(name: str, version: str, files: dict[str, Path]) -> PackagedModel:
    if not files:
        raise ConfigurationError(f"--models: the model {name!r} has no files")
    digest = hashlib.sha256()
    for path in sorted(files):  # as isocenter.weights has it
        digest.update(f"{path}\0{files[path].stat().st_size}\0".encode())
        with files[path].open("rb") as stream:
            while piece := stream.read(1 << 20):
                digest.update(piece)
    return PackagedModel(name, version, files, digest.hexdigest())


def _files(folder: Path) -> dict[str, Path]:
    """Links are followed: models share their code."""
    found = {}
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(names):
            path = Path(place) / name
            if not name.endswith((".pyc", ".pyo")):
                found[path.relative_to(folder).as_posix()] = path
    return found
