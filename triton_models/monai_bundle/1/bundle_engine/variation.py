"""A variant made ready: what it needs is exported once, while it is measured, and loaded whenever the model is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from monai.inferers import SlidingWindowInferer

from bundle_engine.cuda_graph import CudaGraph
from bundle_engine.fixed_windows import Computation, FixedWindows
from bundle_engine.onnx_runtime import OnnxSession, export, quantise
from bundle_engine.requirement import NotHere, cuda_only, device_name, module, version_of
from bundle_engine.tensor_rt import TensorRtEngine, build_engine
from bundle_engine.variant import ENGINE, ONNX, Variant
from bundle_engine.workflow import Workflow, autocast_of

__all__ = ["as_varied", "loaded", "prepared", "within_budget"]

_PRECISIONS = {"": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def prepared(workflow: Workflow, variant: Variant, window: tuple[int, ...], place: Path) -> Variant:
    """The variant for windows (channels, X, Y, Z) of this network, here; what it is loaded from is written to `place`.

    window: () where they have no size of their own. Raises NotHere, and whatever is raised on the way.
    """
    if variant.runtime != "torch":
        if variant.runtime in ("cuda_graph", "tensorrt"):
            cuda_only(workflow.device)
        if variant.runtime != "cuda_graph":
            module(variant.runtime)  # before an export that may take a minute
        if not window:
            raise NotHere("is made for windows of one size, and this network's follow the volume's")
        variant = replace(variant, window=window, batch=_batch(workflow))
    if variant.runtime in ("onnxruntime", "tensorrt"):
        _export(workflow, variant, place)
    return replace(variant, measured_with=_measured_with(workflow, variant))


def as_varied(workflow: Workflow, variant: Variant, folder: Path) -> Workflow:
    """The workflow with its network computed so, by what lies in the folder. Its own weights stay as they are.

    Raises NotHere where something that it needs is missing.
    """
    network: torch.nn.Module = workflow.network
    if variant.channels_last:
        network = _ChannelsLast(network)
    if variant.compiled:
        network = torch.compile(network)  # type: ignore[assignment]
    if variant.runtime != "torch":
        compute = _computation(workflow, variant, folder)
        network = FixedWindows(network, variant.window, variant.batch, compute)
    precision = _PRECISIONS[variant.precision] or workflow.precision
    return replace(workflow, network=network, precision=precision)


def loaded(workflow: Workflow, variant: Variant, folder: Path, budget_mb: int = 0) -> Workflow:
    """As `as_varied`, of a variant that was kept: only under what it was measured with.

    budget_mb: of GPU memory; 0 is no limit. Raises NotHere, saying what to do: to compute the network as it is in its
    stead would give other results under the same hash.
    """
    undo = "measure again with `isocenter models optimise`, or `isocenter models promote` another version"
    try:
        within_budget(workflow, variant, budget_mb)
        here = _measured_with(workflow, variant) if variant.measured_with else {}
        for name, measured in variant.measured_with.items():
            if here[name] != measured:
                raise NotHere(f"was measured with {name} {measured}, and here is {here[name]}")
        return as_varied(workflow, variant, folder)
    except NotHere as error:
        raise NotHere(f"the variant {variant.name!r} of variant.json: {error}; {undo}") from error


def within_budget(workflow: Workflow, variant: Variant, budget_mb: int) -> None:
    """Raises NotHere for what takes its memory of a GPU beside torch, which keeps to the budget."""
    if budget_mb and workflow.device.type == "cuda" and variant.runtime in ("onnxruntime", "tensorrt"):
        raise NotHere(f"{variant.runtime} keeps to no gpu_memory_mb, which is {budget_mb}")


def _measured_with(workflow: Workflow, variant: Variant) -> dict[str, str]:
    found = {
        "device": device_name(workflow.device),
        "torch": str(torch.__version__),
        "network": _digest(workflow),
    }
    if variant.runtime in ("onnxruntime", "tensorrt"):
        found[variant.runtime] = version_of(variant.runtime)
    return found


def _digest(workflow: Workflow) -> str:
    """Of plan and weights: whoever replaces these would go on with the old ones, which an exported file holds."""
    digest = hashlib.sha256(json.dumps(asdict(workflow.plan), sort_keys=True).encode())
    with (workflow.bundle / workflow.plan.weights).open("rb") as weights:
        while chunk := weights.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:12]


def _batch(workflow: Workflow) -> int:
    """Windows at a time: as many as the bundle says on a GPU; on a CPU nothing is gained by more than one."""
    inferer = workflow.inferer
    filled = workflow.device.type == "cuda" and isinstance(inferer, SlidingWindowInferer)
    return int(inferer.sw_batch_size) if filled else 1


def _export(workflow: Workflow, variant: Variant, place: Path) -> None:
    precise = replace(workflow, precision=_PRECISIONS[variant.precision] or workflow.precision)
    casts = autocast_of(precise, cached=False)  # a cast weight would be traced once, and then be a constant
    exported = place / "exported.onnx"
    export(
        workflow.network,
        variant.window,
        variant.batch,
        device=workflow.device,
        precision=casts,
        file=exported,
    )
    if variant.runtime == "tensorrt":
        build_engine(exported, place / ENGINE)
    elif variant.int8:
        quantise(exported, place / ONNX)
    else:
        exported.rename(place / ONNX)


def _computation(workflow: Workflow, variant: Variant, folder: Path) -> Computation:
    if variant.runtime == "onnxruntime":
        return OnnxSession(_there(folder / ONNX), workflow.device)
    cuda_only(workflow.device)
    if variant.runtime == "tensorrt":
        return TensorRtEngine(_there(folder / ENGINE), workflow.device)
    return CudaGraph(workflow.network)


def _there(file: Path) -> Path:
    if not file.is_file():
        raise NotHere(f"{file.name} is missing")
    return file


class _ChannelsLast(torch.nn.Module):
    """Gives the network its windows with the channels next to one another, where they are volumes."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        if windows.ndim == 5:
            windows = windows.contiguous(memory_format=torch.channels_last_3d)
        elif windows.ndim == 4:
            windows = windows.contiguous(memory_format=torch.channels_last)
        answer: torch.Tensor = self.network(windows)
        return answer
