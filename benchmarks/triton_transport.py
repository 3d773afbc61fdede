"""How long a whole CT travels to Triton and its label map back: shared memory, gRPC, HTTP.

    python benchmarks/triton_transport.py

One embedded server, the model `self_test`: int16 (275, 512, 512), 144 MB in, uint8 of the same grid, 72 MB out.
The model itself compares and converts the volume, which each way pays for alike.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient import http as triton_http

from isocenter.settings import Settings, TritonSettings
from isocenter.stack.triton import running_triton
from isocenter_operators.inference.triton import TritonClient

SHAPE = (275, 512, 512)  # (Z, Y, X)
Exchange = Callable[[NDArray[np.int16]], NDArray[Any]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def by_client(client: TritonClient) -> Exchange:
    def exchange(volume: NDArray[np.int16]) -> NDArray[Any]:
        return client.infer("self_test", {"int16": volume}, outputs={"mask": volume.size}, deadline_s=120)[
            "mask"
        ]

    return exchange


def by_http(client: triton_http.InferenceServerClient) -> Exchange:
    def exchange(volume: NDArray[np.int16]) -> NDArray[Any]:
        tensor = triton_http.InferInput("int16", list(volume.shape), "INT16")
        tensor.set_data_from_numpy(volume, binary_data=True)
        requested = triton_http.InferRequestedOutput("mask", binary_data=True)
        answer: NDArray[Any] = client.infer("self_test", [tensor], outputs=[requested]).as_numpy("mask")
        return answer

    return exchange


def measure(exchange: Exchange, volume: NDArray[np.int16], rounds: int) -> list[float]:
    """Seconds of each round, the first (cold) one included."""
    expected = volume < 0
    seconds = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        mask = exchange(volume)
        seconds.append(time.perf_counter() - started)
        if not np.array_equal(mask, expected):
            raise SystemExit("the label map that came back is wrong")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5, help="after a first, cold one")
    rounds = parser.parse_args().rounds
    volume = np.random.default_rng(0).integers(-1024, 1024, SHAPE, dtype=np.int16)
    with tempfile.TemporaryDirectory() as folder:
        triton = TritonSettings(http_port=free_port(), grpc_port=free_port(), metrics_port=free_port())
        settings = Settings(data_dir=Path(folder), triton=triton)
        with running_triton(settings, ["self_test"]) as url:
            http = triton_http.InferenceServerClient(f"{triton.host}:{triton.http_port}", network_timeout=120)
            with TritonClient(url) as shared, TritonClient(url, shared_memory=False) as grpc:
                ways = {"shared memory": by_client(shared), "gRPC": by_client(grpc), "HTTP": by_http(http)}
                seconds = {way: measure(exchange, volume, rounds) for way, exchange in ways.items()}
            http.close()
    print(f"{volume.nbytes / 1e6:.0f} MB int16 in, {volume.size / 1e6:.0f} MB uint8 out, {rounds} rounds")
    print(f"{'':15}{'first':>9}{'median':>9}{'best':>9}")
    for way, (first, *rest) in seconds.items():
        print(f"{way:15}{first:8.2f}s{statistics.median(rest):8.2f}s{min(rest):8.2f}s")


if __name__ == "__main__":
    main()
