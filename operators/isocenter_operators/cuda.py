"""The CUDA runtime that Holoscan's libraries are linked to, on a CPU too."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

__all__ = ["load_runtime"]

_LIBRARY = Path("cu13/lib/libcudart.so.13")


def load_runtime() -> None:
    """Load `libcudart.so.13` of the package nvidia-cuda-runtime into this process, if that is installed.

    Holoscan asks for the library by name and does not look into that package; one that is loaded already it takes.
    Without the package nothing happens: a CUDA installed in the system is found by the dynamic loader.
    """
    package = importlib.util.find_spec("nvidia")
    for folder in (package.submodule_search_locations or ()) if package else ():
        if (Path(folder) / _LIBRARY).is_file():
            ctypes.CDLL(str(Path(folder) / _LIBRARY))
            return
