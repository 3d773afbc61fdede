"""The two small things that MONAI's detectors take from torchvision, for where that is not installed.

`BackboneWithFPN` has torchvision run a backbone up to the last layer whose output it wants, and
`resnet_fpn_feature_extractor` has it count the layers that a training changes, which is nothing to a model that is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from monai.apps.detection.networks import retinanet_network
from monai.networks.blocks import backbone_fpn_utils
from monai.utils import optional_import

__all__ = ["IntermediateLayers", "without_torchvision"]

_ALL_LAYERS = 5


class IntermediateLayers(torch.nn.ModuleDict):
    """A network's children one after the other, and what some of them give: by the names that weights have for them.

    returned: of each wanted child, under which name its output is given. Raises ValueError where there is none such.
    """

    def __init__(self, network: torch.nn.Module, return_layers: Mapping[str, str]) -> None:
        children = list(network.named_children())
        unknown = set(return_layers) - {name for name, _ in children}
        if unknown or not return_layers:
            raise ValueError(f"the backbone has no layers {', '.join(sorted(unknown)) or 'that are wanted'}")
        last = max(place for place, (name, _) in enumerate(children) if name in return_layers)
        super().__init__(dict(children[: last + 1]))
        self._returned = dict(return_layers)

    def forward(self, values: torch.Tensor) -> dict[str, torch.Tensor]:
        found = {}
        for name, layer in self.items():
            values = layer(values)
            if name in self._returned:
                found[self._returned[name]] = values
        return found


def without_torchvision() -> None:
    """Let MONAI make its detectors' backbones: with torchvision where there is one that works, and else without."""
    _, works = optional_import("torchvision.models")
    if works:
        return
    layers = SimpleNamespace(_utils=SimpleNamespace(IntermediateLayerGetter=IntermediateLayers))
    vars(backbone_fpn_utils)["torchvision_models"] = layers
    vars(retinanet_network)["_validate_trainable_layers"] = _trained


def _trained(*_: Any, **__: Any) -> int:
    return _ALL_LAYERS
