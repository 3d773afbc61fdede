"""The outbox: what each destination is to be told of a job, in which order, and what is never sent."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import isocenter
from isocenter.job import Job, JobSpec
from isocenter.ledger import Ledger
from isocenter.ledger_entry import Entry
from isocenter.notices import Notice, Notices
from isocenter.onward import Outbox
from isocenter.onward.collector import Collector
from isocenter.onward.delivery import Delivery
from isocenter.peer import FolderPeer, Peer, WebhookPeer
from isocenter.settings import Settings
from isocenter_operators.dicom.identity import Algorithm

pytest_plugins = ["postgres"]

PEERS: dict[str, Peer] = {
    "pacs": FolderPeer(kind="folder", path=Path("anywhere")),
    "vna": FolderPeer(kind="folder", path=Path("elsewhere")),
    "ris": WebhookPeer(kind="webhook", url="http://ris/isocenter", secret="s"),
}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres"))
    return f"sqlite:///{tmp_path / 'outbox.sqlite'}"


@pytest.fixture
def outbox(database: str) -> Outbox:
    return Outbox(database, PEERS)


def instance(number: int) -> dict[str, str]:
    return {
        "study_uid": "1.2",
        "series_uid": f"1.2.{number}",
        "sop_instance_uid": f"1.2.{number}.1",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.66.4",
        "modality": "SEG",
    }


def entry(job: str = "a", destinations: Sequence[str] = ("pacs",), **others: Any) -> Entry:
    """A job that is done, with two results."""
    values = {
        "job_id": job * 64,
        "generation": 1,
        "subject": "app/1.2/series/1.2.3",
        "application": "app",
        "route": "CT",
        "study_uid": "1.2",
        "policy": "keep",
        "destinations": tuple(destinations),
        "state": "done",
        "ended": 1000.0,
        "cancelled": None,
        "worker": None,
        "deaths": 0,
        "storing": False,
        "results": (instance(1), instance(2)),
        "superseded_by": None,
        "marks": (),
    }
    return Entry(**{**values, **others})


def superseded(old: Entry, by: str = "b") -> Entry:
    return replace(old, superseded_by=by * 64, marks=(instance(9),))


def all_of(outbox: Outbox, job: str = "a") -> list[tuple[str, str, str]]:
    return [(each.destination, each.what, each.state) for each in outbox.of_job(job * 64)]


def due(outbox: Outbox, destination: str = "pacs") -> Delivery:
    found = outbox.due(destination, time.time())
    assert found is not None
    return found


def send(outbox: Outbox, destination: str = "pacs") -> Delivery:
    delivery = due(outbox, destination)
    assert outbox.begin(delivery, 0.0)
    outbox.sent(delivery)
    return delivery


def test_what_is_posted_again_is_sent_once_and_to_each_destination(outbox: Outbox) -> None:
    done = entry(destinations=["pacs", "vna"])
    assert outbox.post(done) == {"pacs", "vna"}
    assert outbox.post(done) == set()
    # A second route asked for the same job, and wants its results elsewhere too.
    assert outbox.post(replace(done, destinations=("pacs", "ris", "vna"))) == {"ris"}
    delivery = send(outbox)
    assert [each["sop_instance_uid"] for each in delivery.instances] == ["1.2.1.1", "1.2.2.1"]
    assert outbox.post(done) == set()
    assert outbox.due("pacs", time.time()) is None
    assert all_of(outbox) == [
        ("pacs", "results", "sent"),
        ("vna", "results", "waiting"),
        ("ris", "outcome", "waiting"),
    ]
    # Run again, its results may be gone from the other side, and it has got an outcome of its own.
    assert outbox.post(replace(done, ended=2000.0)) == {"pacs", "vna"}
    assert all_of(outbox)[1] == ("vna", "results", "dropped")


@pytest.mark.parametrize("state", ["not_applicable", "failed", "cancelled"])
def test_only_a_webhook_is_told_of_a_job_without_results(outbox: Outbox, state: Any) -> None:
    ended = entry(destinations=["pacs", "ris"], state=state, results=(instance(1),))
    assert outbox.post(ended, "no lungs in this series") == {"ris"}
    news = due(outbox, "ris").news
    assert (news["event"], news["state"], news["reason"]) == (state, state, "no lungs in this series")
    assert (news["job_id"], news["study_uid"], news["application"]) == ("a" * 64, "1.2", "app")
    assert news["results"] == []  # what was stored of them is withdrawn


def test_results_that_are_superseded_before_they_are_sent_never_are(outbox: Outbox) -> None:
    old = entry(destinations=["pacs", "vna", "ris"])
    outbox.post(old)
    outbox.fail(due(outbox, "vna"), "refused")
    assert outbox.post(superseded(old)) == {"ris"}
    assert all_of(outbox) == [
        ("pacs", "results", "dropped"),
        ("vna", "results", "dropped"),
        ("ris", "outcome", "waiting"),
        ("ris", "superseded", "waiting"),
    ]
    assert outbox.of_job("a" * 64)[0].reason == f"superseded by job {'b' * 12} before it was sent"
    assert outbox.retry("a" * 64) == 0  # or a person would send what is outdated
    assert send(outbox, "ris").news["event"] == "done"
    news = send(outbox, "ris").news
    assert (news["event"], news["superseded_by"]) == ("superseded", "b" * 64)


def test_whoever_may_have_got_results_is_told_that_they_are_superseded(outbox: Outbox) -> None:
    old = entry(destinations=["pacs", "vna"])
    outbox.post(old)
    send(outbox, "pacs")
    begun = due(outbox, "vna")
    assert outbox.begin(begun, 0.0)
    assert outbox.post(superseded(old)) == {"pacs", "vna"}
    outbox.sent(begun)  # it had been on its way
    assert all_of(outbox) == [
        ("pacs", "results", "sent"),
        ("vna", "results", "sent"),
        ("pacs", "superseded", "waiting"),
        ("vna", "superseded", "waiting"),
    ]
    assert [each["sop_instance_uid"] for each in due(outbox).instances] == ["1.2.9.1"]


def test_a_dropped_delivery_is_not_begun(outbox: Outbox) -> None:
    outbox.post(entry())
    delivery = due(outbox)
    outbox.post(superseded(entry()))
    assert not outbox.begin(delivery, 0.0)


def test_a_job_that_is_current_again_is_not_called_superseded(outbox: Outbox) -> None:
    outbox.post(entry())
    send(outbox)
    outbox.post(superseded(entry()))
    outbox.post(entry(ended=3000.0))
    assert all_of(outbox) == [
        ("pacs", "results", "sent"),
        ("pacs", "superseded", "dropped"),
        ("pacs", "results", "waiting"),
    ]


def test_a_webhook_is_told_that_a_job_is_current_again(outbox: Outbox) -> None:
    """It was superseded by b, b was run again and failed; and once more."""
    old = entry(destinations=["ris"])
    outbox.post(old)
    for times in range(3):
        assert outbox.post(replace(superseded(old), revivals=times)) == {"ris"}
        current = replace(old, revivals=times + 1, marks=(instance(9),))
        assert outbox.post(current) == {"ris"}
        assert outbox.post(current) == set()
    told = [send(outbox, "ris") for _ in range(7)]
    assert [each.news["event"] for each in told] == ["done", *["superseded", "current"] * 3]
    assert len({each.key for each in told}) == 7
    news = told[-1].news
    assert (news["state"], news["superseded_by"]) == ("done", None)
    assert news["reason"] == f"job {'b' * 64}, which had superseded it, was run again and gave no result"
    assert [each["sop_instance_uid"] for each in news["results"]] == ["1.2.1.1", "1.2.2.1"]
    # Run again itself, it has an outcome of its own.
    assert outbox.post(replace(old, revivals=3, ended=3000.0)) == {"ris"}
    assert send(outbox, "ris").news["event"] == "done"


def test_results_that_were_dropped_are_sent_when_they_are_current_again(outbox: Outbox) -> None:
    old = entry(destinations=["pacs", "vna"])
    outbox.post(old)
    send(outbox, "vna")
    outbox.post(superseded(old))
    current = replace(old, revivals=1, marks=(instance(9),))
    assert outbox.post(current) == {"pacs", "vna"}
    assert all_of(outbox) == [
        ("pacs", "results", "dropped"),
        ("vna", "results", "sent"),
        ("vna", "superseded", "dropped"),
        ("pacs", "results", "waiting"),
        ("vna", "results", "waiting"),
    ]
    send(outbox, "pacs")
    assert outbox.post(replace(superseded(old), revivals=1)) == {"pacs", "vna"}
    assert [each["sop_instance_uid"] for each in due(outbox).instances] == ["1.2.9.1"]


def test_deleted_results_leave_nothing_to_send(outbox: Outbox) -> None:
    """By the policy `delete` there is no mark; a webhook is told all the same."""
    old = entry(destinations=["pacs", "ris"])
    outbox.post(old)
    send(outbox)
    assert outbox.post(replace(superseded(old), marks=())) == {"ris"}


def test_the_order_of_a_study_is_kept_and_other_studies_go_on(outbox: Outbox) -> None:
    for job, study in [("a", "1.2"), ("b", "1.2"), ("c", "1.3")]:
        outbox.post(entry(job, study_uid=study))
    first = due(outbox)
    assert first.job_id[0] == "a"
    outbox.begin(first, 0.0)
    outbox.later(first, "away", time.time() + 60, refused=False)
    assert send(outbox).job_id[0] == "c"
    assert outbox.due("pacs", time.time()) is None  # not the later one of the study that waits
    again = outbox.due("pacs", time.time() + 61)
    assert again is not None
    assert (again.job_id[0], again.attempts, again.failures, again.reason) == ("a", 1, 1, "away")
    outbox.fail(again, "refused")
    assert send(outbox).job_id[0] == "b"


def test_whoever_has_failed_waits_behind_the_others(outbox: Outbox) -> None:
    """Or a study that the destination always chokes on would be the only one that is ever tried."""
    outbox.post(entry("a", study_uid="1.2"))
    outbox.post(entry("b", study_uid="1.3"))
    first = due(outbox)
    outbox.begin(first, 0.0)
    outbox.later(first, "away", time.time() + 1, refused=False)
    after = outbox.due("pacs", time.time() + 2)
    assert after is not None
    assert after.job_id[0] == "b"


def test_counts_tell_what_waits_since_when_and_why(outbox: Outbox) -> None:
    assert outbox.counts() == {}
    outbox.post(entry("a", ["pacs", "vna"]))
    outbox.post(entry("b", ["pacs"], study_uid="1.3"))
    first = due(outbox)
    outbox.later(first, "pacs does not answer", time.time() + 60, refused=False)
    outbox.fail(due(outbox, "vna"), "refused: vna")
    counts = outbox.counts()
    assert (counts["pacs"].waiting, counts["pacs"].failed, counts["pacs"].reason) == (
        2,
        0,
        "pacs does not answer",
    )
    assert abs((counts["pacs"].failing_since or 0) - time.time()) < 60
    assert (counts["vna"].waiting, counts["vna"].failed, counts["vna"].reason) == (0, 1, "refused: vna")
    assert counts["vna"].failing_since is None

    assert outbox.retry("a" * 64) == 1
    again = due(outbox, "vna")
    assert (again.failures, again.refusals, again.reason) == (0, 0, "")


def test_old_deliveries_are_forgotten_and_waiting_ones_never(outbox: Outbox) -> None:
    outbox.post(entry("a"))
    send(outbox)
    outbox.post(entry("b"))
    now = datetime.now(UTC)
    assert outbox.forget(now - timedelta(days=1)) == 0
    assert outbox.forget(now + timedelta(days=1)) == 1
    assert all_of(outbox, "a") == []
    assert all_of(outbox, "b") == [("pacs", "results", "waiting")]
    # That the results had been sent is not known any more: so the destination is told that they are superseded.
    assert outbox.post(superseded(entry("a"))) == {"pacs"}


def test_posting_and_sending_at_once_loses_nothing(outbox: Outbox) -> None:
    """Of two threads that begin the same delivery and drop it, the drop knows whether it was begun."""
    jobs = [f"{number:064x}" for number in range(30)]
    for job in jobs:
        outbox.post(replace(entry(study_uid=job), job_id=job))
    waiting = [outbox.of_job(job)[0] for job in jobs]
    begun: dict[str, bool] = {}

    def begin() -> None:
        for each in waiting:
            begun[each.job_id] = outbox.begin(each, 0.0)

    thread = Thread(target=begin)
    thread.start()
    told = {job: outbox.post(superseded(replace(entry(study_uid=job), job_id=job))) for job in reversed(jobs)}
    thread.join()
    assert begun == {job: bool(told[job]) for job in jobs}


def test_nobody_else_has_the_outboxs_lock() -> None:
    """Or a worker that arrives would wait for a courier, and the other way round."""
    source = Path(isocenter.__file__).parent
    found = [
        each for file in source.rglob("*.py") for each in re.findall(r"= (0x150CE\w+)", file.read_text())
    ]
    assert len(found) > 2
    assert len(set(found)) == len(found)


class FakeLedger:
    def __init__(self, *entries: Entry) -> None:
        self.waiting = list(entries)

    def to_post(self) -> list[Entry]:
        return list(self.waiting)

    def posted(self, entry: Entry) -> None:
        self.waiting.remove(entry)


class FakeQueue:
    """The queue, which says a moment later than the ledger why a job has failed."""

    def __init__(self) -> None:
        self.reason = ""

    def show(self, job_id: str) -> Job | None:
        now = datetime.now(UTC)
        return Job(job_id, "failed", "app", "CT", "routine", "1.2", ("1.2.3",), now, now, 1, self.reason)


def test_a_webhook_is_told_the_reason_and_nothing_of_the_study_overtakes_it(
    outbox: Outbox, database: str
) -> None:
    failed = entry("a", ["ris"], state="failed", ended=time.time(), results=())
    ledger, queue = FakeLedger(failed, entry("b", ["ris"]), entry("c", ["ris"], study_uid="1.3")), FakeQueue()
    settings = Settings(peers=PEERS, routes=[])
    Ledger(database)  # it makes the notices' table
    collector = Collector(settings, ledger, Notices(database), outbox, queue)  # type: ignore[arg-type]
    assert collector.collect() == {"ris"}
    assert [each.job_id[0] for each in ledger.waiting] == ["a", "b"]
    queue.reason = "the slices are not parallel"
    collector.collect()
    assert ledger.waiting == []
    told = [send(outbox, "ris").news for _ in range(3)]
    assert [(news["job_id"][0], news["reason"]) for news in told] == [
        ("c", ""),
        ("a", "the slices are not parallel"),
        ("b", ""),
    ]


def test_the_ledger_itself_says_that_a_job_is_current_again(outbox: Outbox, database: str) -> None:
    ledger, queue = Ledger(database), FakeQueue()
    queue.reason = "the slices are not parallel"
    settings = Settings(peers=PEERS, routes=[])
    collector = Collector(settings, ledger, Notices(database), outbox, queue)  # type: ignore[arg-type]
    specs = [
        JobSpec(
            algorithm=Algorithm("app", "1"),
            study_uid="1.2",
            series_uids=("1.2.3",),
            sop_instance_uids=("1.2.3.1", "1.2.3.2")[:count],
            route="CT",
            destinations=("ris",),
        )
        for count in (1, 2)
    ]
    old, new = (spec.identity.job_id for spec in specs)
    for number, spec in enumerate(specs):
        ledger.enter(spec)
        ledger.begin(spec.identity.job_id, "worker", "life")
        ledger.store(spec.identity.job_id, [instance(number)])
        ledger.end(spec.identity.job_id, "done")
    ledger.superseded(old, new, [instance(9)])
    collector.collect()
    ledger.renew(new)
    ledger.end(new, "failed")
    collector.collect()
    collector.collect()
    told = [send(outbox, "ris").news for _ in range(4)]
    assert outbox.due("ris", time.time()) is None
    assert [(news["job_id"], news["event"]) for news in told[:2]] == [(new, "done"), (old, "superseded")]
    assert {(news["job_id"], news["event"]) for news in told[2:]} == {(old, "current"), (new, "failed")}


def _collector(database: str, outbox: Outbox) -> tuple[Ledger, Notices, Collector]:
    ledger, notices = Ledger(database), Notices(database)
    settings, queue = Settings(peers=PEERS, routes=[]), FakeQueue()
    queue.reason = "the slices are not parallel"
    return ledger, notices, Collector(settings, ledger, notices, outbox, queue)  # type: ignore[arg-type]


def _spec(*destinations: str) -> JobSpec:
    return JobSpec(
        algorithm=Algorithm("app", "1"),
        study_uid="1.2",
        series_uids=("1.2.3",),
        sop_instance_uids=("1.2.3.1",),
        route="CT",
        destinations=destinations,
        outcome="always",
    )


def _failed_and_told(ledger: Ledger, notices: Notices, *destinations: str) -> tuple[str, Notice]:
    """A job whose note is in the archive."""
    spec = _spec(*destinations)
    job = spec.identity.job_id
    ledger.enter(spec)
    ledger.end(job, "failed", reason="the slices are not parallel")
    (notice,) = notices.open()
    notices.storing(notice, [instance(5)])
    notices.stored(notice)
    return job, notice


def test_a_note_goes_where_results_go_and_so_does_that_it_is_not_valid_any_more(
    outbox: Outbox, database: str
) -> None:
    ledger, notices, collector = _collector(database, outbox)
    job, notice = _failed_and_told(ledger, notices, "pacs", "vna")
    assert collector.collect() == {"pacs", "vna"}
    assert collector.collect() == set()
    sent = send(outbox)
    assert (sent.what, sent.instances) == ("note", (instance(5),))

    ledger.renew(job)
    ledger.begin(job, "worker", "life")
    ledger.store(job, [instance(1)])
    ledger.end(job, "done")
    notices.marking(notice, [instance(6)])
    notices.withdrawn(notice, job)
    collector.collect()
    assert {(each.destination, each.what, each.state) for each in outbox.of_job(job)} == {
        ("pacs", "note", "sent"),
        ("pacs", "results", "waiting"),
        ("pacs", "note_withdrawn", "waiting"),
        ("vna", "note", "dropped"),  # it never went there, so nothing has to be taken back
        ("vna", "results", "waiting"),
    }
    assert [send(outbox).instances for _ in range(2)] == [(instance(1),), (instance(6),)]


def test_a_note_that_is_not_in_the_archive_yet_or_not_any_more_is_not_sent(
    outbox: Outbox, database: str
) -> None:
    ledger, notices, collector = _collector(database, outbox)
    job, notice = _failed_and_told(ledger, notices, "pacs", "ris")
    assert collector.collect() >= {"pacs"}
    notices.deleted(notice, job)
    collector.collect()
    assert outbox.due("pacs", time.time()) is None
    assert ("pacs", "note", "dropped") in {
        (each.destination, each.what, each.state) for each in outbox.of_job(job)
    }
    assert not [each for each in outbox.of_job(job) if each.destination == "ris" and each.what == "note"]


def test_a_note_that_is_valid_again_is_not_taken_back(outbox: Outbox, database: str) -> None:
    ledger, notices, _ = _collector(database, outbox)
    _, valid = _failed_and_told(ledger, notices, "pacs")
    valid = replace(valid, stored=True, instances=(instance(5),))
    outbox.post_note(valid, ["pacs"])
    send(outbox)
    withdrawn = replace(valid, withdrawn_by="b" * 64, marks=(instance(6),))
    outbox.post_note(withdrawn, ["pacs"])
    assert due(outbox).what == "note_withdrawn"
    assert outbox.post_note(valid, ["pacs"]) == set()
    assert outbox.due("pacs", time.time()) is None
    # And once more: it must not look valid there.
    assert outbox.post_note(withdrawn, ["pacs"]) == {"pacs"}
    assert send(outbox).instances == (instance(6),)


def test_a_note_that_is_valid_again_before_it_was_sent_is_sent(outbox: Outbox, database: str) -> None:
    ledger, notices, _ = _collector(database, outbox)
    _, valid = _failed_and_told(ledger, notices, "pacs")
    valid = replace(valid, stored=True, instances=(instance(5),))
    outbox.post_note(valid, ["pacs"])
    outbox.post_note(replace(valid, withdrawn_by="b" * 64, marks=(instance(6),)), ["pacs"])
    assert outbox.due("pacs", time.time()) is None
    assert outbox.post_note(valid, ["pacs"]) == {"pacs"}
    assert send(outbox).instances == (instance(5),)


def test_a_destination_that_is_added_later_gets_the_note_too(outbox: Outbox, database: str) -> None:
    ledger, notices, collector = _collector(database, outbox)
    job, _ = _failed_and_told(ledger, notices, "pacs")
    collector.collect()
    send(outbox)
    ledger.enter(_spec("vna"))
    assert collector.collect() == {"vna"}
    assert send(outbox, "vna").instances == (instance(5),)
    assert outbox.due("pacs", time.time()) is None
    assert {each.destination for each in outbox.of_job(job)} == {"pacs", "vna"}
