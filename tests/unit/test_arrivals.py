"""What has arrived, durably: when a series settles anew, and what late decisions change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from isocenter.arrivals import Arrivals, Verdict, fingerprint, study_fingerprint
from isocenter.pacs import ArchiveSeries


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


def test_results_of_ours_do_not_change_the_study(tmp_path: Path) -> None:
    arrivals = Arrivals(f"sqlite:///{tmp_path / 'a.sqlite'}")
    arrivals.record(7, [ArchiveSeries("r1", "1.2", "1.2.3", frozenset({"a"}))], now=100.0)
    before = study_fingerprint(arrivals.of_study("1.2"))
    arrivals.record(8, [ArchiveSeries("r2", "1.2", "1.2.4", frozenset({"b"}))], now=101.0)
    assert study_fingerprint(arrivals.of_study("1.2")) != before
    (result,) = (each for each in arrivals.settling() if each.resource == "r2")
    arrivals.close(result, ours=True)
    assert study_fingerprint(arrivals.of_study("1.2")) == before
