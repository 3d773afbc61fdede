"""The worker's gate: who gets a place, in which order, and what it does while the disk is full."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from isocenter.settings import Settings
from isocenter.worker import gate as gate_module
from isocenter.worker.gate import Gate
from isocenter.worker.retries import retry, trouble_of
from isocenter_operators.errors import (
    ArchiveUnavailable,
    Cancelled,
    DeadlineExceeded,
    InferenceUnavailable,
    OutOfMemory,
    StorageFull,
)

BATCH, ROUTINE, STAT = 4, 3, 1


class Entrant(threading.Thread):
    """A job at the gate; it holds its place until it is told to leave."""

    def __init__(self, gate: Gate, order: list[str], name: str, rank: int, *, suspect: bool = False) -> None:
        super().__init__(name=name, daemon=True)
        self._gate, self._order, self._rank, self._suspect = gate, order, rank, suspect
        self._leave = threading.Event()
        self.inside = threading.Event()
        self.told: list[str] = []
        self.stop: str | None = None
        self.stopped = ""

    def run(self) -> None:
        try:
            with self._gate.place(self._rank, suspect=self._suspect, look=self._look, tell=self.told.append):
                self._order.append(self.name)
                self.inside.set()
                self._leave.wait(30)
        except Cancelled as error:
            self.stopped = str(error)

    def _look(self) -> None:
        if self.stop is not None:
            raise Cancelled(self.stop)

    def leave(self) -> None:
        self._leave.set()
        self.join(30)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, limits={"free_disk_mb": 0}, worker={"concurrency": 1, "stat_slots": 1})


@pytest.fixture
def order() -> list[str]:
    return []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "_LOOK_S", 0.05)


def waits(entrant: Entrant) -> bool:
    return not entrant.inside.wait(0.2)


def test_the_most_urgent_enters_first_and_stat_waits_for_nobody(settings: Settings, order: list[str]) -> None:
    gate = Gate(settings)

    def come(name: str, rank: int) -> Entrant:
        entrant = Entrant(gate, order, name, rank)
        entrant.start()
        return entrant

    first = come("first", BATCH)
    assert first.inside.wait(30)
    waiting = []
    for name, rank in (("batch", BATCH), ("routine", ROUTINE), ("routine too", ROUTINE)):
        waiting.append(come(name, rank))
        assert waits(waiting[-1])
    stat = come("stat", STAT)
    assert stat.inside.wait(30)
    second = come("second stat", STAT)
    assert waits(second)

    first.leave()
    assert second.inside.wait(30)  # the first common place is its
    second.leave()
    for name in ("routine", "routine too", "batch"):
        (entrant,) = (each for each in waiting if each.name == name)
        assert entrant.inside.wait(30)
        entrant.leave()
    stat.leave()
    assert order == ["first", "stat", "second stat", "routine", "routine too", "batch"]


def test_beside_a_suspect_only_stat_runs(settings: Settings, order: list[str]) -> None:
    gate = Gate(settings.model_copy(update={"worker": settings.worker.model_copy(update={"concurrency": 3})}))
    first, one, two, other, stat = (
        Entrant(gate, order, "first", ROUTINE),
        Entrant(gate, order, "one", ROUTINE, suspect=True),
        Entrant(gate, order, "two", ROUTINE, suspect=True),
        Entrant(gate, order, "other", BATCH),
        Entrant(gate, order, "stat", STAT),
    )
    first.start()
    assert first.inside.wait(30)
    one.start()
    assert waits(one)
    other.start()
    assert waits(other)  # else others would come before a suspect for ever
    first.leave()
    assert one.inside.wait(30)
    two.start()
    assert waits(two)
    assert waits(other)
    stat.start()
    assert stat.inside.wait(30)
    one.leave()
    assert two.inside.wait(30)
    two.leave()
    assert other.inside.wait(30)
    other.leave()
    stat.leave()


@pytest.mark.usefixtures("quick")
def test_a_full_disk_lets_nobody_in_until_there_is_room(
    settings: Settings, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str | None] = ["no new work is taken: 3 MB free"]
    monkeypatch.setattr(gate_module, "shortage", lambda _: said[-1])
    gate = Gate(settings)
    entrant = Entrant(gate, order, "one", STAT)
    entrant.start()
    assert waits(entrant)
    said.append("no new work is taken: 2 MB free")
    assert waits(entrant)
    assert entrant.told == ["no new work is taken: 3 MB free"]
    said.append(None)
    assert entrant.inside.wait(30)
    assert entrant.told[1:] == [""]
    entrant.leave()


@pytest.mark.usefixtures("quick")
def test_who_waits_can_be_stopped_and_a_closed_gate_lets_nobody_in(
    settings: Settings, order: list[str]
) -> None:
    gate = Gate(settings)
    first, waiting, last = (Entrant(gate, order, name, ROUTINE) for name in ("first", "waiting", "last"))
    first.start()
    assert first.inside.wait(30)
    waiting.start()
    waiting.stop = "by hand"
    waiting.join(30)
    assert waiting.stopped == "by hand"
    gate.close()
    first.leave()
    last.start()
    assert waits(last)
    last.stop = "the end"
    last.join(30)
    assert order == ["first"]


@pytest.mark.parametrize(
    ("error", "trouble", "tries"),
    [
        (ArchiveUnavailable("Orthanc does not answer"), "away", 500),
        (StorageFull("no room left"), "away", 500),
        (DeadlineExceeded("no answer in time"), "away", 500),  # of the archive: no call of a model
        (DeadlineExceeded("no answer in 120 s", model="lungs"), "deadline", 3),
        (OutOfMemory("not enough memory"), "memory", 2),
        (InferenceUnavailable("CUDA out of memory"), "memory", 2),
    ],
)
def test_each_kind_of_trouble_has_its_own_budget(
    settings: Settings, error: ArchiveUnavailable, trouble: str, tries: int
) -> None:
    assert trouble_of(error).name == trouble
    others = {"other": 1000}
    assert retry(trouble, {**others, trouble: tries}, settings.worker) is None
    pauses = [retry(trouble, {**others, trouble: met}, settings.worker) for met in range(1, tries)]
    assert all(pause is not None and 0.9 <= pause <= 66 for pause in pauses)
    assert pauses[0] is not None
    assert pauses[0] <= 1.1
    if tries == 500:  # about eight hours
        assert 7 * 3600 < sum(pause for pause in pauses if pause is not None) < 9 * 3600
