"""One module of MONAI Deploy's operators, without the others of its package.

`import monai.deploy.operators` imports every operator of the SDK, and with them MONAI and PyTorch, which an application
without a network of its own needs for nothing: in a MAP that is a gigabyte.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["sdk_module"]

_PACKAGE = "monai.deploy.operators"


def sdk_module(name: str) -> ModuleType:
    """The module of this full name below `monai.deploy.operators`; the same that an import of it gives, now or later.

    Raises ImportError where the SDK is not installed, or has no such module.
    """
    there = sys.modules.get(name)
    if there is not None:
        return there
    if _PACKAGE in sys.modules:
        return importlib.import_module(name)
    # Not by an `import` of that name, which would import `monai` to have something to call it by.
    folder = Path(importlib.import_module("monai.deploy.core").__path__[0]).parent / "operators"
    spec = importlib.util.spec_from_file_location(name, folder / f"{name.rpartition('.')[2]}.py")
    if spec is None or spec.loader is None or not Path(spec.origin or "").is_file():
        raise ImportError(f"the installed MONAI Deploy App SDK has no module {name}", name=name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
