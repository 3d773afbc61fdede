"""Other systems that results are sent on to, and that priors are fetched from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from isocenter_operators.dicomweb.credentials import Credentials

__all__ = ["TLS", "DICOMPeer", "DICOMwebPeer", "FolderPeer", "OrthancPeer", "Peer", "Retrieve", "WebhookPeer"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TLS(_Part):
    """Secure transport (PS3.15, B.9): whom we believe, and who we are."""

    ca: Path | None = None  # PEM; None: the system's
    certificate: Path | None = None  # ours, where the other side asks for it
    key: Path | None = None


class _HTTPPeer(_Part):
    url: str
    username: str | None = None
    password: SecretStr | None = None

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("should be like https://pacs/dicom-web")
        if "@" in parts.netloc:
            raise ValueError("must not hold a password: set username and password")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password: set both, or neither")
        return self

    @property
    def credentials(self) -> Credentials | None:
        if self.username is None or self.password is None:
            return None
        return Credentials(self.username, self.password.get_secret_value())


class Retrieve(_Part):
    """How a DICOM node gives images: C-GET on our own association, or C-MOVE, for which it opens one to us.

    For C-MOVE the node must know `aet` as a place at this machine's address and `port`. It is not the archive's own
    entity title: what is sent there is for one job, and never stored.
    """

    method: Literal["get", "move"] = "get"
    aet: str | None = Field(default=None, min_length=1, max_length=16)  # the destination of C-MOVE
    host: str = "0.0.0.0"  # where we listen while a C-MOVE goes on
    port: int | None = Field(default=None, ge=1, le=65535)

    @model_validator(mode="after")
    def _a_move_has_a_destination(self) -> Self:
        if self.method == "move" and (self.aet is None or self.port is None):
            raise ValueError("method: move needs aet and port, as the other side knows them")
        return self


class DICOMPeer(_Part):
    """A DICOM node: C-STORE to it, C-FIND and C-GET or C-MOVE from it."""

    kind: Literal["dicom"]
    host: str
    port: int = Field(ge=1, le=65535)
    aet: str = Field(min_length=1, max_length=16)
    tls: TLS | None = None
    retrieve: Retrieve = Retrieve()


class DICOMwebPeer(_HTTPPeer):
    """A DICOMweb service: STOW-RS to it, QIDO-RS and WADO-RS from it. `url` is where its resources begin."""

    kind: Literal["dicomweb"]


class OrthancPeer(_HTTPPeer):
    """Another Orthanc, by its REST API."""

    kind: Literal["orthanc"]


class FolderPeer(_Part):
    """A folder: one folder per study, one file per instance."""

    kind: Literal["folder"]
    path: Path


class WebhookPeer(_Part):
    """An address that is told of each result, as JSON signed with HMAC-SHA-256 under `secret`."""

    kind: Literal["webhook"]
    url: str
    secret: SecretStr

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
            raise ValueError("should be like https://ris/isocenter, without a password")
        return url


Peer = Annotated[
    DICOMPeer | DICOMwebPeer | OrthancPeer | FolderPeer | WebhookPeer, Field(discriminator="kind")
]
