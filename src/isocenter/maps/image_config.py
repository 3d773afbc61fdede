"""What an OCI image says of itself: its index, its manifest and its configuration, with the names of the specification.

Source: OCI Image Format Specification 1.1 (image-index, manifest, config). What it does not name is kept as it came.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel, to_pascal

__all__ = [
    "CONFIG_TYPE",
    "INDEX_TYPES",
    "LAYER_TYPE",
    "MANIFEST_TYPE",
    "ContainerConfig",
    "Descriptor",
    "History",
    "ImageConfig",
    "Index",
    "Manifest",
    "Platform",
    "RootFS",
]

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"  # + "+gzip" where it is compressed
INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)


class _Document(BaseModel):
    model_config = ConfigDict(
        extra="allow", frozen=True, populate_by_name=True, alias_generator=to_camel, serialize_by_alias=True
    )


class Platform(_Document):
    architecture: str = "amd64"
    os: str = "linux"
    variant: str | None = None


class Descriptor(_Document):
    """Points to a blob by its digest, as `sha256:<64 hexadecimal digits>`."""

    media_type: str = MANIFEST_TYPE
    digest: str = Field(pattern="^sha256:[0-9a-f]{64}$")
    size: int = Field(ge=0)
    annotations: dict[str, str] | None = None
    platform: Platform | None = None


class Index(_Document):
    schema_version: int = 2
    media_type: str | None = None
    manifests: tuple[Descriptor, ...] = ()


class Manifest(_Document):
    schema_version: int = 2
    media_type: str | None = MANIFEST_TYPE
    config: Descriptor
    layers: tuple[Descriptor, ...] = ()
    annotations: dict[str, str] | None = None


class ContainerConfig(BaseModel):
    """How a container of the image is started. Lists that the image leaves out are empty."""

    model_config = ConfigDict(
        extra="allow", frozen=True, populate_by_name=True, alias_generator=to_pascal, serialize_by_alias=True
    )
    user: str = ""  # "" is root
    exposed_ports: dict[str, Any] | None = None
    env: tuple[str, ...] | None = None  # NAME=value
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: dict[str, Any] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str | None = None
    healthcheck: dict[str, Any] | None = None  # Docker's: not in the specification

    @property
    def environment(self) -> dict[str, str]:
        return dict(each.partition("=")[::2] for each in self.env or ())

    @property
    def argv(self) -> tuple[str, ...]:
        """What is run where nothing else is asked for."""
        return (*(self.entrypoint or ()), *(self.cmd or ()))


class RootFS(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)
    type: str = "layers"
    diff_ids: tuple[str, ...] = ()  # of the layers without compression, the lowest first


class History(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)
    created: datetime | None = None
    created_by: str | None = None
    comment: str | None = None
    empty_layer: bool | None = None


class ImageConfig(BaseModel):
    """The image's configuration; its digest is what engines call the image's ID."""

    model_config = ConfigDict(extra="allow", frozen=True)
    created: datetime | None = None
    author: str | None = None
    architecture: str = "amd64"
    os: str = "linux"
    variant: str | None = None
    config: ContainerConfig = ContainerConfig()
    rootfs: RootFS = RootFS()
    history: tuple[History, ...] | None = None
