"""What has arrived, durably: when a series settles anew, and what late decisions change."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from isocenter import pacs
from isocenter.arrivals import Arrivals, Verdict, fingerprint, study_fingerprint
from isocenter.database import engine
from isocenter.pacs import ArchiveSeries, Change
from isocenter.routing.change_log import ChangeLog
from isocenter_operators.errors import ArchiveUnavailable


def test_an_arrival_settles_anew_only_when_its_instances_change(tmp_path: Path) -> None:
    arrivals = Arrivals(f"sqlite:///{tmp_path / 'a.sqlite'}")
    assert arrivals.position() is None
    first = ArchiveSeries("r1", "1.2", "1.2.3", frozenset({"a", "b"}))
    arrivals.record(7, [first], now=100.0)
    (arrival,) = arrivals.settling()
    assert (arrival.instances, arrival.changed_at, arrival.fingerprint) == (2, 100.0, fingerprint("ba"))
    verdict = Verdict("r", "a", "f" * 64, "", arrival.fingerprint)
    arrivals.judge("r1", [verdict])
    arrivals.close(arrival)
    assert arrivals.settling() == []
    assert arrivals.of_study("1.2")[0].verdicts == (verdict,)

    arrivals.record(9, [first], now=200.0)
    assert arrivals.settling() == []

    more = ArchiveSeries("r1", "1.2", "1.2.3", frozenset({"a", "b", "c"}))
    arrivals.record(11, [more], now=300.0)
    (again,) = Arrivals(f"sqlite:///{tmp_path / 'a.sqlite'}").settling()
    assert (again.instances, again.arrived_at, again.changed_at) == (3, 300.0, 300.0)
    assert arrivals.position() == 11
    arrivals.record(12, [replace(more, instances=frozenset("abcd"))], now=400.0)
    (growing,) = arrivals.settling()
    assert (growing.arrived_at, growing.changed_at) == (300.0, 400.0)

    # A decision that comes too late, for the set as it was, does not close it.
    arrivals.close(arrival)
    assert len(arrivals.settling()) == 1


def test_what_was_said_of_deleted_images_is_not_said_of_those_that_come_back(tmp_path: Path) -> None:
    arrivals = Arrivals(f"sqlite:///{tmp_path / 'a.sqlite'}")
    series = ArchiveSeries("r1", "1.2", "1.2.3", frozenset({"a", "b"}))
    arrivals.record(7, [series], now=100.0, created={"r1"})
    (arrival,) = arrivals.settling()
    arrivals.judge("r1", [Verdict("r", "a", "f" * 64, "", arrival.fingerprint)])
    arrivals.judge("1.2", [Verdict("s", "a", "f" * 64, "", study_fingerprint([arrival]))])
    arrivals.close(arrival)

    arrivals.record(8, [series], now=200.0, created={"r1"})

    (again,) = arrivals.of_study("1.2")
    assert (again.settling, again.verdicts) == (True, ())


def test_what_was_decided_is_decided_once_more_when_asked_but_for_what_made_a_job(tmp_path: Path) -> None:
    arrivals = Arrivals(f"sqlite:///{tmp_path / 'a.sqlite'}")
    series = [ArchiveSeries(f"r{n}", "1.2", f"1.2.{n}", frozenset({f"i{n}"})) for n in (1, 2, 3)]
    arrivals.record(7, series, now=100.0)
    assert not arrivals.look_again(series)  # it is being decided about
    one, two, ours = arrivals.settling()
    made = Verdict("r", "a", "f" * 64, "", one.fingerprint)
    arrivals.judge("r1", [made, Verdict("r", "b", None, "no", one.fingerprint)])
    arrivals.judge("r2", [Verdict("r", "a", None, "no", two.fingerprint)])
    arrivals.judge("1.2", [Verdict("s", "a", None, "no", study_fingerprint([one, two]))])
    arrivals.close(one)
    arrivals.close(two)
    arrivals.close(ours, ours=True)
    assert not arrivals.look_again([ArchiveSeries("r9", "1.9", "1.9.1", frozenset("i"))])  # nobody knows it

    assert arrivals.look_again(series)

    assert [(each.resource, each.late, each.changed_at) for each in arrivals.settling()] == [
        ("r1", True, 100.0),
        ("r2", True, 100.0),
    ]
    assert [each.verdicts for each in arrivals.of_study("1.2")] == [(made,), (), ()]
    arrivals.record(8, [replace(series[0], instances=frozenset("ij"))], now=200.0)
    assert [each.late for each in arrivals.settling()] == [True, False]  # images came: r1 is new work


def test_the_tables_of_an_earlier_release_get_what_they_lack(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'a.sqlite'}"
    Arrivals(database).record(1, [ArchiveSeries("r1", "1.2", "1.2.1", frozenset("i"))], now=100.0)
    with engine(database).begin() as connection:
        connection.exec_driver_sql("ALTER TABLE isocenter_arrival DROP COLUMN late")
        connection.exec_driver_sql("ALTER TABLE isocenter_verdict DROP COLUMN decided_at")
    arrivals = Arrivals(database)
    (arrival,) = arrivals.settling()
    assert not arrival.late
    arrivals.judge("r1", [Verdict("r", "a", None, "no", arrival.fingerprint)])
    assert arrivals.of_study("1.2")[0].verdicts[0].decided_at is not None


def test_studies_are_found_by_when_their_images_came(tmp_path: Path) -> None:
    arrivals = Arrivals(f"sqlite:///{tmp_path / 'a.sqlite'}")
    for number in (1, 3, 2):
        series = [ArchiveSeries(f"r{number}", f"1.{number}", f"2.{number}", frozenset({"i"}))]
        arrivals.record(number, series, now=100.0 * number)
    arrivals.was_there({"r4"})
    assert arrivals.studies_since(200.0) == ["1.2", "1.3"]
    assert arrivals.studies_since(0.0) == ["1.1", "1.2", "1.3"]


def test_results_of_ours_do_not_change_the_study(tmp_path: Path) -> None:
    arrivals = Arrivals(f"sqlite:///{tmp_path / 'a.sqlite'}")
    arrivals.record(7, [ArchiveSeries("r1", "1.2", "1.2.3", frozenset({"a"}))], now=100.0)
    before = study_fingerprint(arrivals.of_study("1.2"))
    arrivals.record(8, [ArchiveSeries("r2", "1.2", "1.2.4", frozenset({"b"}))], now=101.0)
    assert study_fingerprint(arrivals.of_study("1.2")) != before
    (result,) = (each for each in arrivals.settling() if each.resource == "r2")
    arrivals.close(result, ours=True)
    assert study_fingerprint(arrivals.of_study("1.2")) == before


@dataclass
class Archive:
    """An archive of series with instances, and its log, two lines to the page."""

    series_there: dict[str, set[str]] = field(default_factory=dict)
    lines: list[Change] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)  # the series that were asked for
    pages_until_away: int = 10**6
    broken: set[str] = field(default_factory=set)

    def store(self, resource: str, *instances: str) -> None:
        if resource not in self.series_there:
            self._line("NewSeries", resource)
        for each in instances:
            self._line("NewInstance", each)
        self.series_there.setdefault(resource, set()).update(instances)

    def _line(self, kind: str, resource: str) -> None:
        self.lines.append(Change(1 + (self.lines[-1].sequence if self.lines else 0), kind, resource))

    def changes(self, since: int) -> pacs.ChangeLog:
        if self.pages_until_away == 0:
            raise ArchiveUnavailable("away")
        self.pages_until_away -= 1
        after = [line for line in self.lines if line.sequence > since]
        last = after[:2][-1].sequence if after else since
        return pacs.ChangeLog(tuple(after[:2]), last, len(after) <= 2)

    def last_change(self) -> int:
        return self.lines[-1].sequence if self.lines else 0

    def series(self, resource: str) -> ArchiveSeries | None:
        self.asked.append(resource)
        if resource in self.broken:
            raise ArchiveUnavailable("answered 500")
        found = self.series_there.get(resource)
        return ArchiveSeries(resource, "1.2", f"1.2.{resource}", frozenset(found)) if found else None

    def series_of_instance(self, instance: str) -> str | None:
        return next((each for each, images in self.series_there.items() if instance in images), None)

    def series_resources(self) -> frozenset[str]:
        return frozenset(self.series_there)

    def instance_count(self) -> int:
        return sum(map(len, self.series_there.values()))

    def answers(self) -> bool:
        return True


def reader(archive: Archive, arrivals: Arrivals, *, everything: bool = True) -> ChangeLog:
    return ChangeLog(cast(Any, archive), arrivals, everything=everything)


def settled(arrivals: Arrivals) -> None:
    """All that has arrived is decided about."""
    for each in arrivals.settling():
        arrivals.judge(each.resource, [Verdict("r", "a", "f" * 64, "", each.fingerprint)])
        arrivals.close(each)


def test_a_log_that_is_read_once_more_and_broken_off_makes_no_work_twice(tmp_path: Path) -> None:
    archive, arrivals = Archive(), Arrivals(f"sqlite:///{tmp_path / 'a.sqlite'}")
    for resource in ("r1", "r2", "r3", "r4"):
        archive.store(resource, f"{resource}a", f"{resource}b")
    reader(archive, arrivals).read()
    settled(arrivals)
    # The newest study is deleted, and takes its lines with it: the log has become shorter, and is read from the start.
    del archive.series_there["r4"]
    archive.lines = archive.lines[:-3]
    archive.pages_until_away = 2
    with pytest.raises(ArchiveUnavailable):
        reader(archive, arrivals).read()
    assert arrivals.position() == 4
    archive.pages_until_away = 100
    reader(archive, arrivals).read()
    assert arrivals.settling() == []
    assert [bool(each.verdicts) for each in arrivals.of_study("1.2")] == [True] * 4
    # What is created after that is new, though it was known before.
    archive.lines.append(Change(13, "NewSeries", "r3"))
    reader(archive, arrivals).read()
    assert [each.resource for each in arrivals.settling()] == ["r3"]


def test_each_series_of_the_log_is_asked_for_once_and_no_other(tmp_path: Path) -> None:
    archive, arrivals = Archive(), Arrivals(f"sqlite:///{tmp_path / 'a.sqlite'}")
    for resource in ("r1", "r2", "r3"):
        archive.store(resource, f"{resource}a")
    reader(archive, arrivals).read()
    archive.asked.clear()
    archive.store("r2", "r2b", "r2c")
    reader(archive, arrivals).read()
    assert archive.asked == ["r2"]


@pytest.mark.parametrize("everything", [True, False])
def test_late_images_that_the_log_lost_are_found_by_counting(tmp_path: Path, everything: bool) -> None:
    archive, arrivals = Archive(), Arrivals(f"sqlite:///{tmp_path / 'a.sqlite'}")
    archive.store("before", "x", "y")
    log = reader(archive, arrivals, everything=everything)
    log.read()
    archive.store("r1", "a", "b")
    log.read()
    log.compare()
    assert log.check()
    settled(arrivals)
    archive.store("r1", "c")  # and then somebody empties the log
    archive.store("before", "z")
    archive.lines.clear()
    log.read()
    log.compare()
    assert log.check()
    grown = {each.resource: each.instances for each in arrivals.settling()}
    # What was there before Isocenter looked is none of its business, nor asked for.
    assert grown == ({"r1": 3, "before": 3} if everything else {"r1": 3})
    settled(arrivals)
    for _ in range(2):
        log.compare()
        assert log.check()
    archive.asked.clear()
    log.compare()
    assert log.check()
    assert archive.asked == []


def test_a_series_that_can_not_be_compared_holds_up_no_other(tmp_path: Path) -> None:
    archive, arrivals = Archive(), Arrivals(f"sqlite:///{tmp_path / 'a.sqlite'}")
    log = reader(archive, arrivals)
    log.read()
    for resource in ("r1", "r2", "r3"):
        archive.store(resource, f"{resource}a")
    archive.lines.clear()
    archive.broken.add("r2")
    log.compare()
    assert log.check()
    assert {each.resource for each in arrivals.settling()} == {"r1", "r3"}


def test_what_arrives_while_it_is_counted_is_counted_once_more(tmp_path: Path) -> None:
    archive, arrivals = Archive(), Arrivals(f"sqlite:///{tmp_path / 'a.sqlite'}")
    log = reader(archive, arrivals)
    archive.store("r1", "a")
    log.read()
    settled(arrivals)
    archive.store("r1", "b")
    archive.lines.clear()  # the log has lost it,
    log.read()
    archive.lines.append(Change(9, "StableSeries", "r1"))  # and tells of something else just then
    assert log.compare()
    assert log.check()
    assert [each.instances for each in arrivals.settling()] == [2]
