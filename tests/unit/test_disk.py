"""Whether the disk has room for more work."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from isocenter.disk import shortage
from isocenter.settings import Settings


def settings(folder: Path, free_disk_mb: int) -> Settings:
    return Settings(data_dir=folder, limits={"free_disk_mb": free_disk_mb})


def test_room_is_what_must_stay_free(tmp_path: Path) -> None:
    assert shortage(settings(tmp_path, 0)) is None
    free_mb = shutil.disk_usage(tmp_path).free // 1_000_000
    short = shortage(settings(tmp_path, free_mb + 100_000))
    assert short is not None
    assert f"limits.free_disk_mb is {free_mb + 100_000}" in short


@pytest.mark.parametrize("folder", ["gone", "gone/deeper"])
def test_a_folder_that_is_not_there_has_no_room(tmp_path: Path, folder: str) -> None:
    short = shortage(settings(tmp_path / folder, 0))
    assert short is not None
    assert short.endswith("can not be used: No such file or directory")
