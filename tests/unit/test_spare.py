"""The next container of a package, started in advance: used once or thrown away, and no job is the worse for it."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from map_cases import PYTHON, good, with_python

from isocenter.maps import bubblewrap, namespaces
from isocenter.maps.package import Package, open_package
from isocenter.maps.sandbox import Wish
from isocenter.maps.standby import STANDBY_LABEL, STANDBY_VALUE, Standby
from isocenter.settings import Settings
from isocenter.worker import packaged, spare
from isocenter.worker.run_folder import clear_abandoned, run_folder
from isocenter.worker.spare import Spares
from isocenter_operators.errors import Cancelled
from isocenter_operators.run import Record
from isocenter_operators.standby import READY
from isocenter_operators.testing.phantom import thorax_phantom
from isocenter_operators.testing.series import as_datasets

pytestmark = [
    pytest.mark.skipif(
        not bubblewrap.available() and not namespaces.available(), reason="nothing here can confine a package"
    ),
    pytest.mark.skipif(not PYTHON.exists(), reason="the package is made of the system's Python"),
]
ENGINE = "bubblewrap" if bubblewrap.available() else "namespaces"
WISH = Wish(engine=ENGINE, time_s=20)
# Images by whose files the program below knows what it is to do.
IMAGE, FAILS, SILENT, SLOW = "1.2.3.1", "1.2.3.2", "1.2.3.3", "1.2.3.4"

PROGRAM = f"""
import os, pathlib, sys, time
source, target = (pathlib.Path(os.environ[f"HOLOSCAN_{{each}}_PATH"]) for each in ("INPUT", "OUTPUT"))
waited = os.environ.pop("ISOCENTER_WAIT", "")
before = len(list(source.iterdir()))
if waited:
    print({READY!r}, flush=True)
    if sys.stdin.readline() != "begin\\n":
        sys.exit(5)
names = [file.name for file in source.iterdir()]
if waited and "{FAILS}.dcm" in names:
    sys.exit(3)
if waited and "{SILENT}.dcm" in names:
    sys.exit(0)
if "{SLOW}.dcm" in names:
    time.sleep(60)
said = f"{{'waited' if waited else 'at once'}} {{before}} {{len(names)}} {{os.environ.get('ISOCENTER_WAIT')}}"
(target / "said.txt").write_text(said)
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = with_python(good(), PROGRAM)
    recipe.config["Labels"][STANDBY_LABEL] = STANDBY_VALUE
    return recipe.write_image(tmp_path_factory.mktemp("image"))


@pytest.fixture
def package(image: Path) -> Package:
    return open_package(image)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that the package is unpacked once."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def settings(data: Path) -> Settings:
    return Settings(data_dir=data, maps={"warm_s": 60})


@pytest.fixture
def spares(settings: Settings) -> Iterator[Spares]:
    made = Spares(settings)
    yield made
    made.close()
    assert not _runs(settings)


def _runs(settings: Settings) -> list[Path]:
    return [each for each in (settings.maps_dir / "runs").glob("*") if each.is_dir()]


def _ready(settings: Settings) -> Path:
    """The folder of the one that waits, once it does."""
    return _until(lambda: [each for each in _runs(settings) if READY in _log(each)])[0]


def _log(folder: Path) -> str:
    file = folder / "work" / "log.txt"
    return file.read_text() if file.exists() else ""


def _until(ask: Callable[[], list[Path]]) -> list[Path]:
    deadline = time.monotonic() + 30
    while not (found := ask()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def _inside(settings: Settings) -> list[psutil.Process]:
    """The processes of a container of these settings: its files lie in a folder that nobody else uses."""
    known = str(settings.maps_dir.resolve())
    found = [
        each
        for each in psutil.process_iter(["cmdline"])
        if any(known in word for word in each.info["cmdline"] or ())
    ]
    return list({*found, *(child for each in found for child in each.children(recursive=True))})


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _job(
    settings: Settings,
    spares: Spares,
    package: Package,
    uid: str = IMAGE,
    *,
    checkpoint: Callable[[], None] | None = None,
    wish: Wish = WISH,
) -> str:
    """What the package said of a job with this one image."""
    (image,) = as_datasets(thorax_phantom(size=(16, 16, 1), spacing_mm=(22.0, 22.0, 60.0)))
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = uid
    means = packaged._Means(settings, spares, package, wish)
    with spares.run(), packaged._executed(means, [image], Record(), checkpoint) as (report, folders):
        assert report.reason is None, report
        said = (folders.write / "said.txt").read_text()
    return said


def test_a_job_finds_the_one_that_waits_and_the_next_one_another(
    settings: Settings, spares: Spares, package: Package
) -> None:
    assert _job(settings, spares, package) == "at once 1 1 None"
    spares.prepare(package, WISH)
    first = _ready(settings)
    assert _job(settings, spares, package) == "waited 0 1 None"
    assert not first.exists()
    assert _job(settings, spares, package) == "at once 1 1 None"
    spares.prepare(package, WISH)
    second = _ready(settings)
    assert _job(settings, spares, package) == "waited 0 1 None"
    assert not second.exists()
    assert not _inside(settings)


def test_a_job_that_comes_while_it_starts_waits_for_it(
    settings: Settings, spares: Spares, package: Package
) -> None:
    spares.prepare(package, WISH)
    assert _job(settings, spares, package) == "waited 0 1 None"


def test_a_job_does_not_wait_long_for_one_that_hangs(
    settings: Settings, spares: Spares, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spare, "_READY_WITHIN_S", 0.5)
    monkeypatch.setattr(Standby, "hear", lambda *_: None)  # whatever it says, it is not ready
    spares.prepare(package, WISH)
    assert _job(settings, spares, package) == "at once 1 1 None"


@pytest.mark.parametrize("uid", [FAILS, SILENT], ids=["fails", "says nothing"])
def test_what_goes_wrong_in_it_is_run_again_on_the_same_images(
    uid: str, settings: Settings, spares: Spares, package: Package
) -> None:
    spares.prepare(package, WISH)
    _ready(settings)
    assert _job(settings, spares, package, uid) == "at once 1 1 None"


def test_one_that_has_died_is_no_jobs_fault(settings: Settings, spares: Spares, package: Package) -> None:
    spares.prepare(package, WISH)
    folder = _ready(settings)
    for each in _inside(settings):
        each.kill()
    # At once, before anybody may have noticed, and after that.
    assert _job(settings, spares, package) == "at once 1 1 None"
    _until(lambda: [] if folder.exists() else [folder])
    assert _job(settings, spares, package) == "at once 1 1 None"


def test_its_time_limit_counts_from_the_job(settings: Settings, spares: Spares, package: Package) -> None:
    wish = Wish(engine=ENGINE, time_s=2)
    spares.prepare(package, wish)
    _ready(settings)
    time.sleep(2.5)
    assert _job(settings, spares, package, wish=wish) == "waited 0 1 None"
    spares.prepare(package, wish)
    _ready(settings)
    with pytest.raises(AssertionError, match="did not end within 2 s"):
        _job(settings, spares, package, SLOW, wish=wish)


def test_after_its_idle_time_nothing_of_it_is_left(data: Path, package: Package) -> None:
    settings = Settings(data_dir=data, maps={"warm_s": 3})
    spares = Spares(settings)
    spares.prepare(package, WISH)
    folder = _ready(settings)
    _until(lambda: [] if folder.exists() else [folder])
    assert not _inside(settings)
    assert _job(settings, spares, package) == "at once 1 1 None"


def test_none_is_kept_where_none_is_wanted_or_memory_is_short_or_a_package_runs(
    data: Path, settings: Settings, spares: Spares, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    Spares(Settings(data_dir=data, maps={"warm_s": 0})).prepare(package, WISH)
    with spares.run():
        spares.prepare(package, WISH)
    with monkeypatch.context() as short:
        short.setattr(spare, "memory_left", lambda: 100 << 20)
        spares.prepare(package, WISH)
        assert _job(settings, spares, package) == "at once 1 1 None"
    assert not _runs(settings)


def test_one_that_waits_makes_room_when_memory_becomes_short(
    settings: Settings, spares: Spares, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a job of an application that is no package, or of another worker: nobody asks for this one meanwhile."""
    spares.prepare(package, WISH)
    folder = _ready(settings)
    time.sleep(1.5)
    assert folder.exists()
    monkeypatch.setattr(spare, "memory_left", lambda: 100 << 20)
    _until(lambda: [] if folder.exists() else [folder])
    assert not _inside(settings)


def test_waiting_for_one_that_starts_leaves_a_job_its_time(
    data: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own run may take nine tenths of the longest attempt, and who takes longer costs the worker its life."""
    monkeypatch.setattr(Standby, "hear", lambda *_: None)  # whatever it says, it is not ready
    spares = Spares(Settings(data_dir=data, maps={"warm_s": 60}, worker={"longest_attempt_s": 20}))
    spares.prepare(package, WISH)
    began = time.monotonic()
    assert spares.take(package, WISH, None) is None
    assert time.monotonic() - began < 5


def test_that_none_can_be_started_is_no_jobs_fault(
    spares: Spares, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    spares.prepare(package, WISH)


def test_one_of_another_package_is_ended(
    settings: Settings, spares: Spares, package: Package, tmp_path: Path
) -> None:
    """And a package that does not say that it can wait is started for its job alone."""
    (tmp_path / "other").mkdir()
    other = open_package(with_python(good(), PROGRAM).write_image(tmp_path / "other"))
    spares.prepare(package, WISH)
    folder = _ready(settings)
    assert _job(settings, spares, other) == "at once 1 1 None"
    assert not folder.exists()
    spares.prepare(other, WISH)
    time.sleep(1)
    assert not _runs(settings)


def test_one_whose_files_were_removed_meanwhile_is_not_used(
    settings: Settings, spares: Spares, package: Package
) -> None:
    spares.prepare(package, WISH)
    _ready(settings)
    assert package.digest is not None
    shutil.rmtree(settings.maps_dir / "unpacked" / package.digest.replace(":", "-"))
    assert _job(settings, spares, package) == "at once 1 1 None"


def test_a_job_that_nobody_wants_any_more_ends_it(
    settings: Settings, spares: Spares, package: Package
) -> None:
    spares.prepare(package, WISH)
    _ready(settings)
    looks = iter([None, None, None, None])

    def checkpoint() -> None:
        if next(looks, "over") == "over":
            raise Cancelled("withdrawn")

    began = time.monotonic()
    with pytest.raises(Cancelled, match="withdrawn"):
        _job(settings, spares, package, SLOW, checkpoint=checkpoint)
    assert time.monotonic() - began < 10
    assert not _inside(settings)
    assert not _runs(settings)


WORKER = """
import sys, threading
from pathlib import Path
from isocenter.maps.package import open_package
from isocenter.maps.sandbox import Wish
from isocenter.settings import Settings
from isocenter.worker.spare import Spares
spares = Spares(Settings(data_dir=Path(sys.argv[1])))
spares.prepare(open_package(Path(sys.argv[2])), Wish(engine=sys.argv[3]))
threading.Event().wait()
"""


def test_nothing_of_it_outlives_its_worker(settings: Settings, image: Path) -> None:
    """Which is killed, and can not do anything about it."""
    words = [sys.executable, "-c", WORKER, str(settings.data_dir), str(image), ENGINE]
    worker = subprocess.Popen(words)
    try:
        folder = _ready(settings)
        inside = _inside(settings)
        assert any(each.cmdline()[-1:] == ["/opt/holoscan/app"] for each in inside)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    deadline = time.monotonic() + 10
    while any(map(_lives, inside)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_lives, inside))
    assert folder.exists()  # empty, until the next run
    assert not list((folder / "input").iterdir())
    left = folder / "input" / "image.dcm"  # as of a run that was in the middle of a job
    left.write_bytes(b"of a patient")
    clear_abandoned(settings)  # as the next worker starts
    assert not folder.exists()
    with run_folder(settings) as running:
        left = running.read / "image.dcm"
        left.write_bytes(b"of a patient")
        clear_abandoned(settings)
        assert left.exists()  # that run is not over
