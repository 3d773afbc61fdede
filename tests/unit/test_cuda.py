"""Holoscan starts on a machine without CUDA: its runtime comes from the environment, not from the system."""

from __future__ import annotations

import subprocess
import sys
import sysconfig


def test_holoscan_finds_the_cuda_runtime_of_the_environment() -> None:
    script = "import holoscan.core; print(open('/proc/self/maps').read())"
    maps = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    loaded = {line.split()[-1] for line in maps.splitlines() if "libcudart.so.13" in line}

    assert loaded == {f"{sysconfig.get_path('platlib')}/nvidia/cu13/lib/libcudart.so.13"}
