"""Holoscan starts on a machine without CUDA: its runtime comes from the environment, not from the system."""

from __future__ import annotations

import subprocess
import sys
import sysconfig


def test_the_cuda_runtime_of_the_environment_is_loaded_before_holoscan_asks_for_one() -> None:
    script = "import isocenter_operators; print(open('/proc/self/maps').read())"
    maps = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    loaded = {line.split()[-1] for line in maps.splitlines() if "libcudart.so.13" in line}

    assert loaded == {f"{sysconfig.get_path('purelib')}/nvidia/cu13/lib/libcudart.so.13"}
