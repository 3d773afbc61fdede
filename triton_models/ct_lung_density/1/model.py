"""Density of the lungs in a CT volume: the glue to Triton. What it computes is in lung_density/.

Tensors cross by DLPack only: with NumPy 2 in the backend's interpreter, conversions to and from NumPy give empty
tensors without an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).parent))
from lung_density import Analysis, InvalidAffine, analyse, device_of


class TritonPythonModel:
    """Answers one request at a time; a request that fails does not end the server."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"]).get("parameters", {})
        # The work is many short passes over memory. A second thread gains a tenth, and when something else has its
        # core, every pass waits for it: measured 4 to 13 s instead of 0.9 s.
        torch.set_num_threads(1)
        self._device = _device(args, parameters.get("device", {}).get("string_value", "auto"))

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            volume, affine = (_tensor(request, name) for name in ("volume", "affine"))
            if not volume.numel():
                raise ValueError(f"the volume is empty: {list(volume.shape)}")
            analysis = analyse(volume.to(self._device), affine.cpu().numpy())
            return pb_utils.InferenceResponse(_outputs(analysis))
        except ValueError as error:
            kind = "affine" if isinstance(error, InvalidAffine) else "input"
            return _failure(f"invalid {kind}: {error}", pb_utils.TritonError.INVALID_ARG)
        except Exception as error:  # noqa: BLE001 - the client is told, and the next request is served
            pb_utils.Logger.log_error(f"ct_lung_density: {type(error).__name__}: {error}")
            return _failure(f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)


def _device(args: dict[str, str], wanted: str) -> torch.device:
    """Its own, where instances lie on several GPUs: Triton tells each which."""
    kind, number = args["model_instance_kind"], args["model_instance_device_id"]
    try:
        device = torch.device(device_of(wanted, kind, number, available=torch.cuda.device_count()))
    except ValueError as error:
        raise pb_utils.TritonModelException(f"{args['model_name']}: {error}") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)  # also for what names no number
    return device


def _tensor(request: Any, name: str) -> torch.Tensor:
    tensor: torch.Tensor = torch.from_dlpack(pb_utils.get_input_tensor_by_name(request, name).to_dlpack())
    return tensor


def _outputs(analysis: Analysis) -> list[Any]:
    findings = {"applicable": analysis.applicable, "reason": analysis.reason, "notes": list(analysis.notes)}
    tensors = {
        "labels": analysis.labels.cpu(),
        "measurements": torch.tensor(analysis.measurements, dtype=torch.float64),
        "findings": torch.frombuffer(bytearray(json.dumps(findings).encode()), dtype=torch.uint8),
    }
    return [pb_utils.Tensor.from_dlpack(name, tensor.contiguous()) for name, tensor in tensors.items()]


def _failure(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
