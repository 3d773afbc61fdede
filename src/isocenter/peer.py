"""Other systems that results are sent on to, and that priors are fetched from."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_core import PydanticCustomError

from isocenter_operators.dicomweb.credentials import Credentials
from isocenter_operators.errors import ConfigurationError

__all__ = [
    "TLS",
    "DICOMPeer",
    "DICOMwebPeer",
    "FolderPeer",
    "OrthancPeer",
    "Peer",
    "Profile",
    "Retrieve",
    "WebhookPeer",
    "refuse_half_a_login",
    "refuse_no_port",
]


def refuse_half_a_login(username: str | None, password: SecretStr | None) -> None:
    """Raises PydanticCustomError of the kind `half_a_login`, which names the `missing` one."""
    if (username is None) != (password is None):
        missing, given = ("username", "password") if username is None else ("password", "username")
        raise PydanticCustomError(
            "half_a_login", "is missing beside {given}", {"missing": missing, "given": given}
        )


def refuse_no_port(address: SplitResult) -> None:
    """Raises ValueError where what stands in the place of the port is none.

    It is not repeated: with a slash in it, a password ends there, and the message is logged.
    """
    try:
        port = address.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("the port should be a number from 1 to 65535")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TLS(_Part):
    """Secure transport (PS3.15, B.9): whom we believe, and who we are."""

    ca: Path | None = None  # PEM; None: the system's
    certificate: Path | None = None  # ours, where the other side asks for it
    key: Path | None = None

    def absolute(self) -> Self:
        """The same files, from wherever they are read."""
        return self.model_copy(
            update={name: file.absolute() for name, file in dict(self).items() if file is not None}
        )

    def context(self, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> ssl.SSLContext:
        """For connections that we open: the other side must show a certificate for its address that `ca` vouches for.

        Raises ConfigurationError for files that can not be used.
        """
        try:
            context = ssl.create_default_context(purpose, cafile=self.ca)
        except OSError as error:  # ssl's own errors are of this kind
            raise ConfigurationError(
                f"tls.ca {self.ca} can not be read as PEM certificates: {error.strerror}"
            ) from error
        if self.certificate is None:
            return context
        try:
            # A password is given, or OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self.certificate, self.key, password="")
        except OSError as error:
            raise ConfigurationError(
                f"tls.certificate {self.certificate} and tls.key {self.key or ''} can not be used: {error.strerror}"
            ) from error
        return context


def _known_profile(profile: str | dict[str, Any]) -> str | dict[str, Any]:
    from isocenter_operators.dicom.results.profile import profile_of  # pydicom takes its time

    try:
        profile_of(profile)
    except ConfigurationError as error:
        raise ValueError(str(error)) from error
    return profile


# "any", "modern", or the fields of a DestinationProfile.
Profile = Annotated[str | dict[str, Any], AfterValidator(_known_profile)]


class _Keeper(_Part):
    """A destination that keeps DICOM objects. `profile`: what it takes, where that is less than what the archive does;
    results that go to it are written so that both can have them."""

    profile: Profile | None = None


class _Address(_Part):
    """What is reached at a URL. Over https it must show a certificate: see `tls`."""

    url: str
    tls: TLS | None = None

    @model_validator(mode="after")
    def _tls_is_https(self) -> Self:
        if self.tls is not None and urlsplit(self.url).scheme != "https":
            raise ValueError("tls: url must begin with https://")
        return self

    def context(self) -> ssl.SSLContext | None:
        """For https; None for http. Raises ConfigurationError."""
        return (self.tls or TLS()).context() if urlsplit(self.url).scheme == "https" else None


class _HTTPPeer(_Address):
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
        refuse_no_port(parts)
        return url.rstrip("/")

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        refuse_half_a_login(self.username, self.password)
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


class DICOMPeer(_Keeper):
    """A DICOM node: C-STORE to it, C-FIND and C-GET or C-MOVE from it."""

    kind: Literal["dicom"]
    host: str
    port: int = Field(ge=1, le=65535)
    aet: str = Field(min_length=1, max_length=16)
    tls: TLS | None = None
    retrieve: Retrieve = Retrieve()


class DICOMwebPeer(_HTTPPeer, _Keeper):
    """A DICOMweb service: STOW-RS to it, QIDO-RS and WADO-RS from it. `url` is where its resources begin."""

    kind: Literal["dicomweb"]


class OrthancPeer(_HTTPPeer, _Keeper):
    """Another Orthanc, by its REST API."""

    kind: Literal["orthanc"]


class FolderPeer(_Keeper):
    """A folder: one folder per study, one file per instance."""

    kind: Literal["folder"]
    path: Path


class WebhookPeer(_Address):
    """An address that is told of each result, as JSON signed with HMAC-SHA-256 under `secret`."""

    kind: Literal["webhook"]
    secret: SecretStr

    @field_validator("url")
    @classmethod
    def _an_address(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
            raise ValueError("should be like https://ris/isocenter, without a password")
        refuse_no_port(parts)
        return url


Peer = Annotated[
    DICOMPeer | DICOMwebPeer | OrthancPeer | FolderPeer | WebhookPeer, Field(discriminator="kind")
]
