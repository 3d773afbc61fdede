"""What a bundle's configuration may name to be made: MONAI's own transforms, networks and inferers, and torch's layers.

Names are looked up as MONAI does, in MONAI and torch alone: nothing of the bundle is imported for it.
"""

from __future__ import annotations

import importlib
import warnings
from functools import cache
from typing import Any

__all__ = ["DETECTOR_INFERER", "is_known"]

_PACKAGES = ("monai.", "torch.nn.")
DETECTOR_INFERER = (
    "bundle_engine.detector.DetectorInferer"  # our own, in the place of what some bundles bring
)


@cache
def is_known(target: str) -> bool:
    """Whether this name, the value of a `_target_`, can be made and do nothing else: a class of one of these kinds."""
    if target == DETECTOR_INFERER:
        return True
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # what MONAI and Holoscan say when they are imported is of no use here
        return any(_is_harmless(found) for found in _named(target))


def _named(target: str) -> list[Any]:
    """What MONAI would make of this name: of several things with one name it takes the first."""
    module, _, name = target.rpartition(".")
    if not name.isidentifier():
        return []
    if module:
        return [_of(module, name)] if f"{module}.".startswith(_PACKAGES) else []
    from monai.bundle.config_item import ComponentLocator

    modules = ComponentLocator().get_component_module_name(name)
    if not modules:
        return []
    return [_of(modules if isinstance(modules, str) else modules[0], name)]


def _of(module: str, name: str) -> Any:
    """The attribute of a module that is one; what is reached through another attribute is none."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def _is_harmless(found: Any) -> bool:
    from monai.inferers import Inferer
    from monai.transforms import Transform
    from torch.nn import Module

    return (
        isinstance(found, type)
        and issubclass(found, (Inferer, Transform, Module))
        and f"{found.__module__}.".startswith(_PACKAGES)
    )
