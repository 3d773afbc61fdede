"""`make demo ONCE=1`, as far as make has no part in it: twice with the same study, and where an application fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from isocenter_operators.testing import thorax_phantom, write_series

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.e2e


def _isocenter(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "isocenter.cli", *arguments],
        cwd=folder,
        env={**os.environ, "ISOCENTER_DATA_DIR": str(folder / "data")},
        capture_output=True,
        text=True,
        timeout=240,
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
    assert "Trachea and bronchus" in first.stdout
    assert "nothing was computed again" not in first.stdout
    assert "http" not in first.stdout  # it stops: there is nothing to look at any more
    archived = _archived(tmp_path)
    assert archived == 75 + 2 * 4  # of each application SEG, SR and two pictures

    second = _isocenter(tmp_path, "demo", "--study", "study", "--once")
    assert second.returncode == 0, second.stderr
    assert "nothing was computed again" in second.stdout
    assert _archived(tmp_path) == archived
    jobs = json.loads(_isocenter(tmp_path, "jobs", "--json").stdout)["jobs"]
    assert {job["application"] for job in jobs} == {"ct_lung_density", "thorax_organs"}
    assert [(job["state"], job["attempts"], len(job["results"])) for job in jobs] == [("done", 1, 4)] * 2


def test_where_one_application_fails_the_demo_has_failed(tmp_path: Path) -> None:
    """The results of the other one are there and shown; but one that should be there is not."""
    apps = tmp_path / "apps"
    (apps / "thorax_organs").mkdir(parents=True)
    (apps / "ct_lung_density").symlink_to(ROOT / "apps" / "ct_lung_density")
    (apps / "thorax_organs" / "app.yaml").write_text("application: {title: T, version: '1'}")
    (apps / "thorax_organs" / "app.py").write_text("def application(task):\n    return 1 / 0\n")
    (tmp_path / "isocenter.yaml").write_text("apps_dir: apps")
    slices: dict[str, Any] = {"size": (160, 160, 75), "spacing_mm": (2.24, 2.24, 4.0)}
    write_series(thorax_phantom(**slices), tmp_path / "study")
    ended = _isocenter(tmp_path, "demo", "--study", "study", "--once")
    assert ended.returncode == 1, ended.stderr
    assert "Both lungs" in ended.stdout
    assert "failed: " in ended.stdout
    assert _archived(tmp_path) >= 75 + 4


@pytest.mark.parametrize(
    ("study", "code", "told"), [("nowhere", 2, "'nowhere' does not exist"), ("empty", 1, "empty is empty")]
)
def test_without_a_study_nothing_is_started(tmp_path: Path, study: str, code: int, told: str) -> None:
    (tmp_path / "empty").mkdir()
    ended = _isocenter(tmp_path, "demo", "--study", study, "--once")
    assert ended.returncode == code
    assert told in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists()
