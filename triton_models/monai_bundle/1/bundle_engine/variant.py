"""Other ways of computing the same network: which is the fastest differs from machine to machine, so each is measured.

Only what was measured on this machine, and agreed, becomes a version of the model: `variant.json` beside its plan says
which variant it is. What that is loaded from lies there too, `variant.onnx` or `variant.engine`, so that it is part of
the version as its weights are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

__all__ = ["AS_IT_IS", "ENGINE", "ONNX", "Variant", "as_json", "read_variant", "variants_for"]

ONNX, ENGINE = "variant.onnx", "variant.engine"

_Precision = Literal["", "bfloat16", "float16"]
_Runtime = Literal["torch", "onnxruntime", "cuda_graph", "tensorrt"]


@dataclass(frozen=True)
class Variant:
    """`channels_last`: how a window lies in memory. `precision`: of what torch's autocast computes with less.

    `compiled`: by torch.compile, which needs a compiler. `runtime`: what computes windows of one size; `int8`: with
    whole numbers of 8 bits. What `prepared` fills in: `window`: their size (channels, X, Y, Z); `batch`: how many at
    a time; `measured_with`: the device, the versions and the network, by name.
    """

    name: str
    channels_last: bool = False
    precision: _Precision = ""
    compiled: bool = False
    runtime: _Runtime = "torch"
    int8: bool = False
    window: tuple[int, ...] = ()
    batch: int = 1
    measured_with: Mapping[str, str] = field(default_factory=dict)


AS_IT_IS = Variant("as it is")


def variants_for(device_type: str) -> tuple[Variant, ...]:
    """What may be worth a try on a "cpu" or on "cuda", the network as it is first."""
    cuda = device_type == "cuda"
    less: _Precision = "float16" if cuda else "bfloat16"
    variants = [
        AS_IT_IS,
        Variant("channels last", channels_last=True),
        Variant(less, precision=less),
        Variant(f"{less}, channels last", channels_last=True, precision=less),
        Variant("compiled", compiled=True),
        Variant(f"compiled, {less}", precision=less, compiled=True),
        Variant("ONNX Runtime", runtime="onnxruntime"),
        # In bfloat16 ONNX Runtime has no convolution on a CPU, and in int8 none on a GPU.
        Variant(f"ONNX Runtime, {less}", precision=less, runtime="onnxruntime")
        if cuda
        else Variant("ONNX Runtime, int8", runtime="onnxruntime", int8=True),
        Variant("CUDA graph", runtime="cuda_graph"),
        Variant("TensorRT", runtime="tensorrt"),
    ]
    if cuda:
        variants.append(Variant(f"CUDA graph, {less}", precision=less, runtime="cuda_graph"))
        variants.append(Variant(f"TensorRT, {less}", precision=less, runtime="tensorrt"))
    return tuple(variants)


def read_variant(folder: Path) -> Variant:
    """The variant that a model's version folder names; the network as it is where it names none. Raises ValueError."""
    file = folder / "variant.json"
    if not file.exists():
        return AS_IT_IS
    content = json.loads(file.read_text())
    said: Mapping[str, Any] = content.get("variant", {}) if isinstance(content, dict) else {}
    known = {each.name for each in fields(Variant)}
    if (
        set(said) != known
        or said["precision"] not in get_args(_Precision)
        or said["runtime"] not in get_args(_Runtime)
    ):
        raise ValueError(
            f"{file}: this is no variant: `isocenter models promote` another version, or let `optimise` add one"
        )
    return Variant(**{**said, "window": tuple(said["window"])})


def as_json(variant: Variant) -> dict[str, Any]:
    """What `read_variant` reads."""
    return asdict(variant)
