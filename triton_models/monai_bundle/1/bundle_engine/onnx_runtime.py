"""A network as an ONNX file, for windows of one size, and ONNX Runtime that computes it."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import torch

from bundle_engine.requirement import NotHere, module

__all__ = ["INPUT", "OUTPUT", "OnnxSession", "export", "quantise"]

INPUT, OUTPUT = "windows", "scores"
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class _Float32(torch.nn.Module):
    """Gives its scores in float32, whatever precision they were computed with."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.network(windows)
        return scores.float()


def export(
    network: torch.nn.Module,
    window: tuple[int, ...],
    batch: int,
    *,
    device: torch.device,
    precision: AbstractContextManager[object],
    file: Path,
) -> None:
    """Write the network for batches of so many windows (channels, X, Y, Z), with the casts that `precision` makes.

    By tracing: it takes TorchScript too, needs no further package, and what it does not see, as a branch on the values,
    shows in the agreement. Raises NotHere without the package onnx, and whatever torch raises of this network.
    """
    module("onnx")
    example = torch.zeros((batch, *window), device=device)
    with warnings.catch_warnings(), torch.no_grad(), precision:
        warnings.simplefilter("ignore")  # of tracing, and of what torch means to drop
        torch.onnx.export(
            _Float32(network).eval(),
            (example,),
            str(file),
            dynamo=False,
            input_names=[INPUT],
            output_names=[OUTPUT],
        )


def quantise(file: Path, to: Path) -> None:
    """Its convolutions in 8 bits, each layer's values scaled by what they are at the time: nothing is calibrated.

    Weights without a sign: with one, processors without VNNI add up two products in 16 bits and cut off what is more.
    Raises NotHere without the package onnx.
    """
    module("onnx")
    quantization = module("onnxruntime.quantization")
    quantization.quantize_dynamic(str(file), str(to), weight_type=quantization.QuantType.QUInt8)


class OnnxSession:
    """Computes the windows that the file was exported for. Raises NotHere, RuntimeError for what fails later."""

    def __init__(self, file: Path, device: torch.device) -> None:
        runtime = module("onnxruntime")
        provider = _PROVIDERS[device.type]
        if provider not in runtime.get_available_providers():
            raise NotHere(f"this onnxruntime has no {provider}; install onnxruntime-gpu in its place")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        given = {"device_id": device.index or 0} if device.type == "cuda" else {}
        self._session = runtime.InferenceSession(str(file), options, providers=[(provider, given)])
        if self._session.get_providers()[0] != provider:  # it goes on without, and says so in its log only
            raise NotHere(f"onnxruntime can not start its {provider}")
        self._shape = tuple(self._session.get_outputs()[0].shape)

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        found = torch.empty(self._shape, dtype=torch.float32, device=windows.device)
        binding = self._session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, INPUT, windows),
            (binding.bind_output, OUTPUT, found),
        ):
            device = tensor.device
            bind(name, device.type, device.index or 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
        if windows.device.type == "cuda":
            torch.cuda.current_stream(windows.device).synchronize()  # ONNX Runtime has a stream of its own
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # its errors have no base of their own
            raise RuntimeError(f"ONNX Runtime: {error}") from error
        binding.synchronize_outputs()
        return found
