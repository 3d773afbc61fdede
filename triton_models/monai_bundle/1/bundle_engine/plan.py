"""What the import has found in a bundle: which parts of its configuration are run, and what comes out of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

__all__ = ["Plan", "read_plan"]


@dataclass(frozen=True)
class Plan:
    """`configuration`: the parts that are run, `network`, `preprocessing`, `postprocessing` and, where the bundle has
    one, `inferer`, with all that they refer to. Nothing else of the bundle's configuration is read: this is what the
    import has looked at.

    `weights`: the state dict's path in the bundle, or the TorchScript file's. `weights_key`: under which name a
    checkpoint may hold the state dict. `image_key`, `output_key`: of the dictionaries that the transforms work on.
    `channels`: how many series the network looks at. `output`: a label map, masks that may overlap, boxes, or what the
    network says of the volume as a whole: classes or values. Of boxes the configuration has two more parts, `detector`
    and `detector_ops`, which sets what the detector works by. `activation`: what makes probabilities of the scores of
    classes. `amp`: mixed precision on a GPU, as the bundle asks for it. `own_code`: whoever imported it has said that
    the bundle's own code may run.
    """

    configuration: Mapping[str, Any]
    weights: str
    weights_key: str
    image_key: str
    output_key: str
    channels: int
    output: Literal["labels", "masks", "boxes", "classes", "values"]
    activation: Literal["", "softmax", "sigmoid"]
    amp: bool
    own_code: bool


def read_plan(file: Path) -> Plan:
    """The plan that the import wrote. Raises ValueError where it is none."""
    content = json.loads(file.read_text())
    known = {each.name for each in fields(Plan)}
    if not isinstance(content, dict) or set(content) != known:
        raise ValueError(f"{file}: this is no plan of a bundle; import the bundle again")
    return Plan(**content)
