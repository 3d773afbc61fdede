"""What a way of computing needs of the machine, and what it says where that is not there."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

__all__ = ["NotHere", "cuda_only", "device_name", "module", "version_of"]


class NotHere(ValueError):
    """This way of computing can not be had on this machine, or for this network; says why."""


def module(name: str) -> Any:
    """Raises NotHere where it is not installed, or can not be loaded."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise NotHere(f"{name} can not be loaded: {error}") from error
        raise NotHere(f"{name} is not installed") from error
    except (ImportError, OSError) as error:  # a library that is missing behind it
        raise NotHere(f"{name} can not be loaded: {error}") from error


def version_of(name: str) -> str:
    """As the module says it, or the package. Raises NotHere where it is not installed."""
    said = getattr(module(name), "__version__", None)
    try:
        return str(said) if said is not None else version(name)
    except PackageNotFoundError as error:
        raise NotHere(f"{name} does not say its version") from error


def device_name(device: torch.device) -> str:
    """The GPU by its name: what is fastest on one, or made for it, need not be so on another. "cpu" is any CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def cuda_only(device: torch.device) -> None:
    """Raises NotHere elsewhere."""
    if device.type != "cuda":
        raise NotHere("needs a CUDA device")
