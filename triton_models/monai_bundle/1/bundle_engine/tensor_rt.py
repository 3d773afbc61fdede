"""TensorRT: an engine for windows of one size, made of the network's ONNX file for the GPU that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bundle_engine.onnx_runtime import INPUT, OUTPUT
from bundle_engine.requirement import NotHere, module

__all__ = ["TensorRtEngine", "build_engine"]


def build_engine(onnx_file: Path, file: Path) -> None:
    """Takes minutes. Each layer has the precision that the ONNX file gives it.

    Raises NotHere without TensorRT, and where it does not know a layer of this network.
    """
    trt = module("tensorrt")
    builder = trt.Builder(_logger(trt))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, _logger(trt))
    if not parser.parse(onnx_file.read_bytes()):
        raise NotHere(f"TensorRT does not take this network: {parser.get_error(0).desc()}")
    engine = builder.build_serialized_network(network, builder.create_builder_config())
    if engine is None:
        raise NotHere("TensorRT finds no way to compute this network here")
    file.write_bytes(bytes(engine))


class TensorRtEngine:
    """Computes the windows that the engine was built for.

    Raises NotHere where the file is of another TensorRT or GPU, RuntimeError where a computation fails.
    """

    def __init__(self, file: Path, device: torch.device) -> None:
        trt = module("tensorrt")
        with torch.cuda.device(device):
            self._runtime = trt.Runtime(_logger(trt))  # the engine does not keep it alive
            engine = self._runtime.deserialize_cuda_engine(file.read_bytes())
            if engine is None:
                raise NotHere(f"{file.name} is of another TensorRT, or for another GPU")
            self._context = engine.create_execution_context()
        self._shape = tuple(engine.get_tensor_shape(OUTPUT))

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        found = torch.empty(self._shape, dtype=torch.float32, device=windows.device)
        self._context.set_tensor_address(INPUT, windows.data_ptr())
        self._context.set_tensor_address(OUTPUT, found.data_ptr())
        stream = torch.cuda.current_stream(windows.device)
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError("TensorRT could not compute these windows")
        return found


def _logger(trt: Any) -> Any:
    return trt.Logger(trt.Logger.ERROR)
