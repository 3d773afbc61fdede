"""The GPUs of this machine, as a confined package needs them: the devices, and the driver's own libraries."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

__all__ = ["LIBRARY_FOLDER", "devices", "libraries"]

LIBRARY_FOLDER = "/run/nvidia/lib"  # where a confined package finds them

_DEVICES = ("nvidia[0-9]*", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset", "nvidia-caps/*")
_LIBRARIES = ("libcuda.so", "libcudadebugger.so", "libnvidia-", "libnvcuvid.so", "libnvoptix.so")


def devices() -> list[Path]:
    """The device files of NVIDIA's driver; none where there is no GPU."""
    return sorted(path for pattern in _DEVICES for path in Path("/dev").glob(pattern) if not path.is_dir())


def libraries() -> dict[str, Path]:
    """What belongs to the driver and so to this machine, not to an image: by where a package is to find it."""
    ldconfig = shutil.which("ldconfig", path="/usr/sbin:/sbin")
    if ldconfig is None:
        return {}
    told = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False).stdout
    found = {}
    for line in told.splitlines():
        name, _, path = line.strip().partition(" => ")
        soname = name.split(" ")[0]
        if path and "x86-64" in name and soname.startswith(_LIBRARIES):
            found[f"{LIBRARY_FOLDER}/{soname}"] = Path(path).resolve()
    return found
