"""In which order the router looks at what waits, and what it does with what goes wrong."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from isocenter.arrivals import Arrivals
from isocenter.pacs import ArchiveSeries
from isocenter.routing import Router, router
from isocenter.routing.troubles import Troubles
from isocenter.settings import Settings


class Log:
    """A change log that tells nothing new."""

    def read(self) -> None: ...
    def compare(self) -> bool:
        return True

    def check(self) -> bool:
        return True


class Deciding:
    """Decides nothing, and notes what it was asked about. `stat` are known to be STAT, `strange` raises."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.stat: set[str] = set()
        self.strange: set[str] = set()

    def decide(self, study_uid: str) -> bool:
        self.asked.append(study_uid)
        if study_uid in self.strange:
            raise KeyError("patient's name")
        return False

    def only(self, study_uids: Iterable[str]) -> None: ...
    def is_stat(self, study_uid: str) -> bool:
        return study_uid in self.stat

    def images_may_come(self) -> bool:
        return True

    def missing(self) -> list[str]:
        return []


@pytest.fixture
def deciding() -> Deciding:
    return Deciding()


@pytest.fixture
def routed(tmp_path: Path, deciding: Deciding) -> Iterator[Router]:
    """A router before which five studies lie."""
    settings = Settings(data_dir=tmp_path, limits={"free_disk_mb": 0}, routes=[])
    made = Router(settings)
    made._arrivals = Arrivals(settings.database)
    made._deciding = cast(Any, deciding)
    made.__dict__["_change_log"] = Log()
    for number in range(1, 6):
        series = ArchiveSeries(f"r{number}", f"1.{number}", f"2.{number}", frozenset({f"i{number}"}))
        made.arrivals.record(number, [series], now=float(number))
    yield made
    made.stop()


def test_a_backlog_is_looked_at_in_passes_the_newest_and_what_is_stat_first(
    routed: Router, deciding: Deciding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "_PASS_S", 0.0)  # one study to the pass
    for _ in range(5):
        assert routed.look() == 0.0  # the log is read again before the next one
    assert deciding.asked == ["1.5", "1.4", "1.3", "1.2", "1.1"]
    deciding.asked.clear()
    routed.arrivals.record(9, [ArchiveSeries("r9", "1.9", "2.9", frozenset({"i9"}))], now=9.0)
    for _ in range(3):
        routed.look()
    assert deciding.asked == ["1.9", "1.5", "1.4"]  # the others in turn
    deciding.asked.clear()
    deciding.stat.add("1.2")
    routed.look()
    assert deciding.asked == ["1.2"]


def test_what_the_rules_are_only_asked_about_once_more_comes_after_all_that_is_new(
    routed: Router, deciding: Deciding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "_PASS_S", 0.0)
    for number in (3, 4, 5):
        series = ArchiveSeries(f"r{number}", f"1.{number}", f"2.{number}", frozenset({f"i{number}"}))
        (arrival,) = routed.arrivals.of_study(f"1.{number}")
        routed.arrivals.close(arrival)
        assert routed.arrivals.look_again([series])
    for _ in range(4):
        routed.look()
    assert deciding.asked == [
        "1.2",
        "1.1",
        "1.2",
        "1.1",
    ]  # looked at again before anybody has looked at the others
    for arrival in routed.arrivals.of_study("1.1") + routed.arrivals.of_study("1.2"):
        routed.arrivals.close(arrival)
    deciding.asked.clear()
    for _ in range(3):
        routed.look()
    assert deciding.asked == ["1.5", "1.4", "1.3"]


def test_a_strange_study_holds_up_no_other_and_is_told_without_the_errors_text(
    routed: Router, deciding: Deciding
) -> None:
    deciding.strange.add("1.4")
    assert routed.look() > 0
    assert deciding.asked == ["1.5", "1.4", "1.3", "1.2", "1.1"]
    told = routed._undecided()
    assert told.startswith("study 1.4 can not be routed: KeyError in ")
    assert "name" not in told.replace(__file__, "")
    deciding.asked.clear()
    routed.look()
    assert "1.4" not in deciding.asked  # it rests


def test_a_trouble_is_rested_from_for_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("isocenter.routing.troubles.time.monotonic", lambda: now[0])
    troubles, pauses = Troubles(), []
    for count in range(7):
        assert troubles.met(("a",), "away") is (count == 0)  # told once
        began = now[0]
        while troubles.resting(("a",)):
            now[0] += 1
        pauses.append(now[0] - began)
    assert pauses == [2, 4, 8, 16, 30, 30, 30]
    assert list(troubles.reasons) == ["away"]
    troubles.over(("a",))
    assert list(troubles.reasons) == []
