"""An image written as an OCI layout, or as an archive of one that `docker load` and `podman load` take too."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from pydantic import BaseModel

from isocenter.maps.blobs import digest_of
from isocenter.maps.image_config import (
    CONFIG_TYPE,
    LAYER_TYPE,
    MANIFEST_TYPE,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    Platform,
)
from isocenter.maps.oci import REF_NAME, Layer
from isocenter_operators.errors import InputError

__all__ = ["Blob", "Draft", "is_archive", "taken_layer", "write_image"]

_ARCHIVES = (".oci", ".tar")


class Blob(Protocol):
    """A layer, wherever it lies."""

    @property
    def digest(self) -> str: ...
    @property
    def diff_id(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def media_type(self) -> str: ...

    def open_blob(self) -> BinaryIO: ...


@dataclass(frozen=True)
class _Taken:
    """A layer of another image, as it lies there."""

    layer: Layer
    digest: str
    diff_id: str
    size: int
    media_type: str

    def open_blob(self) -> BinaryIO:
        return self.layer.open_blob()


@dataclass(frozen=True)
class Draft:
    """An image before it is written. The configuration's `rootfs` is made from the layers, the lowest first."""

    config: ImageConfig
    layers: Sequence[Blob]
    tag: str = ""
    annotations: dict[str, str] | None = None


def taken_layer(layer: Layer) -> Blob:
    """A layer of an image that is there, for another one. Raises InputError where it is not what its digest says."""
    layer.verify()
    kind = LAYER_TYPE + ("+gzip" if layer.compressed else "")
    if layer.digest:
        return _Taken(layer, layer.digest, layer.diff_id, layer.size, kind)
    with layer.open_blob() as stream:
        digest = digest_of(stream)
        size = stream.tell()
    return _Taken(layer, digest, layer.diff_id, size, kind)


def is_archive(path: Path) -> bool:
    """Whether an image of this name is one file: what ends in .oci or .tar. Anything else is a folder."""
    return path.suffix in _ARCHIVES


def write_image(draft: Draft, path: Path) -> str:
    """Write it to `path`, in place of the image that may be there, and return its digest.

    Raises InputError where another thing is there.
    """
    blobs = _blobs(draft)
    unfinished = path.with_name(f".{path.name}.part")
    with _replacing(path, unfinished):
        if is_archive(path):
            _write_archive(unfinished, blobs)
        else:
            _write_folder(unfinished, blobs)
    return blobs.digest


@dataclass(frozen=True)
class _Blobs:
    """All files of the layout, by their names."""

    documents: dict[str, bytes]
    layers: dict[str, Blob]
    digest: str


def _blobs(draft: Draft) -> _Blobs:
    rootfs = draft.config.rootfs.model_copy(update={"diff_ids": tuple(each.diff_id for each in draft.layers)})
    config = _json(draft.config.model_copy(update={"rootfs": rootfs}))
    manifest = _json(
        Manifest(
            config=Descriptor(media_type=CONFIG_TYPE, digest=_digest(config), size=len(config)),
            layers=tuple(
                Descriptor(media_type=each.media_type, digest=each.digest, size=each.size)
                for each in draft.layers
            ),
            annotations=draft.annotations,
        )
    )
    digest = _digest(manifest)
    index = Index(
        manifests=(
            Descriptor(
                media_type=MANIFEST_TYPE,
                digest=digest,
                size=len(manifest),
                annotations={REF_NAME: draft.tag} if draft.tag else None,
                platform=Platform(architecture=draft.config.architecture, os=draft.config.os),
            ),
        )
    )
    documents = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": _json(index),
        # For `docker load`, which reads an OCI archive only by this.
        "manifest.json": _compact(
            [
                {
                    "Config": _place(_digest(config)),
                    "RepoTags": [draft.tag] if draft.tag else None,
                    "Layers": [_place(each.digest) for each in draft.layers],
                }
            ]
        ),
        _place(_digest(config)): config,
        _place(digest): manifest,
    }
    return _Blobs(documents, {_place(each.digest): each for each in draft.layers}, digest)


def _write_folder(folder: Path, blobs: _Blobs) -> None:
    (folder / "blobs" / "sha256").mkdir(parents=True)
    for name, content in blobs.documents.items():
        (folder / name).write_bytes(content)
    for name, layer in blobs.layers.items():
        with layer.open_blob() as source, (folder / name).open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)


def _write_archive(file: Path, blobs: _Blobs) -> None:
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("blobs", "blobs/sha256"):
            header = tarfile.TarInfo(name)
            header.type, header.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(header)
        for name in sorted((*blobs.documents, *blobs.layers)):
            header = tarfile.TarInfo(name)
            if name in blobs.documents:
                header.size = len(blobs.documents[name])
                archive.addfile(header, io.BytesIO(blobs.documents[name]))
            else:
                header.size = blobs.layers[name].size
                with blobs.layers[name].open_blob() as source:
                    archive.addfile(header, source)


@contextmanager
def _replacing(path: Path, unfinished: Path) -> Iterator[None]:
    """What is written to `unfinished` takes the place of `path` when it is whole."""
    if path.is_dir() and any(path.iterdir()) and not (path / "oci-layout").is_file():
        raise InputError(f"{path}: a folder that holds no image is there; name another place", path=str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove(unfinished)
    try:
        yield
        if path.is_dir():
            _remove(path)
        unfinished.replace(path)
    finally:
        _remove(unfinished)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _place(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _digest(content: bytes) -> str:
    return digest_of(io.BytesIO(content))


def _json(document: BaseModel) -> bytes:
    return _compact(document.model_dump(mode="json", exclude_none=True))


def _compact(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
