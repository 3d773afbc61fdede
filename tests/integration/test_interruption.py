"""Ctrl-C while `isocenter run` is at work: it ends at once and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from isocenter_operators.inference.shared_memory import SHARED_MEMORY
from isocenter_operators.testing import thorax_phantom, write_series


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    write_series(thorax_phantom(), tmp_path / "in")
    argv = [sys.executable, "-m", "isocenter.cli", "run", "ct_lung_density"]
    with subprocess.Popen(
        [*argv, str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--json"],
        env={**os.environ, "ISOCENTER_DATA_DIR": str(tmp_path / "data")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        _wait_for_the_graph(process)
        assert _takers(process.pid) <= {process.pid}
        server = psutil.Process(process.pid).children(recursive=True)
        told = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert time.monotonic() - told < 5
    assert process.returncode == 130, err
    assert err.endswith("interrupted\n")
    assert '"reason": "interrupted"' in out
    assert len(server) > 1
    assert not [each for each in server if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    named = {str(pid) for pid in (process.pid, *(each.pid for each in server))}
    assert not [path for path in SHARED_MEMORY.glob("isocenter.*") if path.name.split(".")[2] in named]
    assert not list((tmp_path / "out").iterdir())


def _takers(pid: int) -> set[int]:
    """The threads that would take a signal, instead of the one that asks for it."""
    stop = sum(1 << number - 1 for number in (signal.SIGINT, signal.SIGTERM))
    found = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        (blocked,) = re.findall(r"^SigBlk:\s*(\w+)", (thread / "status").read_text(), re.MULTILINE)
        if int(blocked, 16) & stop != stop:
            found.add(int(thread.name))
    return found


def _wait_for_the_graph(process: subprocess.Popen[str]) -> None:
    """Until the volume is on its way to the model: Holoscan runs then."""
    give_up = time.monotonic() + 180
    while not list(SHARED_MEMORY.glob(f"isocenter.tensors.{process.pid}.*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.02)
