"""`make demo ONCE=1`, as far as make has no part in it: twice with the same study."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from isocenter_operators.testing import thorax_phantom, write_series

pytestmark = pytest.mark.e2e


def _isocenter(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "isocenter.cli", *arguments],
        cwd=folder,
        env={**os.environ, "ISOCENTER_DATA_DIR": str(folder / "data")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _archived(folder: Path) -> int:
    """Instances in the embedded Orthanc's storage."""
    storage = folder / "data" / "orthanc"
    return sum(file.read_bytes()[128:132] == b"DICM" for file in storage.rglob("*") if file.is_file())


def test_the_second_time_nothing_is_double_and_the_user_is_told(tmp_path: Path) -> None:
    slices: dict[str, Any] = {"size": (160, 160, 75), "spacing_mm": (2.24, 2.24, 4.0)}
    write_series(thorax_phantom(**slices), tmp_path / "study")
    first = _isocenter(tmp_path, "demo", "--study", "study", "--once")
    assert first.returncode == 0, first.stderr
    assert "75 images sent to ISOCENTER@" in first.stderr
    assert "Both lungs" in first.stdout
    assert "nothing was computed again" not in first.stdout
    assert "http" not in first.stdout  # it stops: there is nothing to look at any more
    archived = _archived(tmp_path)
    assert archived == 75 + 4

    second = _isocenter(tmp_path, "demo", "--study", "study", "--once")
    assert second.returncode == 0, second.stderr
    assert "nothing was computed again" in second.stdout
    assert _archived(tmp_path) == archived
    (job,) = json.loads(_isocenter(tmp_path, "jobs", "--json").stdout)["jobs"]
    assert (job["state"], job["attempts"], len(job["results"])) == ("done", 1, 4)


@pytest.mark.parametrize("study", ["nowhere", "empty"])
def test_without_a_study_nothing_is_started(tmp_path: Path, study: str) -> None:
    (tmp_path / "empty").mkdir()
    ended = _isocenter(tmp_path, "demo", "--study", study, "--once")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"{study} ")
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists()
