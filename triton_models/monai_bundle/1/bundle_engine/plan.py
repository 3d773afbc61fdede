"""What the import has found in a bundle: which parts of its configuration are run, and what comes out of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

__all__ = ["Plan", "read_plan"]


@dataclass(frozen=True)
class Plan:
    """Parts are named by their IDs in the bundle's configuration, as `evaluator#network`; "" where there is none.

    `config`: the configuration, by its path in the bundle. `weights`: the state dict's, or the TorchScript file's; ""
    where the network has none. `weights_key`: under which name a checkpoint may hold the state dict.
    `image_key`, `output_key`: of the dictionaries that the transforms work on.
    `output`: a label map, or masks that may overlap.
    `amp`: mixed precision on a GPU, as the bundle asks for it.
    """

    config: str
    network: str
    preprocessing: str
    inferer: str
    postprocessing: str
    weights: str
    weights_key: str
    image_key: str
    output_key: str
    output: Literal["labels", "masks"]
    amp: bool


def read_plan(file: Path) -> Plan:
    """The plan that the import wrote. Raises ValueError where it is none."""
    content = json.loads(file.read_text())
    known = {each.name for each in fields(Plan)}
    if not isinstance(content, dict) or set(content) != known:
        raise ValueError(f"{file}: this is no plan of a bundle; import the bundle again")
    return Plan(**content)
