"""One request to Triton in its own terms, and what its answers and errors mean in ours."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient import grpc as triton_grpc
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

from isocenter_operators.errors import (
    DeadlineExceeded,
    InferenceUnavailable,
    InputError,
    InvalidResult,
    IsocenterError,
    ModelCrashed,
    OutOfMemory,
)
from isocenter_operators.inference.client import Parameters
from isocenter_operators.inference.regions import Layout, Region

__all__ = ["MESSAGE_LIMIT", "Request", "first_line", "status_of", "translated"]

MESSAGE_LIMIT = 2**31 - 1  # bytes; the most that gRPC and Triton take

# As torch on CUDA, torch on a CPU, NumPy, ONNX Runtime, C++, and the Python backend itself say it.
_OUT_OF_MEMORY = (
    "out of memory",
    "outofmemory",
    "alloc_failed",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate",
    "unable to allocate",
    "memoryerror",
    "bad_alloc",
    "increase the shared memory pool",
)
_NOT_SENT = {"timeout", "priority", "sequence_id", "sequence_start", "sequence_end", "binary_data_output"}


@dataclass(frozen=True)
class Request:
    """What `InferenceClient.infer` was asked, and since when."""

    url: str
    model: str
    inputs: Mapping[str, NDArray[Any]]
    outputs: Mapping[str, int | None]
    deadline_s: float
    parameters: Parameters
    priority: int
    version: str = ""
    started_s: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        for name, array in self.inputs.items():
            if array.dtype.hasobject or np_to_triton_dtype(array.dtype) in (None, "BYTES"):
                raise InputError(
                    f"model {self.model!r}: input {name!r} has elements of type {array.dtype}, which Triton has "
                    "no tensor for; send numbers, and text as uint8",
                    model=self.model,
                )
        reserved = sorted(_NOT_SENT & self.parameters.keys())
        if reserved:
            raise InputError(
                f"request parameter {reserved[0]!r} has a meaning of its own on Triton; rename it"
            )

    @property
    def remaining_s(self) -> float:
        return max(0.0, self.started_s + self.deadline_s - time.monotonic())

    @property
    def late(self) -> DeadlineExceeded:
        return DeadlineExceeded(
            f"model {self.model!r} on Triton at {self.url} gave no answer within {self.deadline_s:g} s; "
            "allow more time, or see in Triton's log what it is busy with",
            model=self.model,
            version=self.version or None,
        )

    def refuse_oversize(self) -> None:
        """Raises InputError where the inputs are more than a gRPC message can hold."""
        size = sum(array.nbytes for array in self.inputs.values())
        if size > MESSAGE_LIMIT - (1 << 20):
            raise InputError(
                f"model {self.model!r}: {size / 2**30:.1f} GiB do not fit into one gRPC message (2 GiB); run "
                f"Triton on this machine with shared memory (--allow-client-shm=true in newer versions)",
                model=self.model,
            )

    def arguments(self, layout: Layout | None, region: Region | None) -> dict[str, Any]:
        """The arguments of tritonclient's `infer`; the tensors of `layout` by reference to `region`."""
        return {
            "model_name": self.model,
            "model_version": self.version,
            "inputs": [self._input(name, array, layout, region) for name, array in self.inputs.items()],
            "outputs": [_output(name, layout, region) for name in self.outputs],
            "parameters": dict(self.parameters),
            "priority": self.priority,
            "timeout": max(1, int(self.remaining_s * 1e6)),  # us; how long it may wait in the server's queue
        }

    def _input(
        self, name: str, array: NDArray[Any], layout: Layout | None, region: Region | None
    ) -> triton_grpc.InferInput:
        tensor = triton_grpc.InferInput(name, array.shape, np_to_triton_dtype(array.dtype))
        if layout is not None and region is not None and name in layout.inputs:
            offset, size = layout.inputs[name]
            tensor.set_shared_memory(region.name, size, offset)
        else:
            tensor.set_data_from_numpy(np.ascontiguousarray(array).reshape(array.shape))
        return tensor

    def tensors(
        self, result: triton_grpc.InferResult, layout: Layout | None, region: Region | None
    ) -> dict[str, NDArray[Any]]:
        """The outputs, as arrays of their own. Raises InvalidResult where one is missing."""
        tensors = {}
        for name in self.outputs:
            described = result.get_output(name)
            if described is None:
                raise InvalidResult(
                    f"model {self.model!r} answered without the output {name!r}", model=self.model
                )
            if layout is not None and region is not None and name in layout.outputs:
                dtype, shape = triton_to_np_dtype(described.datatype), tuple(described.shape)
                tensors[name] = region.read(dtype, shape, layout.outputs[name][0])
            else:
                tensors[name] = result.as_numpy(name).copy()
        return tensors


def _output(name: str, layout: Layout | None, region: Region | None) -> triton_grpc.InferRequestedOutput:
    requested = triton_grpc.InferRequestedOutput(name)
    if layout is not None and region is not None and name in layout.outputs:
        offset, size = layout.outputs[name]
        requested.set_shared_memory(region.name, size, offset)
    return requested


def status_of(error: InferenceServerException) -> str:
    """The gRPC status code by its name, "UNAVAILABLE"; "" where the error did not come over gRPC."""
    return str(error.status() or "").removeprefix("StatusCode.")


def first_line(text: str) -> str:
    """Without the traceback that the Python backend adds; that is in the server's log."""
    return text.strip().partition("\n")[0].strip()


def translated(
    error: InferenceServerException, model: str, url: str, late: DeadlineExceeded
) -> IsocenterError:
    """What a Triton error means to a caller."""
    said = first_line(error.message() or "no reason given").removeprefix("[request id: <id_unknown>] ")
    status = status_of(error)
    if status == "DEADLINE_EXCEEDED" or (status == "UNAVAILABLE" and "timeout expired" in said):
        return late  # the second: in the server's queue
    if status in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE"):
        return InputError(f"model {model!r} refuses this input: {said}", model=model)
    if "should be at least" in said:
        return InputError(f"model {model!r}: the bound given for an output is too small: {said}", model=model)
    if status != "UNAVAILABLE" and any(words in said.lower() for words in _OUT_OF_MEMORY):
        return OutOfMemory(
            f"model {model!r} on Triton at {url} had not enough memory: {said}; let less run there at the same "
            "time, or give it more",
            model=model,
        )
    if "Stub process" in said and "is not healthy" in said:
        return ModelCrashed(
            f"the process of model {model!r} on Triton at {url} has ended ({said}); it must be loaded again",
            model=model,
        )
    return InferenceUnavailable(_why_unavailable(status, said, model, url), model=model)


def _why_unavailable(status: str, said: str, model: str, url: str) -> str:
    if "unknown model" in said.lower():
        return (
            f"Triton at {url} has no model {model!r} loaded ({said}); put it into the server's model repository "
            "and load it (--load-model)"
        )
    if "polling is enabled" in said:
        return f"Triton at {url} chooses for itself what it loads ({said})"
    if status == "UNAVAILABLE":
        return f"Triton does not answer at {url} ({said}); start it, or correct triton.url"
    return f"model {model!r} on Triton at {url} failed: {said}"
