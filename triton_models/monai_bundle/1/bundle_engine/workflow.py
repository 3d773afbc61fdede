"""The parts of a bundle that a run needs, made by MONAI itself out of the bundle's configuration.

Only the parts that the plan names are made, and whatever they refer to: no data loader, no evaluator, no handler, and
nothing that reads or writes files. The bundle's own code runs here, in the model's process, and nowhere else.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.bundle import ConfigParser
from monai.inferers import Inferer, SimpleInferer
from monai.transforms import Compose

from bundle_engine.backbone import without_torchvision
from bundle_engine.plan import Plan

__all__ = ["BundleError", "Workflow", "autocast_of", "workflow_of"]

# What networks and transforms took once and MONAI no longer has, because it changed nothing.
_RETIRED = {"SwinUNETR": ("img_size",), "EnsureChannelFirstd": ("meta_keys", "meta_key_postfix")}


class BundleError(ValueError):
    """The bundle can not be run as it is; says which part of it, and why."""


@dataclass(frozen=True)
class Workflow:
    """`network` is on `device`, in evaluation mode. `bundle` is the folder that all of it is of. `detector`: of bundles
    that give boxes; the inferer uses it."""

    bundle: Path
    plan: Plan
    device: torch.device
    preprocessing: Compose
    network: torch.nn.Module
    inferer: Inferer
    postprocessing: Compose
    detector: RetinaNetDetector | None = None
    precision: torch.dtype | None = None  # of a variant: less than the bundle asks for


def autocast_of(workflow: Workflow, *, cached: bool = True) -> AbstractContextManager[object]:
    """As the evaluator has it: `amp` is for CUDA only. A variant asks for its own.

    cached: a weight is cast once, and kept until the context ends.
    """
    device = workflow.device.type
    if workflow.precision is not None:
        return torch.autocast(device, dtype=workflow.precision, cache_enabled=cached)
    if workflow.plan.amp and device == "cuda":
        return torch.autocast(device, cache_enabled=cached)
    return nullcontext()


def workflow_of(bundle: Path, plan: Plan, device: torch.device) -> Workflow:
    """The bundle's parts on this device. Raises BundleError."""
    if plan.own_code and str(bundle) not in sys.path:
        sys.path.append(
            str(bundle)
        )  # behind all else: a file of the bundle stands for no module that is installed
    parser = _parser(bundle, plan, device)
    detector = _detector(parser) if plan.output == "boxes" else None
    inferer = _made(parser, "inferer") if "inferer" in plan.configuration else SimpleInferer()
    if not isinstance(inferer, Inferer):
        raise BundleError(f"the inferer is a {type(inferer).__name__}, which is none")
    network = _network(parser, bundle, plan, device)
    if detector is not None:
        detector.network = network  # the one with weights, should the bundle's own inferer not set it
        detector.eval()
    return Workflow(
        bundle=bundle,
        plan=plan,
        device=device,
        preprocessing=_transforms(parser, "preprocessing"),
        network=network,
        inferer=inferer,
        postprocessing=_transforms(parser, "postprocessing"),
        detector=detector,
    )


def _detector(parser: ConfigParser) -> RetinaNetDetector:
    """With all that is set on it: before the inferer is made, which may look at that."""
    without_torchvision()
    detector = _made(parser, "detector")
    if not isinstance(detector, RetinaNetDetector):
        raise BundleError(f"the detector is a {type(detector).__name__}, not a RetinaNetDetector")
    _made(parser, "detector_ops")
    return detector


def _parser(bundle: Path, plan: Plan, device: torch.device) -> ConfigParser:
    parser = ConfigParser(_current(dict(plan.configuration)))
    parser["bundle_root"] = str(bundle)
    parser["device"] = f"$torch.device('{device}')"
    return parser


def _current(content: Any) -> Any:
    """The configuration as this version of MONAI takes it."""
    if isinstance(content, dict):
        retired = _RETIRED.get(str(content.get("_target_", "")).rpartition(".")[2], ())
        return {key: _current(value) for key, value in content.items() if key not in retired}
    return [_current(each) for each in content] if isinstance(content, list) else content


def _transforms(parser: ConfigParser, part: str) -> Compose:
    made = _made(parser, part)
    if not isinstance(made, Compose):
        raise BundleError(f"{part} is a {type(made).__name__}, not a Compose")
    return made


def _made(parser: ConfigParser, part: str) -> Any:
    try:
        return parser.get_parsed_content(part)
    except Exception as error:  # the bundle's own words can raise anything
        raise BundleError(f"{part} can not be made: {type(error).__name__}: {_first_line(error)}") from error


def _network(parser: ConfigParser, bundle: Path, plan: Plan, device: torch.device) -> torch.nn.Module:
    if plan.weights.endswith(".ts"):
        network: Any = _script(bundle / plan.weights, device)
    else:
        network = _made(parser, "network")
        if not isinstance(network, torch.nn.Module):
            raise BundleError(f"the network is a {type(network).__name__}, which is none")
        _load(network, bundle / plan.weights, plan.weights_key)
    return network.to(device).eval().requires_grad_(False)  # type: ignore[no-any-return]


def _script(file: Path, device: torch.device) -> torch.nn.Module:
    try:
        script: torch.nn.Module = torch.jit.load(str(file), map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, OSError, ValueError) as error:
        raise BundleError(
            f"{file.name} is no TorchScript that can be loaded: {_first_line(error)}"
        ) from error
    return script


def _load(network: torch.nn.Module, file: Path, key: str) -> None:
    """A state dict, or a checkpoint with one under its key. Nothing else is unpickled."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BundleError(f"{file.name} can not be read as weights: {_first_line(error)}") from error
    if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
        content = content[key]
    try:
        network.load_state_dict(content)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise BundleError(f"{file.name} holds no weights of this network: {_first_line(error, 3)}") from error


def _first_line(error: BaseException, lines: int = 1) -> str:
    return " ".join(line.strip() for line in str(error).strip().splitlines()[:lines])
