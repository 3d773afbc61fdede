"""Other ways of computing the same network: which is the fastest differs from machine to machine, so each is measured.

Only what was measured on this machine, and agreed, is switched on: `variant.json` beside the plan says which.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from bundle_engine.workflow import Workflow

__all__ = ["AS_IT_IS", "Variant", "as_json", "as_varied", "read_variant", "variants_for"]

_PRECISIONS = {"": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Variant:
    """`channels_last`: how a window lies in memory. `precision`: of what torch's autocast computes with less.

    `compiled`: by torch.compile, which needs a compiler.
    """

    name: str
    channels_last: bool = False
    precision: Literal["", "bfloat16", "float16"] = ""
    compiled: bool = False


AS_IT_IS = Variant("as it is")


def variants_for(device: torch.device) -> tuple[Variant, ...]:
    """What may be worth a try there, the network as it is first."""
    less: Literal["bfloat16", "float16"] = "float16" if device.type == "cuda" else "bfloat16"
    return (
        AS_IT_IS,
        Variant("channels last", channels_last=True),
        Variant(less, precision=less),
        Variant(f"{less}, channels last", channels_last=True, precision=less),
        Variant("compiled", compiled=True),
        Variant(f"compiled, {less}", precision=less, compiled=True),
    )


def as_varied(workflow: Workflow, variant: Variant) -> Workflow:
    """The workflow with its network computed so. The network's own weights stay as they are."""
    network: torch.nn.Module = workflow.network
    if variant.channels_last:
        network = _ChannelsLast(network)
    if variant.compiled:
        network = torch.compile(network)  # type: ignore[assignment]
    precision = _PRECISIONS[variant.precision] or workflow.precision
    return replace(workflow, network=network, precision=precision)


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


def read_variant(folder: Path) -> Variant:
    """The variant that a model's version folder names; the network as it is where it names none. Raises ValueError."""
    file = folder / "variant.json"
    if not file.exists():
        return AS_IT_IS
    content = json.loads(file.read_text())
    said: Mapping[str, Any] = content.get("variant", {}) if isinstance(content, dict) else {}
    known = {each.name for each in fields(Variant)}
    if set(said) != known or said["precision"] not in _PRECISIONS:
        raise ValueError(
            f"{file}: this is no variant; `isocenter models optimise` writes one, or delete the file"
        )
    return Variant(**said)


def as_json(variant: Variant) -> dict[str, Any]:
    """What `read_variant` reads."""
    return asdict(variant)
