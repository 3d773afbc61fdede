"""What a warm worker is left with after a graph has ended."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import pytest
from pydicom import dcmread

from isocenter.worker import runner
from isocenter_operators.errors import GeometryError, UnreadableInput
from isocenter_operators.manifest import AppManifest, read_manifest
from isocenter_operators.run import Folder, Run
from isocenter_operators.testing import head_phantom, write_series

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.fixture(scope="module")
def app() -> AppManifest:
    return read_manifest(Path(__file__).parents[1] / "fuzz" / "mean_density")


def _task(folder: Path) -> Run:
    write_series(head_phantom(size=(48, 40, 12), spacing_mm=(5.0, 5.0, 16.0)), folder / "in")
    (folder / "out").mkdir()
    return Run(source=Folder(folder / "in"), sink=Folder(folder / "out"))


@pytest.fixture(scope="module", autouse=True)
def _first_graph(app: AppManifest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The first graph of a process starts a thread that stays."""
    runner.run(app, _task(tmp_path_factory.mktemp("first")))


@pytest.fixture
def task(tmp_path: Path) -> Run:
    return _task(tmp_path)


def _changed(task: Run, **attributes: object) -> None:
    for file in sorted(Path(str(task.source.path)).iterdir())[:1]:
        image = dcmread(file)
        for keyword, value in attributes.items():
            setattr(image, keyword, value)
        image.save_as(file)


def _alive() -> tuple[set[int], set[threading.Thread]]:
    """The applications, and the threads, that there are: other tests of this process may have left some.

    Of one that Python did not start it does not learn that it has ended.
    """
    from isocenter_operators.application import Application

    gc.collect()
    applications = {id(each) for each in gc.get_objects() if issubclass(type(each), Application)}
    threads = {each for each in threading.enumerate() if Path(f"/proc/self/task/{each.native_id}").exists()}
    return applications, threads


def _left(before: tuple[set[int], set[threading.Thread]]) -> tuple[int, list[str]]:
    """How many applications there are that there were not, and which threads; one that is about to end may."""
    give_up = time.monotonic() + 10
    while True:
        applications, threads = _alive()
        left = len(applications - before[0]), [thread.name for thread in threads - before[1]]
        if left == (0, []) or time.monotonic() > give_up:
            return left
        time.sleep(0.05)


def test_a_graph_that_fails_leaves_nothing_behind(app: AppManifest, task: Run) -> None:
    """Holoscan keeps each error, and with it what its frames held: 20 MB and threads for each failed job."""
    _changed(task, ImageOrientationPatient=[0.8, 0.6, 0, 0, 0, -1])
    before = _alive()
    for _ in range(3):
        with pytest.raises(GeometryError) as refused:
            runner.run(app, task)
        assert refused.value.__traceback__ is not None  # the way is still there to be told
        del refused
    assert _left(before) == (0, [])


def test_a_file_that_can_not_be_read_leaves_nothing_behind(app: AppManifest, task: Run) -> None:
    before = _alive()
    for file in Path(str(task.source.path)).iterdir():
        file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(UnreadableInput):
        runner.run(app, task)
    assert _left(before) == (0, [])


def test_what_is_not_applicable_leaves_nothing_behind(app: AppManifest, task: Run) -> None:
    before = _alive()
    for file in Path(str(task.source.path)).iterdir():
        image = dcmread(file)
        image.Modality = "NM"
        image.save_as(file)
    assert runner.run(app, task).status == "not_applicable"
    assert _left(before) == (0, [])


def test_applications_of_one_name_are_those_of_their_folders(tmp_path: Path) -> None:
    for place in ("here", "there"):
        folder = tmp_path / place / "same"
        folder.mkdir(parents=True)
        (folder / "app.yaml").write_text("application: {title: Same, version: '1'}")
        (folder / "app.py").write_text(
            f"PLACE = {place!r}\n\n\ndef application(task=None):\n    return None\n"
        )
        assert place == runner.load(read_manifest(folder)).PLACE
