"""The files of a package's run: nobody else's hand in them, nothing that is damaged passed over, nothing lost."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from types import SimpleNamespace
from typing import Any, cast

import pytest

from isocenter.maps.sandbox import Folders
from isocenter.settings import Settings
from isocenter.worker import packaged, run_folder
from isocenter_operators.errors import InvalidResult
from isocenter_operators.run import Run
from isocenter_operators.testing.enhanced import as_enhanced
from isocenter_operators.testing.phantom import thorax_phantom


def _written(place: Path, name: str, content: bytes) -> tuple[Folders, Run]:
    """The folders after a package has written one file, and the job's."""
    made = Folders(place / "input", place / "output", place / "work", place / "cache")
    for each in (made.write, made.work):
        each.mkdir()
    (made.write / name).write_bytes(content)
    return made, cast(Run, SimpleNamespace(rejected=place / "rejected"))


def test_a_result_that_can_not_be_read_is_not_passed_over(tmp_path: Path) -> None:
    folders, task = _written(tmp_path, "seg.dcm", b"half of it")
    with (
        pytest.raises(InvalidResult, match=r"file 1 of what it wrote: .* kept in"),
        packaged._kept_where_wrong(folders, task),
    ):
        packaged._written(folders)
    assert (tmp_path / "rejected" / "seg.dcm").read_bytes() == b"half of it"


def test_a_files_name_stays_with_the_job(tmp_path: Path) -> None:
    """It may be the patient's: the log that is kept has it, what is told of the job does not."""
    folders, task = _written(tmp_path, "Doe^Jane.dcm", b"half of it")
    (folders.write / "A.txt").touch()
    with pytest.raises(InvalidResult) as told, packaged._kept_where_wrong(folders, task):
        packaged._written(folders)
    assert "file 2 of what it wrote" in str(told.value)
    assert "Doe" not in str(told.value)
    log = tmp_path / "package.log"
    assert str(log) in str(told.value)
    assert "file 2 of what it wrote: 'Doe^Jane.dcm'" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_other_files_are_nobodys_concern(tmp_path: Path) -> None:
    folders, _ = _written(tmp_path, "notes.txt", b"all went well")
    assert packaged._written(folders) == []


def test_what_a_package_left_is_removed_however_it_left_it(tmp_path: Path) -> None:
    """Of this run, and of one whose worker died: else nobody after it could begin."""
    settings = Settings(data_dir=tmp_path)
    left = settings.maps_dir / "runs" / "run-of-a-dead-worker" / "output"
    left.mkdir(parents=True)
    _dig(left)
    with run_folder.run_folder(settings) as folders:
        assert not left.exists()
        _dig(folders.write)
    assert not any((settings.maps_dir / "runs").iterdir())


def _dig(folder: Path) -> None:
    """Deeper than a path can be written, and closed."""
    program = "import os\nos.chmod('.', 0o777)\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')\nos.chmod('.', 0)\n"
    subprocess.run([sys.executable, "-c", program], cwd=folder, check=True)


def test_where_the_frames_of_a_multi_frame_image_lie_is_known_of_it() -> None:
    phantom = thorax_phantom(size=(16, 16, 3), spacing_mm=(22.0, 22.0, 60.0))
    (image,) = as_enhanced(phantom)
    (header,) = packaged._without_pixels([image]).values()
    assert len(header.PerFrameFunctionalGroupsSequence) == 3
    assert "PixelData" not in header


def test_who_begins_at_the_same_moment_does_not_clear_the_folder_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path)
    begun: list[Thread] = []

    def other() -> None:
        with run_folder.run_folder(settings):
            pass

    class Slow(TemporaryDirectory):  # type: ignore[type-arg]
        """Whose maker is interrupted before he holds its lock."""

        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            if not begun:
                begun.append(Thread(target=other))
                begun[0].start()
                begun[0].join(0.5)

    monkeypatch.setattr(run_folder, "TemporaryDirectory", Slow)
    with run_folder.run_folder(settings) as folders:
        begun[0].join()
        assert folders.read.is_dir()
    assert not any((settings.maps_dir / "runs").iterdir())


def test_a_report_that_can_not_be_told_of_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the job would have failed whose results are in the archive."""
    stored: list[Any] = []
    folders, _ = _written(tmp_path, "report.dcm", b"")

    @contextmanager
    def executed(*_: Any) -> Iterator[Any]:
        yield SimpleNamespace(reason=None, not_applicable=None, notes=()), folders

    def untellable(*_: Any, **__: Any) -> Any:
        raise RecursionError

    for name, stand_in in {
        "_images": lambda task: [],
        "without_identity": lambda images, pseudonyms: images,
        "_executed": executed,
        "_written": lambda folders: [("file 1", None)],
        "_identity": lambda *_: None,
        "as_results": lambda *_, **__: [],
        "with_identity": lambda batches, pseudonyms: batches,
        "sources_with_identity": lambda sources, pseudonyms: sources,
        "checked": lambda *_: ["a report"],
        "measured_in": untellable,
        "store_of": lambda settings: SimpleNamespace(believed=lambda stored: True),
        "_store": lambda *each: stored.append(each),
    }.items():
        monkeypatch.setattr(packaged, name, stand_in)
    task = SimpleNamespace(
        checkpoint=None, notes=(), deidentification=None, algorithm=None, rejected=None,
        form=SimpleNamespace(disclaimer=""),
    )  # fmt: skip
    app = SimpleNamespace(algorithm=None, name="liver", version="1")
    package = SimpleNamespace(digest="sha256:0")
    with pytest.raises(RecursionError):
        packaged._run(
            cast(Any, SimpleNamespace(settings=None)), cast(Any, package), cast(Any, app), cast(Any, task)
        )
    assert stored == []
