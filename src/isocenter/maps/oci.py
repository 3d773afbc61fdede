"""Container images as files: an OCI layout, an archive of one, or what `docker save` makes.

with open_image(Path("hello.oci")) as image:
    image.digest, image.config.config.user, image.read("/etc/holoscan/app.json")
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from pydantic import BaseModel, ValidationError

from isocenter.maps.blobs import Store, digest_of, store_at
from isocenter.maps.filesystem import Entry, FileSystem
from isocenter.maps.image_config import INDEX_TYPES, Descriptor, ImageConfig, Index, Manifest, Platform
from isocenter_operators.errors import InputError

__all__ = ["REF_NAME", "Documents", "Image", "Layer", "open_image"]

REF_NAME = "org.opencontainers.image.ref.name"
_JSON_AT_MOST = 8 << 20  # bytes
_GZIP = b"\x1f\x8b"
_ZSTANDARD = b"\x28\xb5\x2f\xfd"

_Model = TypeVar("_Model", bound=BaseModel)


class _Gunzipped(gzip.GzipFile):
    """Closes what it reads from too."""

    def __init__(self, blob: BinaryIO) -> None:
        super().__init__(fileobj=blob, mode="rb")
        self._blob = blob

    def close(self) -> None:
        super().close()
        self._blob.close()


@dataclass(frozen=True)
class Layer:
    """One layer of an image, in the file that it lies in."""

    store: Store
    name: str  # of the file in the store
    digest: str  # of these bytes; "" where nothing states it (docker save)
    diff_id: str  # of the tar without compression
    size: int  # bytes as they lie there; 0 where nothing states it

    def open_blob(self) -> BinaryIO:
        """The bytes as they lie there."""
        return self.store.open(self.name)

    def open(self) -> BinaryIO:
        """The tar, without compression. Raises InputError for a compression that Python can not read."""
        stream = self.open_blob()
        start = stream.read(4)
        stream.seek(0)
        if start.startswith(_GZIP):
            return cast(BinaryIO, _Gunzipped(stream))
        if start == _ZSTANDARD:
            stream.close()
            raise InputError(
                f"{self.store.path}: layer {self.name} is compressed with zstd, which is not read here; write the "
                "image anew with gzip: skopeo copy --dest-compress-format gzip",
                path=str(self.store.path),
            )
        return stream

    @property
    def compressed(self) -> bool:
        with self.open_blob() as stream:
            return stream.read(2) == _GZIP

    def verify(self) -> None:
        """Read it through. Raises InputError where its bytes are not those that its digests are of."""
        if self.digest:
            with self.open_blob() as stream:
                _expect(self.store, self.name, digest_of(stream), self.digest)
        if self.diff_id != self.digest:
            with self.open() as stream:
                _expect(self.store, self.name, digest_of(stream), self.diff_id)


@dataclass(frozen=True)
class Documents:
    """An image's own, byte for byte: its digests are of these. manifest: b"" where `docker save` wrote none."""

    config: bytes
    manifest: bytes = b""
    manifest_type: str = ""


class Image:
    """An image in a file or a folder. Its small documents are checked against their digests when it is opened, its
    layers by `verify`."""

    def __init__(
        self,
        store: Store,
        config: ImageConfig,
        layers: Sequence[Layer],
        *,
        documents: Documents,
        digest: str,
        config_digest: str,
        tag: str,
    ) -> None:
        self._store = store
        self.digest = digest  # of the manifest; of what `docker save` made in its old form, the image's ID
        self.config_digest = config_digest  # the image's ID
        self.config = config
        self.documents = documents
        self.layers = tuple(layers)
        self.tag = tag  # "" where it has none

    @property
    def path(self) -> Path:
        return self._store.path

    @cached_property
    def file_system(self) -> FileSystem:
        """What the layers are together; their headers are read once."""
        return FileSystem(self.layers)

    def entries(self) -> Iterator[Entry]:
        """Every path in the image, sorted; what an upper layer deletes is not among them."""
        return self.file_system.entries()

    def find(self, path: str) -> Entry | None:
        """What is at this path of the image, symbolic links followed; None where nothing is."""
        return self.file_system.find(path)

    def read(self, path: str) -> bytes:
        """The content of a file in the image. Raises InputError where there is none at this path."""
        return self.file_system.read(path)

    def extract(self, root: Path, *, owners: bool = True) -> None:
        """Unpack all of it into the folder `root`, which is new or empty; see `FileSystem.extract`."""
        self.file_system.extract(root, owners=owners)

    def verify(self) -> None:
        """Read all of it. Raises InputError where a layer is not what its digest says."""
        for layer in self.layers:
            layer.verify()


def open_image(path: Path, tag: str = "", platform: Platform | None = None) -> Image:
    """The image at this path: the folder of an OCI layout, an archive of one, or an archive of `docker save`.

    tag: which one, where several are in it. platform: likewise; linux/amd64 where it is not said.

    Raises InputError where there is no image, it is not what its digests say, or the choice is not clear.
    """
    store = store_at(path)
    if store.has("index.json"):
        return _oci(store, tag, platform or Platform())
    if store.has("manifest.json"):
        return _docker(store, tag)
    raise InputError(
        f"{path}: neither index.json (an OCI layout) nor manifest.json (docker save) is in it: no image",
        path=str(path),
    )


def _oci(store: Store, tag: str, platform: Platform) -> Image:
    index = _parsed(store, "index.json", Index)
    chosen = _chosen(store, index.manifests, tag, platform)
    ref = (chosen.annotations or {}).get(REF_NAME, "")
    while chosen.media_type in INDEX_TYPES:
        chosen = _chosen(store, _parsed(store, _blob(chosen), Index, chosen.digest).manifests, "", platform)
    manifest = _parsed(store, _blob(chosen), Manifest, chosen.digest)
    config = _parsed(store, _blob(manifest.config), ImageConfig, manifest.config.digest)
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise InputError(
            f"{store.path}: its manifest has {len(manifest.layers)} layers, its configuration {len(diff_ids)}",
            path=str(store.path),
        )
    layers = [
        Layer(store, _blob(each), each.digest, diff_id, each.size)
        for each, diff_id in zip(manifest.layers, diff_ids, strict=True)
    ]
    return Image(
        store,
        config,
        layers,
        documents=Documents(
            _content(store, _blob(manifest.config)), _content(store, _blob(chosen)), chosen.media_type
        ),
        digest=chosen.digest,
        config_digest=manifest.config.digest,
        tag=ref,
    )


def _chosen(store: Store, manifests: Sequence[Descriptor], tag: str, platform: Platform) -> Descriptor:
    named = {(each.annotations or {}).get(REF_NAME, ""): each for each in manifests}
    if tag:
        if tag not in named:
            raise InputError(
                f"{store.path}: no image {tag!r} in it, only {', '.join(named)}", path=str(store.path)
            )
        return named[tag]
    if len(manifests) == 1:  # of whatever platform: whoever runs it has to look
        return manifests[0]
    # Attestations of a build (BuildKit) stand beside the image, for a platform "unknown".
    wanted = (platform.os, platform.architecture)
    fitting = [
        each
        for each in manifests
        if each.platform is None or (each.platform.os, each.platform.architecture) == wanted
    ]
    if len({each.digest for each in fitting}) != 1:
        found = ", ".join(filter(None, named)) or f"{len(manifests)} without a name"
        raise InputError(
            f"{store.path}: holds no single image for {platform.os}/{platform.architecture}: {found}; name one",
            path=str(store.path),
        )
    return fitting[0]


def _docker(store: Store, tag: str) -> Image:
    """`docker save` before version 25, and `podman save --format docker-archive`."""
    try:
        listed = [
            (
                str(each["Config"]),
                [str(name) for name in each["Layers"]],
                [str(t) for t in each["RepoTags"] or ()],
            )
            for each in _json(store, "manifest.json")
        ]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{store.path}: manifest.json is not what docker save writes", path=str(store.path)
        ) from error
    fitting = [each for each in listed if not tag or tag in each[2]]
    if len(fitting) != 1:
        names = ", ".join(name for each in listed for name in each[2]) or f"{len(listed)} without a name"
        raise InputError(
            f"{store.path}: holds no single image {tag or ''}: {names}; name one", path=str(store.path)
        )
    config_name, layer_names, tags = fitting[0]
    config = _parsed(store, config_name, ImageConfig)
    document = _content(store, config_name)
    config_digest = digest_of(io.BytesIO(document))
    if len(config.rootfs.diff_ids) != len(layer_names):
        raise InputError(f"{store.path}: manifest.json and {config_name} disagree", path=str(store.path))
    layers = [
        Layer(store, name, "", diff_id, 0)
        for name, diff_id in zip(layer_names, config.rootfs.diff_ids, strict=True)
    ]
    tag = tags[0] if tags else ""
    return Image(
        store,
        config,
        layers,
        documents=Documents(document),
        digest=config_digest,
        config_digest=config_digest,
        tag=tag,
    )


def _blob(descriptor: Descriptor) -> str:
    return f"blobs/{descriptor.digest.replace(':', '/')}"


def _content(store: Store, name: str) -> bytes:
    with store.open(name) as stream:
        content = stream.read(_JSON_AT_MOST + 1)
    if len(content) > _JSON_AT_MOST:
        raise InputError(f"{store.path}: {name} is larger than such a document can be", path=str(store.path))
    return content


def _json(store: Store, name: str, digest: str = "") -> Any:
    content = _content(store, name)
    if digest:
        _expect(store, name, digest_of(io.BytesIO(content)), digest)
    try:
        return json.loads(content)
    except ValueError as error:
        raise InputError(f"{store.path}: {name} is no JSON: {error}", path=str(store.path)) from error


def _parsed(store: Store, name: str, model: type[_Model], digest: str = "") -> _Model:
    try:
        return model.model_validate(_json(store, name, digest))
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in error.errors())
        raise InputError(f"{store.path}: {name}: {problems}", path=str(store.path)) from error


def _expect(store: Store, name: str, found: str, expected: str) -> None:
    if found != expected:
        raise InputError(
            f"{store.path}: {name} is not what its digest says: {found} instead of {expected}; fetch the image again",
            path=str(store.path),
        )
