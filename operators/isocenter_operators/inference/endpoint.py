"""Where a Triton listens, whether the way there is encrypted, and what one shows to be let in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc  # type: ignore[import-untyped]
from tritonclient import grpc as triton_grpc
from tritonclient.grpc import InferenceServerClientPlugin

from isocenter_operators.errors import ConfigurationError

__all__ = ["Endpoint"]


@dataclass(frozen=True)
class Endpoint:
    """Triton's gRPC endpoint `url`, as "127.0.0.1:8001".

    encrypted: over TLS. `ca`: PEM certificates of whom we believe; None: the authorities that everybody believes.
    `certificate`, `key`: ours, where the server asks for one.
    `token`: goes with every call, as "authorization: Bearer TOKEN".
    """

    url: str
    encrypted: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, where: str | Endpoint) -> Endpoint:
        return where if isinstance(where, Endpoint) else cls(where)

    def __str__(self) -> str:
        return self.url

    def connected(
        self, channel_args: Sequence[tuple[str, int | str]] | None = None
    ) -> triton_grpc.InferenceServerClient:
        """A client, which connects when it is first asked. Raises ConfigurationError where a file can not be read."""
        client = triton_grpc.InferenceServerClient(
            self.url, creds=self._credentials() if self.encrypted else None, channel_args=channel_args
        )
        if self.token:
            client.register_plugin(_Token(self.token))
        return client

    def _credentials(self) -> grpc.ChannelCredentials:
        ca, key, certificate = (_content(file) for file in (self.ca, self.key, self.certificate))
        return grpc.ssl_channel_credentials(ca, key, certificate)


class _Token(InferenceServerClientPlugin):
    def __init__(self, token: str) -> None:
        self._authorization = f"Bearer {token}"

    def __call__(self, request: triton_grpc._client.Request) -> None:
        request.headers = {**(request.headers or {}), "authorization": self._authorization}


def _content(file: Path | None) -> bytes | None:
    try:
        return file.read_bytes() if file is not None else None
    except OSError as error:
        raise ConfigurationError(
            f"triton.tls: {file} can not be read: {error.strerror}", path=str(file)
        ) from error
