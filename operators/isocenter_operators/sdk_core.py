"""The core of MONAI Deploy's SDK, without MONAI and PyTorch until somebody asks for them.

`monai.deploy` lies in MONAI's package, whose `__init__` imports every module that MONAI has, and PyTorch with them: two
thirds of the time and of the memory that a worker starts with, where the network runs on Triton.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import ModuleType
from typing import Any

__all__ = ["import_sdk_core"]


def import_sdk_core() -> None:
    """Import `monai.deploy.core`, so that who imports it or what is below it after this imports MONAI for nothing.

    Whoever imports `monai` itself, or any module of it, gets it as always, then: from any thread, as Python's own
    import system does it. To be called where a process begins, before it has threads that import anything: MONAI does
    not bear it that several import its modules for the first time at once. Raises ImportError where the SDK is not
    installed.
    """
    if "monai.deploy.core" in sys.modules:
        return
    spec = None if "monai" in sys.modules else importlib.util.find_spec("monai")
    if spec is None or spec.origin is None:  # it is there already; or MONAI Deploy is there without MONAI
        importlib.import_module("monai.deploy.core")
        return
    bare = ModuleType("monai")
    bare.__path__ = list(spec.submodule_search_locations or ())
    without_torch = "torch" not in sys.modules
    sys.modules["monai"] = bare
    if without_torch:
        sys.modules["torch"] = _Torch(
            "torch"
        )  # two modules of the SDK hold it, and use it for models of its own
    try:
        importlib.import_module("monai.deploy.core")
    finally:
        del sys.modules["monai"]
        if without_torch:
            del sys.modules["torch"]
    sys.meta_path.insert(0, _MonaiFinder(spec.origin, bare))


class _Torch(ModuleType):
    """PyTorch, imported by the first who asks for something of it."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get("torch") is self:
            raise AttributeError(f"torch.{name} was asked for too early")
        return getattr(importlib.import_module("torch"), name)


class _MonaiFinder(MetaPathFinder):
    """Finds MONAI where it is, and sees to it that `monai.deploy`, imported before it, is its attribute too."""

    def __init__(self, origin: str, bare: ModuleType) -> None:
        self._origin, self._bare = origin, bare

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "monai":
            return None
        return importlib.util.spec_from_file_location(
            fullname,
            self._origin,
            loader=_MonaiLoader(fullname, self._origin, self._bare.deploy),
            submodule_search_locations=list(self._bare.__path__),
        )


class _MonaiLoader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, deploy: ModuleType) -> None:
        super().__init__(fullname, path)
        self._deploy = deploy

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["deploy"] = self._deploy
        super().exec_module(module)
