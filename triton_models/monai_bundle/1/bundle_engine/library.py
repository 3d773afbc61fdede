"""MONAI, imported without what it brings along and no bundle is run by.

Its `__init__` imports every module of its package: MONAI Deploy's too, which lies in it, with Holoscan and dictionaries
of DICOM. And it imports Ignite where that is installed, with PyTorch's distributed training, for evaluators of its own:
together a third of the time that a model takes to start, and of the memory that each of its processes keeps.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["import_monai"]

_SDK, _IGNITE = "monai.deploy", "ignite"


def import_monai(version: Path) -> None:
    """Import it for the model whose version lies in this folder: before anything else of it is imported.

    Ignite stays away where the plan says that the bundle has no code of its own, which could want MONAI's evaluators.
    What was left out can be imported afterwards, as ever.
    """
    modules: dict[str, Any] = sys.modules
    if "monai" in modules:
        return
    wanted = [_SDK] if _has_own_code(version / "plan.json") else [_SDK, _IGNITE]
    left_out = [name for name in wanted if name not in modules]
    modules.update(dict.fromkeys(left_out))  # as if it were not installed
    try:
        import_module("monai.bundle")
    finally:
        for name in left_out:
            del modules[name]


def _has_own_code(file: Path) -> bool:
    """Whether it may have: also where there is no plan, because something else than a model imports the engine."""
    try:
        plan = json.loads(file.read_text())
    except (OSError, ValueError):  # said by who needs it
        return True
    return not isinstance(plan, dict) or plan.get("own_code") is not False
