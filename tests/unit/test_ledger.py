"""The ledger: which job is the newest of its subject, which attempt may change it, and who has died of it."""

from __future__ import annotations

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from isocenter.job import JobSpec
from isocenter.ledger import LATER, Ledger
from isocenter.route import Deidentify
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.errors import Cancelled

RESULT = {"sop_instance_uid": "2.25.1", "series_uid": "2.25.2", "modality": "SEG"}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")


def spec(*instances: str, series_uid: str = "1.2.3", destinations: tuple[str, ...] = ()) -> JobSpec:
    return JobSpec(
        algorithm=Algorithm("trivial", "1.0", {}),
        study_uid="1.2",
        series_uids=(series_uid,),
        sop_instance_uids=instances,
        route="everything",
        destinations=destinations,
    )


def id_of(asked: JobSpec) -> str:
    return asked.identity.job_id


def done(ledger: Ledger, asked: JobSpec) -> str:
    ledger.enter(asked)
    ledger.begin(id_of(asked), "worker", "life")
    ledger.store(id_of(asked), [RESULT])
    ledger.end(id_of(asked), "done")
    return id_of(asked)


def test_the_newest_of_a_subject_gives_the_earlier_ones_that_are_not_over(ledger: Ledger) -> None:
    small, large, other = spec("1"), spec("1", "2"), spec("3", series_uid="1.2.4")
    assert ledger.enter(small) == []
    assert ledger.enter(other) == []
    assert [entry.job_id for entry in ledger.enter(large)] == [id_of(small)]
    assert [entry.job_id for entry in ledger.enter(large)] == [id_of(small)]  # repeated after a crash
    ledger.cancel(id_of(small), "superseded")
    assert ledger.enter(large) == []
    assert [entry.job_id for entry in ledger.newest(10)] == [id_of(large), id_of(other), id_of(small)]
    generation = ledger.newest(1)[0].generation
    assert [entry.job_id for entry in ledger.newest(1, below=generation)] == [id_of(other)]
    assert [entry.job_id for entry in ledger.newest(10, "cancelled")] == [id_of(small)]


def test_two_routes_ask_for_the_same_job(ledger: Ledger) -> None:
    ledger.enter(spec("1", destinations=("vna",)))
    ledger.enter(spec("1", destinations=("ris",)))
    entry = ledger.entry(id_of(spec("1")))
    assert entry is not None
    assert entry.destinations == ("ris", "vna")
    assert (entry.generation, entry.attempt) == (1, 1)


def test_a_set_that_is_the_newest_again_is_done_again(ledger: Ledger) -> None:
    small, large = done(ledger, spec("1")), done(ledger, spec("1", "2"))
    assert [(old.job_id, new.job_id) for old, new in ledger.to_supersede()] == [(small, large)]
    ledger.superseded(small, large, [RESULT])

    for _ in range(2):  # the second time changes nothing more
        ledger.enter(spec("1"))
        entry = ledger.entry(small)
        assert entry is not None
        assert (entry.state, entry.attempt, entry.superseded_by) == (None, 2, None)

    ledger.end(small, "done", attempt=2)
    assert [(old.job_id, new.job_id) for old, new in ledger.to_supersede()] == [(large, small)]


def test_images_that_changed_after_the_end_are_done_again_and_not_before(ledger: Ledger) -> None:
    job_id = done(ledger, spec("1"))
    ended = ledger.entry(job_id).ended
    ledger.enter(spec("1"), changed_at=ended - 0.001)
    assert ledger.entry(job_id).state == "done"
    ledger.enter(spec("1"), changed_at=ended + 0.001)
    assert (ledger.entry(job_id).state, ledger.entry(job_id).attempt) == (None, 2)
    assert ledger.entry(job_id).results == (RESULT,)  # they are in the archive until they are replaced


def test_an_attempt_that_is_not_the_newest_changes_nothing(ledger: Ledger) -> None:
    job_id = id_of(spec("1"))
    ledger.enter(spec("1"))
    assert ledger.begin(job_id, "worker", "life", attempt=1).wanted
    for _ in range(2):  # as after a crash in between
        ledger.pause(job_id, attempt=1)
        assert ledger.entry(job_id).attempt == 2
    assert not ledger.begin(job_id, "worker", "life", attempt=1).wanted
    assert ledger.begin(job_id, "worker", "life", attempt=2).wanted
    ledger.end(job_id, "failed", attempt=1)
    assert ledger.entry(job_id).state is None
    ledger.end(job_id, "failed", attempt=2)
    ledger.renew(job_id)
    ledger.renew(job_id)
    ledger.end(job_id, "failed", attempt=2)
    entry = ledger.entry(job_id)
    assert (entry.state, entry.attempt, entry.worker) == (None, 3, None)


def test_deaths_are_counted_and_orderly_ends_are_not(ledger: Ledger) -> None:
    job_id = id_of(spec("1"))
    ledger.enter(spec("1"))
    assert ledger.begin(job_id, "one", "monday").deaths == 0
    assert ledger.begin(job_id, "one", "tuesday").deaths == 0  # the whole stack had ended
    ledger.let_go("one")
    assert ledger.begin(job_id, "one", "tuesday").deaths == 0
    ledger.pause(job_id)
    assert ledger.begin(job_id, "one", "tuesday").deaths == 0
    assert ledger.begin(job_id, "one", "tuesday").deaths == 1
    assert ledger.begin(job_id, "two", "elsewhere").deaths == 2  # another machine's worker had to take over
    ledger.end(job_id, "failed")
    ledger.renew(job_id)
    assert ledger.begin(job_id, "two", "elsewhere").deaths == 0


def test_what_waits_before_another(ledger: Ledger) -> None:
    job_id = id_of(spec("1"))
    ledger.enter(spec("1"))
    ledger.waits(job_id, "common", 2, time.time())
    assert ledger.waits_before("common", 3)
    assert not ledger.waits_before("common", 2)
    assert not ledger.waits_before("other", 3)
    ledger.waits(job_id, "common", 2, time.time() + 60)  # its archive is away: it lets others go first
    assert not ledger.waits_before("common", 3)
    ledger.waits(job_id, "common", 2, time.time())
    ledger.begin(job_id, "worker", "life")
    assert not ledger.waits_before("common", 3)


def test_what_more_workers_would_have_to_do(ledger: Ledger) -> None:
    assert ledger.depth() == (0, 0)
    for number, begins_at in (("1", 0.0), ("2", 0.0), ("3", time.time() + 60)):
        asked = spec(number, series_uid=f"1.2.{number}")
        ledger.enter(asked)
        ledger.waits(id_of(asked), "isocenter", 3, begins_at)
    assert ledger.depth() == (2, 0)  # not what may not begin yet
    ledger.begin(id_of(spec("1")), "worker", "life")
    assert ledger.depth() == (1, 1)
    ledger.end(id_of(spec("1")), "done")
    assert ledger.depth() == (1, 0)


def test_restarts_of_the_whole_stack_are_counted_apart(ledger: Ledger) -> None:
    job_id = id_of(spec("1"))
    ledger.enter(spec("1"))
    began = [ledger.begin(job_id, "one", day) for day in ("monday", "tuesday", "wednesday")]
    assert [(each.deaths, each.restarts) for each in began] == [(0, 0), (0, 1), (0, 2)]
    ledger.end(job_id, "failed")
    ledger.renew(job_id)
    assert ledger.begin(job_id, "one", "thursday").restarts == 0


def test_a_set_that_is_wanted_again_while_its_job_stops_is_done(ledger: Ledger) -> None:
    """One image too many came, and was deleted again before the first job had noticed."""
    small, large = spec("1"), spec("1", "2")
    ledger.enter(small)
    ledger.begin(id_of(small), "worker", "life", attempt=1)
    ledger.enter(large)
    ledger.cancel(id_of(small), "superseded: the larger set")
    assert [each.job_id for each in ledger.enter(small)] == [id_of(large)]
    ledger.cancel(id_of(large), "superseded: the smaller set")

    again = ledger.entry(id_of(small))
    assert (again.attempt, again.state, again.cancelled) == (2, None, None)
    assert ledger.cancelled(id_of(small), attempt=1) == LATER
    with pytest.raises(Cancelled, match="later attempt"):
        ledger.store(id_of(small), [RESULT], attempt=1, worker="worker")
    ledger.end(id_of(small), "cancelled", attempt=1)
    assert ledger.begin(id_of(small), "worker", "life", attempt=2).wanted
    ledger.store(id_of(small), [RESULT], attempt=2, worker="worker")
    ledger.end(id_of(small), "done", attempt=2)
    assert ledger.entry(id_of(small)).state == "done"


def test_by_hand_is_by_hand(ledger: Ledger) -> None:
    ledger.enter(spec("1"))
    ledger.begin(id_of(spec("1")), "worker", "life")
    ledger.cancel(id_of(spec("1")), "by hand")
    ledger.enter(spec("1"))  # nothing has changed
    assert ledger.cancelled(id_of(spec("1"))) == "by hand"


def test_a_worker_that_was_taken_for_lost_stores_nothing(ledger: Ledger) -> None:
    job_id = id_of(spec("1"))
    ledger.enter(spec("1"))
    ledger.begin(job_id, "frozen", "life", attempt=1)
    ledger.begin(job_id, "other", "life", attempt=1)
    with pytest.raises(Cancelled, match="another worker has taken this over"):
        ledger.store(job_id, [RESULT], attempt=1, worker="frozen")


def test_what_a_worker_taken_for_lost_had_begun_to_store_is_taken_out(ledger: Ledger) -> None:
    """It froze between asking and storing, and woke when the job had been cancelled and its results withdrawn."""
    job_id = id_of(spec("1"))
    ledger.enter(spec("1"))
    ledger.begin(job_id, "frozen", "life", attempt=1)
    ledger.store(job_id, [RESULT], attempt=1, worker="frozen")
    ledger.begin(job_id, "other", "life", attempt=1)
    assert ledger.cancel(job_id, "by hand")
    ledger.end(job_id, "cancelled", attempt=1)
    ledger.withdrawn(job_id)
    assert ledger.to_withdraw() == []
    ledger.stored(job_id, [RESULT], attempt=1, worker="frozen")
    assert [each.job_id for each in ledger.to_withdraw()] == [job_id]


def test_the_results_that_a_late_store_brings_back_are_superseded_again(ledger: Ledger) -> None:
    small = id_of(spec("1"))
    ledger.enter(spec("1"))
    ledger.begin(small, "frozen", "life", attempt=1)
    ledger.store(small, [RESULT], attempt=1, worker="frozen")
    ledger.begin(small, "other", "life", attempt=1)
    ledger.store(small, [RESULT], attempt=1, worker="other")
    ledger.end(small, "done", attempt=1)
    large = done(ledger, spec("1", "2"))
    ledger.superseded(small, large, [])
    assert ledger.to_supersede() == []
    ledger.stored(small, [RESULT], attempt=1, worker="frozen")
    assert [(old.job_id, new.job_id) for old, new in ledger.to_supersede()] == [(small, large)]


def test_an_earlier_job_that_ends_after_the_newer_one_is_superseded(ledger: Ledger) -> None:
    small, large = spec("1"), spec("1", "2")
    ledger.enter(small)
    ledger.begin(id_of(small), "worker", "life")
    ledger.store(id_of(small), [RESULT])
    done(ledger, large)
    assert ledger.to_supersede() == []
    ledger.end(id_of(small), "done")
    assert [(old.job_id, new.job_id) for old, new in ledger.to_supersede()] == [(id_of(small), id_of(large))]


def test_a_ledger_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'ledger.sqlite'}"
    first = done(Ledger(database), spec("1"))
    with sqlite3.connect(tmp_path / "ledger.sqlite") as connection:
        for name in ("to_be_outdated", "to_be_restored", "to_be_withdrawn", "to_be_posted", "waiting"):
            connection.execute(f"DROP INDEX ix_isocenter_job_{name}")
        for column in ("restarts", "outdated", "revivals", "queue", "rank", "begins_at"):
            connection.execute(f"ALTER TABLE isocenter_job DROP COLUMN {column}")
    connection.close()
    ledger = Ledger(database)
    assert ledger.entry(first).restarts == 0
    second = done(ledger, spec("1", "2"))
    assert [(old.job_id, new.job_id) for old, new in ledger.to_supersede()] == [(first, second)]


def test_a_job_is_stopped_until_it_stores(ledger: Ledger) -> None:
    waits, runs, stores = (spec(name, series_uid=name) for name in ("1", "2", "3"))
    for each in (waits, runs, stores):
        ledger.enter(each)
    for each in (runs, stores):
        ledger.begin(id_of(each), "worker", "life")
    ledger.store(id_of(stores), [RESULT])

    assert ledger.cancel(id_of(waits), "by hand")
    assert ledger.cancel(id_of(runs), "by hand")
    assert not ledger.cancel(id_of(stores), "by hand")

    assert ledger.entry(id_of(waits)).state == "cancelled"
    assert ledger.entry(id_of(runs)).state is None
    assert ledger.cancelled(id_of(runs)) == "by hand"
    with pytest.raises(Cancelled, match="by hand"):
        ledger.store(id_of(runs), [RESULT])
    assert ledger.cancelled(id_of(stores)) is None


def test_the_beginning_of_an_id(ledger: Ledger) -> None:
    for number in range(40):
        ledger.enter(spec(str(number), series_uid=str(number)))
    ids = sorted(entry.job_id for entry in ledger.newest(100))
    for id_ in ids:
        assert [entry.job_id for entry in ledger.beginning_with(id_)] == [id_]
        assert len(ledger.beginning_with(id_[:1])) == min(2, sum(each[0] == id_[0] for each in ids))


def test_what_comes_at_the_same_time_is_put_in_an_order(ledger: Ledger) -> None:
    specs = [spec(str(number)) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ledger.enter, specs))
        began = list(pool.map(lambda _: ledger.begin(id_of(specs[0]), "worker", "life"), range(8)))
    generations = [entry.generation for entry in ledger.newest(100)]
    assert sorted(generations) == list(range(1, 41))
    assert sorted(each.deaths for each in began) == list(range(8))


@pytest.mark.parametrize("how", ["failed", "cancelled while it waited"])
def test_what_a_job_superseded_is_current_again_when_it_is_retried_in_vain(how: str, tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.sqlite'}")
    old, new = spec("1"), spec("1", "2")
    note = {"sop_instance_uid": "2.25.9"}
    for each in (old, new):
        ledger.enter(each)
        ledger.store(each.identity.job_id, [{"sop_instance_uid": "2.25.1"}])
        ledger.end(each.identity.job_id, "done")
    ledger.superseded(old.identity.job_id, new.identity.job_id, [note])
    assert ledger.to_restore() == []
    ledger.renew(new.identity.job_id)
    if how == "failed":
        ledger.end(new.identity.job_id, "failed")
    else:
        ledger.cancel(new.identity.job_id, "by hand")
    assert [each.job_id for each in ledger.to_restore()] == [old.identity.job_id]
    assert ledger.to_supersede() == []


def test_a_job_that_sees_no_identity_replaces_none_that_does(ledger: Ledger) -> None:
    plain = spec("1")
    hidden, dated = (replace(plain, deidentify=Deidentify(keep=keep)) for keep in ((), ("dates",)))
    assert len({each.subject for each in (plain, hidden, dated)}) == 3
    for each in (plain, hidden, dated):
        assert ledger.enter(each) == []  # nothing of the others' is to be stopped
        done(ledger, each)
    assert ledger.to_supersede() == []


def test_a_job_knows_whose_results_it_replaces(ledger: Ledger) -> None:
    first, second, third, fourth = spec("1"), spec("1", "2"), spec("1", "2", "3"), spec("1", "2", "3", "4")
    assert ledger.replaced(id_of(first)) is None
    done(ledger, first)
    assert ledger.replaced(id_of(first)) is None
    ledger.enter(second)
    assert ledger.replaced(id_of(second)) == ledger.entry(id_of(first))
    done(ledger, second)
    ledger.superseded(id_of(first), id_of(second), [])
    assert ledger.replaced(id_of(second)) == ledger.entry(id_of(first))  # also when it is run again
    ledger.enter(third)
    ledger.end(id_of(third), "failed")
    ledger.enter(fourth)
    assert ledger.replaced(id_of(fourth)) == ledger.entry(id_of(second))
    assert ledger.replaced("0" * 64) is None
