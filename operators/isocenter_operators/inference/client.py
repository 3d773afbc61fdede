"""What a graph needs of an inference server, whichever it is: arrays in, arrays out, within a deadline."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["NO_PARAMETERS", "InferenceClient", "Parameters", "Tensor"]

Tensor: TypeAlias = NDArray[np.generic]
Parameters: TypeAlias = Mapping[str, str | int | bool]

NO_PARAMETERS: Parameters = MappingProxyType({})


class InferenceClient(Protocol):
    """A connection to one inference server. Safe to use from several threads at once.

    A chest CT in, its label map and its numbers out:

        with TritonClient("127.0.0.1:8001") as client:
            tensors = client.infer(
                "ct_lung_density",
                {"volume": volume, "affine": affine},           # int16 (Z, Y, X) HU; float64 (4, 4)
                outputs={"labels": volume.size, "measurements": None},
                deadline_s=120,
            )
        tensors["labels"]                                       # uint8 (Z, Y, X)
    """

    def infer(
        self,
        model: str,
        inputs: Mapping[str, NDArray[Any]],
        *,
        outputs: Mapping[str, int | None],
        deadline_s: float,
        parameters: Parameters = NO_PARAMETERS,
        priority: int = 0,
        version: str = "",
    ) -> dict[str, NDArray[Any]]:
        """Run `model` once and return the requested outputs, each an array that belongs to the caller.

        `inputs`: tensor name to array. Shape and element type are sent as they are, in C order.
        `outputs`: tensor name to the most bytes it can have, or None where that is not known or small. A bound
        lets a large output travel through shared memory; too small a bound is an InputError, never a cut tensor.
        `deadline_s`: seconds from the call to the answer, transport and the server's queue included.
        `parameters`: what the model is told beside its tensors.
        `priority`: 1 is served first, larger numbers later; 0 is the model's default, as is a number beyond its levels.
        `version`: the one version that may answer; "" the newest that the server has loaded.

        Raises InputError when the model refuses this input, DeadlineExceeded when the answer did not come in
        time, OutOfMemory when the model had not enough, InferenceUnavailable when the server or the model is
        away or failed, InvalidResult when the answer lacks a requested output.
        """
        ...

    def model_version(self, model: str) -> str:
        """The version of `model` that answers: "1". Raises InferenceUnavailable, saying what is missing."""
        ...

    def ready(self, model: str, version: str = "") -> bool:
        """Whether `model`, in this version where one is named, would take a request now. Raises nothing."""
        ...

    def close(self) -> None:
        """Give back what this connection holds. Calls in flight end with InferenceUnavailable."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...
