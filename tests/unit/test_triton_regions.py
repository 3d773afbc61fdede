"""Shared memory regions: their layout, their owners, their pool. No server is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from isocenter_operators.errors import StorageFull
from isocenter_operators.inference import shared_memory
from isocenter_operators.inference.regions import Layout, RegionPool
from isocenter_operators.inference.shared_memory import Region, abandoned, hold, remove_abandoned, remove_own


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(shared_memory, "SHARED_MEMORY", tmp_path)
    yield tmp_path
    assert not list(tmp_path.iterdir())


def test_the_large_tensors_of_a_request_do_not_overlap() -> None:
    inputs: dict[str, NDArray[Any]] = {"volume": np.zeros((3, 200, 333), np.int16), "affine": np.eye(4)}
    layout = Layout.of(inputs, {"labels": 199801, "measurements": None, "findings": 100})
    assert layout.inputs == {"volume": (0, 399600)}
    (start, size) = layout.outputs["labels"]
    assert (start >= 399600, start % 64, size) == (True, 0, 199801)
    assert layout.size >= start + size
    assert set(layout.outputs) == {"labels"}  # what is small or unknown travels in the message


def test_a_request_of_small_tensors_takes_no_region() -> None:
    assert Layout.of({"affine": np.eye(4)}, {"findings": None}).size == 0


def test_written_voxels_are_what_another_process_reads(folder: Path) -> None:
    volume = np.arange(100_000, dtype=np.int16).reshape(10, 100, 100)[::2].transpose(2, 1, 0)
    inputs = {"volume": volume}
    layout = Layout.of(inputs, {})
    region = Region(layout.size)
    layout.write(region, inputs)
    with (folder / region.name).open("rb") as file:
        assert file.read(volume.nbytes) == volume.tobytes()
    region.remove()


def test_a_region_is_used_again_and_the_longest_idle_goes_first() -> None:
    pool = RegionPool(48 << 20, Region)
    small, large = pool.take(1), pool.take(20 << 20)
    assert (small.size, large.size) == (16 << 20, 32 << 20)
    pool.set_registered(large, True)
    pool.give(large)
    pool.give(small)
    assert pool.take(1) is small  # the smallest that fits
    pool.give(small)
    assert pool.trim() == []
    third = pool.take(40 << 20)
    pool.give(third)
    dropped = pool.trim()
    assert dropped == [large, small]
    assert [pool.is_registered(region) for region in dropped] == [True, False]
    for region in dropped:
        region.remove()
    assert pool.take(30 << 20) is third
    pool.close()
    pool.give(third)  # what comes back after the end goes at once


def test_a_process_removes_its_own_regions_and_not_those_of_its_number_in_another_container(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Region(1)
    other_namespace = folder / "pid"
    other_namespace.touch()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(shared_memory, "_NAMESPACE", other_namespace)
        other = Region(1)
    other_namespace.unlink()
    remove_own()
    assert [each.name for each in folder.iterdir()] == [other.name]
    own.remove()
    other.remove()


def test_a_region_without_an_owner_is_known(folder: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from isocenter_operators.inference import shared_memory\n"
        "shared_memory.SHARED_MEMORY = Path(sys.argv[1])\n"
        "region = shared_memory.Region(1 << 20)\n"
        "print(region.name, flush=True)\n"
        "time.sleep(60)\n"
    )
    arguments = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert f".{process.pid}." in name
        assert not abandoned(folder / name)
        assert not list(remove_abandoned())
        process.kill()
    assert abandoned(folder / name)
    assert list(remove_abandoned()) == [name]


def test_a_lock_outlives_only_its_descriptor(folder: Path) -> None:
    descriptor = hold(folder / "lock")
    assert not abandoned(folder / "lock")
    os.close(descriptor)
    assert abandoned(folder / "lock")
    (folder / "lock").unlink()
    assert abandoned(folder / "lock")


def test_no_room_is_said_before_anything_is_written() -> None:
    with pytest.raises(StorageFull, match="has no room for"):
        Region(1 << 62)
