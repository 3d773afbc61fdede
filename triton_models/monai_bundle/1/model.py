"""A MONAI bundle on Triton: the glue. What runs it is in bundle_engine/, the bundle itself in bundle/.

Tensors cross by DLPack only: with NumPy 2 in the backend's interpreter, conversions to and from NumPy give empty
tensors without an error.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).parent))
from bundle_engine import (
    BundleError,
    InvalidAffine,
    analyse_as_it_fits,
    device_of,
    limit_memory,
    loaded,
    read_plan,
    read_variant,
    warm_up,
    workflow_of,
)

_HERE = Path(__file__).parent


class TritonPythonModel:
    """Answers one request at a time; a request that fails does not end the server."""

    def initialize(self, args: dict[str, str]) -> None:
        self._name = args["model_name"]
        parameters = json.loads(args["model_config"]).get("parameters", {})
        device = _device(args, parameters.get("device", {}).get("string_value", "auto"))
        try:
            budget_mb = int(parameters.get("gpu_memory_mb", {}).get("string_value", "0"))
            limit_memory(device, budget_mb)
            workflow = workflow_of(_HERE / "bundle", read_plan(_HERE / "plan.json"), device)
            self._workflow = loaded(workflow, read_variant(_HERE), _HERE, budget_mb)
        except ValueError as error:
            raise pb_utils.TritonModelException(f"{self._name}: {error}") from error
        # On a CPU the first call costs what the next does, and this would cost as much as one.
        if device.type == "cuda" and parameters.get("warm_up", {}).get("string_value", "true") == "true":
            self._warm_up()

    def _warm_up(self) -> None:
        begun = time.monotonic()
        try:
            warm_up(self._workflow)
            told = f"warm after {time.monotonic() - begun:.2f} s, on {self._workflow.device}"
        except Exception as error:  # noqa: BLE001 - told: real volumes may fare better, and are told about themselves
            told = f"could not be warmed up: {type(error).__name__}: {error}"
        pb_utils.Logger.log_info(f"{self._name}: {told}")

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        try:
            volume, affine = (_tensor(request, name) for name in ("volume", "affine"))
            if not volume.numel():
                raise ValueError(f"the volume is empty: {list(volume.shape)}")
            answer = analyse_as_it_fits(self._workflow, volume, affine)
            return pb_utils.InferenceResponse(_outputs(self._workflow.plan.output, answer))
        except (InvalidAffine, BundleError) as error:
            return _failure(f"invalid input: {error}", pb_utils.TritonError.INVALID_ARG)
        except Exception as error:  # noqa: BLE001 - the client is told, and the next request is served
            pb_utils.Logger.log_error(f"{self._name}: {type(error).__name__}: {error}")
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


def _outputs(output: str, answer: Any) -> list[Any]:
    findings = bytearray(json.dumps({"notes": list(answer.notes)}).encode())
    tensors = {
        output: answer.values.cpu(),
        **{name: tensor.cpu() for name, tensor in answer.further.items()},
        "findings": torch.frombuffer(findings, dtype=torch.uint8),
    }
    return [pb_utils.Tensor.from_dlpack(name, tensor.contiguous()) for name, tensor in tensors.items()]


def _failure(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
