"""A whole CT to Triton and its label map back: shared memory against gRPC and HTTP, both binary, and the SDK's client.

One embedded server, the model `self_test`: int16 (275, 512, 512), 144 MB in, uint8 of the same grid, 72 MB out. The
model itself compares and converts the volume, which each way pays for alike. The SDK's `TritonRemoteModel` writes each
value as text: it is given
11 of the slices, and ours beside it as many, int16 there and back.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from comparison import Comparison, side_by_side
from numpy.typing import NDArray
from series import embedded_settings
from tritonclient import http as triton_http

from isocenter.stack.triton import running_triton
from isocenter_operators.inference.triton import TritonClient

SHAPE = (275, 512, 512)  # (Z, Y, X)


def compare() -> Iterator[Comparison]:
    volume = np.random.default_rng(0).integers(-1024, 1024, SHAPE, dtype=np.int16)
    expected = volume < 0

    def checked(exchange: Callable[[], NDArray[Any]]) -> Callable[[], object]:
        def run() -> object:
            if not np.array_equal(exchange(), expected):
                raise SystemExit("the label map that came back is wrong")
            return None

        return run

    with embedded_settings() as settings, running_triton(settings, ["self_test"]) as url:
        triton = settings.triton
        http_address = f"{triton.host}:{triton.http_port}"
        http = triton_http.InferenceServerClient(http_address, network_timeout=120)
        with TritonClient(url) as shared, TritonClient(url, shared_memory=False) as grpc:
            ours = checked(lambda: by_client(shared, volume))
            yield side_by_side(
                "volume to Triton", ours, checked(lambda: by_client(grpc, volume)), against="gRPC, binary"
            )
            yield side_by_side(
                "volume to Triton, HTTP", ours, checked(lambda: by_http(http, volume)), against="HTTP, binary"
            )
            slab = volume[:11]
            remote = _sdk_model(settings.triton.model_repository / "self_test", http_address)
            ours = _inverted(lambda: by_client(shared, slab, "int16"), slab)
            theirs = _inverted(lambda: remote(torch.from_numpy(slab)).numpy(), slab)
            yield side_by_side(
                "11 slices to Triton", ours, theirs, against="the SDK's TritonRemoteModel", rounds=2
            )
        http.close()


def _sdk_model(folder: Path, address: str) -> Callable[[torch.Tensor], torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from monai.deploy.core.models.triton_model import TritonModel
    logging.disable(logging.WARNING)
    model: Callable[[torch.Tensor], torch.Tensor] = TritonModel(str(folder)).connect(address)
    return model


def _inverted(exchange: Callable[[], NDArray[Any]], given: NDArray[np.int16]) -> Callable[[], object]:
    def run() -> object:
        if not np.array_equal(exchange(), ~given):
            raise SystemExit("the values that came back are wrong")
        return None

    return run


def by_client(client: TritonClient, volume: NDArray[np.int16], output: str = "mask") -> NDArray[Any]:
    outputs = {output: volume.nbytes if output == "int16" else volume.size}
    return client.infer("self_test", {"int16": volume}, outputs=outputs, deadline_s=120)[output]


def by_http(client: triton_http.InferenceServerClient, volume: NDArray[np.int16]) -> NDArray[Any]:
    tensor = triton_http.InferInput("int16", list(volume.shape), "INT16")
    tensor.set_data_from_numpy(volume, binary_data=True)
    requested = triton_http.InferRequestedOutput("mask", binary_data=True)
    answer: NDArray[Any] = client.infer("self_test", [tensor], outputs=[requested]).as_numpy("mask")
    return answer
