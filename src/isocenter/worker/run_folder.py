"""The folder of one run of a package: images lie in it in files, so it is that run's alone, and goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from tempfile import TemporaryDirectory

from isocenter.maps import container
from isocenter.maps.sandbox import Folders
from isocenter.maps.store import MapStore
from isocenter.maps.written import discard
from isocenter.settings import Settings

__all__ = ["another_try", "clear_abandoned", "run_folder", "store_of"]

_LOCK, _DOOR = ".lock", ".runs.lock"
_AGAIN = "output-again"


@contextmanager
def run_folder(settings: Settings) -> Iterator[Folders]:
    """Empty folders, for the block. What workers that died have left of theirs is removed."""
    place = settings.maps_dir / "runs"
    place.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        # Together, so that nobody clears a folder away whose lock is not held yet.
        with _door(settings):
            _clear(place)
            store_of(settings).forget_unpacked()
            made_folder = TemporaryDirectory(prefix="run-", dir=place.resolve(), ignore_cleanup_errors=True)
            folder = Path(held.enter_context(made_folder))
            flock(held.enter_context((folder / _LOCK).open("w")), LOCK_EX)
        made = Folders(
            folder / "input", folder / "output", folder / "work", store_of(settings).cache.resolve()
        )
        for written in (made.write, made.write.with_name(_AGAIN)):
            held.callback(discard, written)
        made.read.mkdir()
        made.read.chmod(0o755)  # an engine's user has to come in
        _make(made)
        yield made


def clear_abandoned(settings: Settings) -> None:
    """Remove what workers that died have left of their runs: patients' images lie there, and no other run may come."""
    place = settings.maps_dir / "runs"
    if place.is_dir():
        with _door(settings):
            _clear(place)


def another_try(folders: Folders) -> Folders:
    """The same images, with folders of its own for whatever comes of them this time; they go with the others."""
    made = replace(folders, write=folders.write.with_name(_AGAIN), work=folders.work.with_name("work-again"))
    _make(made)
    return made


def store_of(settings: Settings) -> MapStore:
    return MapStore(settings.maps_dir, settings.maps.trusted_keys)


@contextmanager
def _door(settings: Settings) -> Iterator[None]:
    with (settings.maps_dir / _DOOR).open("w") as door:
        flock(door, LOCK_EX)
        yield


def _make(folders: Folders) -> None:
    for each in (folders.write, folders.work):
        each.mkdir()
    folders.write.chmod(0o777)


def _clear(place: Path) -> None:
    """Remove what workers that died have left: their locks are nobody's any more."""
    for folder in place.glob("run-*"):
        try:
            with (folder / _LOCK).open("w") as lock:
                flock(lock, LOCK_EX | LOCK_NB)
                for work in folder.glob("work*"):
                    container.end_noted(work)  # else it runs on, with nobody to count its time
                discard(folder)
        except OSError:
            continue  # somebody's
