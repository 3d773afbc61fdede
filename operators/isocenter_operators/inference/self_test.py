"""The start-up check of an inference server, against the model `self_test` of our model repository.

Triton's Python backend gives empty tensors, without any error, to models that exchange them in a way that NumPy 2
does not support. A server that passes this check moves every element type that our models use both ways.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.errors import InvalidResult
from isocenter_operators.inference.client import InferenceClient

__all__ = ["MODEL", "SelfTest", "self_test"]

MODEL: Final = "self_test"


@dataclass(frozen=True)
class SelfTest:
    """With what the models on the server compute."""

    device: str  # "cpu" or "cuda"
    device_name: str  # of the GPU
    torch: str  # version
    scipy: str  # version
    python: str  # version
    prefix: str  # the Python environment
    threads: int
    process_id: int


def self_test(client: InferenceClient, *, deadline_s: float = 10.0) -> SelfTest:
    """Send one tensor of each kind through the model and compare every element.

    Raises InvalidResult when a tensor came back changed, and what InferenceClient.infer raises.
    """
    sent: dict[str, NDArray[Any]] = {
        "int16": np.arange(-32768, 32768, 257, dtype=np.int16).reshape(4, 8, 8),
        "uint8": np.arange(256, dtype=np.uint8),
        "float64": np.array([[0.1, -1e300], [5e-324, np.pi]]),
    }
    expected = {"int16": ~sent["int16"], "uint8": ~sent["uint8"], "float64": -sent["float64"]}
    outputs: dict[str, int | None] = {**dict.fromkeys(expected), "report": None}
    received = client.infer(MODEL, sent, outputs=outputs, deadline_s=deadline_s)
    for name, array in expected.items():
        if received[name].dtype != array.dtype or not np.array_equal(received[name], array):
            raise InvalidResult(
                f"a {name} tensor of {array.size} elements did not survive Triton's Python backend "
                f"({received[name].size} {received[name].dtype} came back): do its models exchange tensors by "
                "DLPack, and do NumPy and torch in its environment fit together?",
                model=MODEL,
            )
    report = json.loads(received["report"].tobytes())
    return SelfTest(**{field.name: report[field.name] for field in fields(SelfTest)})
