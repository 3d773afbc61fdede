"""A Triton elsewhere, over TLS and with a token: a real server behind a TLS end that lets nobody in without it."""

from __future__ import annotations

import ssl
from pathlib import Path

import numpy as np
import pytest
from tls import certificates, secured, server_context

from isocenter.settings import TritonSettings
from isocenter_operators.errors import ConfigurationError, InferenceUnavailable
from isocenter_operators.inference.control import ModelControl
from isocenter_operators.inference.endpoint import Endpoint
from isocenter_operators.inference.triton import TritonClient

pytestmark = pytest.mark.integration


def context(folder: Path, *, ask: bool = False) -> ssl.SSLContext:
    made = server_context(folder, ask=ask)
    made.set_alpn_protocols(["h2"])
    return made


def answered(endpoint: Endpoint) -> bool:
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    with TritonClient(endpoint) as client:
        answer = client.infer("self_test", {"int16": values}, outputs={"int16": values.nbytes}, deadline_s=20)
    return bool(np.array_equal(answer["int16"], ~values))


def test_over_tls_only_whom_we_believe_is_asked(triton_url: str, tmp_path: Path) -> None:
    folder = certificates(tmp_path)
    port = int(triton_url.rpartition(":")[2])
    with secured(port, context(folder)) as secure:
        url = f"127.0.0.1:{secure}"
        said = TritonSettings.model_validate({"url": url, "tls": {"ca": folder / "ca.pem"}})
        assert answered(said.endpoint)
        for wrong in (
            Endpoint(url, encrypted=True, ca=folder / "stranger.pem"),
            Endpoint(url, encrypted=True),
            Endpoint(url),
        ):
            with pytest.raises(InferenceUnavailable):
                answered(wrong)


def test_a_server_that_asks_who_we_are_is_shown(triton_url: str, tmp_path: Path) -> None:
    folder = certificates(tmp_path)
    port = int(triton_url.rpartition(":")[2])
    with secured(port, context(folder, ask=True)) as secure:
        known = Endpoint(
            f"127.0.0.1:{secure}",
            encrypted=True,
            ca=folder / "ca.pem",
            certificate=folder / "client.pem",
            key=folder / "client.key",
        )
        assert answered(known)
        with pytest.raises(InferenceUnavailable):
            answered(Endpoint(known.url, encrypted=True, ca=folder / "ca.pem"))


def test_the_token_goes_with_every_call(triton_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What gRPC is given to send: Triton itself looks at no token, a gateway in front of it does."""
    endpoint = Endpoint(triton_url, token="of-the-site")
    sent: list[tuple[tuple[str, str], ...]] = []
    real = type(endpoint.connected())._get_metadata

    def seen(client: object, headers: object) -> object:
        metadata = real(client, headers)
        sent.append(tuple(metadata))
        return metadata

    monkeypatch.setattr(type(endpoint.connected()), "_get_metadata", seen)
    assert answered(endpoint)
    with ModelControl(endpoint, "self_test") as control:
        control.last_answered()
    assert len(sent) >= 2
    assert all(("authorization", "Bearer of-the-site") in each for each in sent)
    assert "of-the-site" not in repr(endpoint)


def test_what_can_not_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for a server elsewhere: give its url"):
        TritonSettings(token="t")
    with pytest.raises(ConfigurationError, match=r"triton\.tls: .*nowhere\.pem can not be read"):
        Endpoint("127.0.0.1:1", encrypted=True, ca=tmp_path / "nowhere.pem").connected()
