"""A Triton elsewhere, over TLS and with a token: a real server behind a TLS end that lets nobody in without it."""

from __future__ import annotations

import ssl
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from tls import certificates, secured, server_context

from isocenter.settings import TritonSettings
from isocenter_operators.errors import ConfigurationError, InferenceUnavailable, IsocenterError
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


class _Gate(grpc.GenericRpcHandler):
    """Triton looks at no token, what stands in front of it does: notes what comes with each call, answers none."""

    def __init__(self) -> None:
        self.came: list[tuple[str, str | None]] = []

    def service(self, details: grpc.HandlerCallDetails) -> None:
        shown = dict(details.invocation_metadata)
        self.came.append((details.method.rpartition("/")[2], shown.get("authorization")))


def test_the_token_comes_with_every_call() -> None:
    gate = _Gate()
    server = grpc.server(ThreadPoolExecutor(1), handlers=[gate])
    endpoint = Endpoint(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", token="of-the-site")
    server.start()
    try:
        with pytest.raises(IsocenterError):
            answered(endpoint)
        with pytest.raises(IsocenterError), ModelControl(endpoint, "self_test") as control:
            control.last_answered()
    finally:
        server.stop(None)
    assert {"ModelInfer", "ModelStatistics"} <= {method for method, _ in gate.came}
    assert {token for _, token in gate.came} == {"Bearer of-the-site"}
    assert "of-the-site" not in repr(endpoint)


def test_what_can_not_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for a server elsewhere: give its url"):
        TritonSettings(token="t")
    with pytest.raises(ValueError, match="would travel unencrypted"):
        TritonSettings(url="gpu:8001", token="t")
    assert TritonSettings(url="gpu:8001", token="t", tls={}).endpoint.encrypted
    assert TritonSettings(url="127.0.0.1:8001", token="t").endpoint.token == "t"
    with pytest.raises(ConfigurationError, match=r"triton\.tls: .*nowhere\.pem can not be read"):
        Endpoint("127.0.0.1:1", encrypted=True, ca=tmp_path / "nowhere.pem").connected()
