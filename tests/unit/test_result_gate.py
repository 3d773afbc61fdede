"""Results reach a folder all at once or not at all, and a refused one can be looked at."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from result_cases import findings_of, phantom_case, pictures_of, seg_of

from isocenter_operators.errors import ConfigurationError, InvalidResult, StorageFull
from isocenter_operators.result_gate import checked, write_instances


@pytest.fixture(scope="module")
def results() -> list[Dataset]:
    volume, labels = phantom_case(size=(48, 40, 16), spacing_mm=(7.6, 7.6, 18.0))
    return [seg_of(volume, labels), *pictures_of(volume, labels, findings_of(volume, labels))]


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """As on a disk that is full, the system's own refusal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_folder_as_it_was(results: list[Dataset], tmp_path: Path) -> None:
    sizes = [path.stat().st_size for path in write_instances(results, tmp_path)]
    results = [results[index] for index in sorted(range(len(results)), key=sizes.__getitem__)]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {f"{each.SOPInstanceUID}.dcm" for each in results}
    with (
        no_file_larger_than(max(sizes) - 1000),
        pytest.raises(StorageFull, match=f"results could not be written: {os.strerror(errno.EFBIG)}"),
    ):
        write_instances(results, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_can_not_be_is_a_setting_to_correct(results: list[Dataset], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigurationError, match="results could not be written: Not a directory"):
        write_instances(results, tmp_path / "file" / "out")


def test_one_refused_result_keeps_all_for_whoever_looks(results: list[Dataset], tmp_path: Path) -> None:
    broken = Dataset()
    broken.update(results[0])
    broken.file_meta = results[0].file_meta
    del broken.FrameOfReferenceUID
    with pytest.raises(
        InvalidResult, match=r"FrameOfReferenceUID is required.*; the results are kept in .*refused"
    ):
        checked([[broken], results[1:]], tmp_path / "refused")
    assert len(list((tmp_path / "refused").iterdir())) == len(results)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidResult, match=r"FrameOfReferenceUID .*; the results could not be kept"):
        checked([[broken]], tmp_path / "file" / "refused")
