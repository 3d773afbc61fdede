"""An image as it is given to an engine: written anew, of the parts that were looked at, under one name.

The file that it lies in may hold other images too, may tell an engine of another one than its index does, and may call
it as one that the engine has.
"""

from __future__ import annotations

import io
import json
import tarfile
from typing import IO, Any

from isocenter.maps.oci import REF_NAME, Image, Layer

__all__ = ["hand_over"]

_CONTAINERD_NAME = "io.containerd.image.name"


def hand_over(image: Image, name: str, out: IO[bytes]) -> None:
    """Write it to a stream that `docker load` or `podman load` reads. Its digests stay what they are."""
    documents, layers = _documents(image, name), {_place(each): each for each in image.layers}
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
        for path, content in documents.items():
            header = tarfile.TarInfo(path)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
        for path, layer in layers.items():
            header = tarfile.TarInfo(path)
            with layer.open_blob() as stream:
                header.size = stream.seek(0, io.SEEK_END)
                stream.seek(0)
                archive.addfile(header, stream)


def _documents(image: Image, name: str) -> dict[str, bytes]:
    """Without a manifest of its own it gets none: as `docker save` wrote it, engines read it too."""
    config = f"blobs/{image.config_digest.replace(':', '/')}"
    listed = {"Config": config, "RepoTags": [name], "Layers": [_place(each) for each in image.layers]}
    documents = {"manifest.json": _json([listed]), config: image.documents.config}
    if image.documents.manifest:
        descriptor = {
            "mediaType": image.documents.manifest_type,
            "digest": image.digest,
            "size": len(image.documents.manifest),
            "annotations": {REF_NAME: name, _CONTAINERD_NAME: name},
        }
        documents["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
        documents["index.json"] = _json({"schemaVersion": 2, "manifests": [descriptor]})
        documents[f"blobs/{image.digest.replace(':', '/')}"] = image.documents.manifest
    return documents


def _place(layer: Layer) -> str:
    return f"blobs/{(layer.digest or layer.diff_id).replace(':', '/')}"


def _json(document: Any) -> bytes:
    return json.dumps(document).encode()
