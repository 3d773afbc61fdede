"""The durable queue and the worker, for real: DBOS on both databases, the worker as a process that can be killed."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from trivial_app import Workers, ended, go, install, lines, noted, spec, until, wait_for

from isocenter.database import engine, prepare
from isocenter.job import Job
from isocenter.jobs import Jobs
from isocenter.ledger import Ledger
from isocenter.notices import Notices
from isocenter.route import Hours
from isocenter.settings import Settings
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.errors import InputError

pytestmark = pytest.mark.integration
pytest_plugins = ["postgres"]

both = pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str | None:
    kind = getattr(request, "param", "sqlite")
    return request.getfixturevalue("postgres") if kind == "postgresql" else None


@pytest.fixture
def settings(tmp_path: Path, database: str | None) -> Settings:
    install(tmp_path / "apps")
    return Settings(
        data_dir=tmp_path / "data",
        apps_dir=tmp_path / "apps",
        database_url=database,
        limits={"free_disk_mb": 0},
        worker={"attempts": 3, "retry_after_s": 0.1},
    )


@pytest.fixture
def workers(settings: Settings, tmp_path: Path) -> Iterator[Workers]:
    """Starts workers of these settings; every one that was started is ended with the test."""
    started = Workers(settings, tmp_path)
    yield started
    started.end()


def kill(process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGKILL) -> None:
    process.send_signal(how)
    process.wait(30)


def begun(settings: Settings, what: str, times: int = 1) -> None:
    until(lambda: lines(settings, "begun", what) >= times, lambda: str(noted(settings, "begun")))


@both
def test_every_way_a_job_can_end(jobs: Jobs, settings: Settings, workers: Workers) -> None:
    names = ("good", "head", "bad", "flaky", "away", "surprise", "late", "memory", "hungry")
    asked = {name: jobs.submit(spec(name, outcome="on_failure")) for name in names}
    assert jobs.submit(spec("good")) == asked["good"]
    assert [job.state for job in jobs.list()] == ["queued"] * 9
    workers.start()

    ends = {name: ended(jobs, job_id) for name, job_id in asked.items()}

    done = ends["good"]
    assert (done.state, done.reason, done.attempts) == ("done", "", 1)
    assert done.notes == ("cut off", "priority 3")
    assert done.groups == ({"label": "Lung", "notes": [], "volume_mL": 12.5, "mean_HU": None},)
    assert done.results[0]["series_uid"] == "2.25.2"
    assert list(done.seconds) == ["settle", "queue", "fetch", "rest"]
    assert done.seconds["fetch"] == 0.01
    assert done.ended is not None
    whole = (done.ended - done.created).total_seconds()
    assert 0.01 < done.seconds["queue"] + done.seconds["rest"] <= whole + 0.01
    assert lines(settings, "finished", "good") == 1

    assert ends["head"].seconds["rest"] >= 0.2
    assert (ends["head"].state, ends["head"].reason) == ("not_applicable", "no lungs in this series")
    assert (ends["bad"].state, ends["bad"].attempts) == ("failed", 1)
    assert ends["bad"].reason == "series 1.2.bad: the slices are not parallel"
    assert (ends["flaky"].state, ends["flaky"].attempts) == ("done", 3)
    assert (ends["away"].state, ends["away"].attempts) == ("failed", 3)
    assert ends["away"].reason == (
        f"Triton does not answer (tried 3 times); `isocenter jobs retry {asked['away'][:12]}` runs it again"
    )
    assert ends["surprise"].state == "failed"
    assert "KeyError" in ends["surprise"].reason
    # A call that did not end: something was done about it each time.
    assert (ends["late"].state, ends["late"].attempts) == ("failed", 3)
    assert ends["late"].reason.startswith("no answer in 1 s; Triton is not running on this machine")
    for name in ("memory", "hungry"):  # once more, and no oftener
        assert (ends[name].state, ends[name].attempts) == ("failed", 2)
        assert "(tried 2 times)" in ends[name].reason

    # What their studies are told: each once, at the end, without what only helps whoever looks after the service.
    told = Notices(settings.database).newest(asked.values())
    assert told.keys() == {asked[name] for name in names if name not in ("good", "flaky")}
    assert (told[asked["head"]].ending, told[asked["head"]].reason) == (
        "not_applicable",
        "no lungs in this series",
    )
    assert told[asked["bad"]].ending == "refused"
    assert (told[asked["away"]].ending, told[asked["away"]].attempt) == ("failed", 3)
    assert told[asked["away"]].reason == "Triton does not answer (tried 3 times)"
    assert "Doe" not in "".join(each.reason for each in told.values())

    # A person asks once more: the same job, with a new budget of attempts.
    away = asked["away"]
    again = jobs.retry(away)
    assert (again.id, again.state, again.attempts) == (away, "queued", 4)
    assert ended(jobs, away).attempts == 6

    assert len(jobs.list()) == 9
    assert [job.id for job in jobs.list(limit=2)] == [asked["hungry"], asked["memory"]]
    assert {job.id for job in jobs.list(state="done")} == {asked["good"], asked["flaky"]}
    assert jobs.list(state="running") == jobs.list(state="queued") == []
    assert "Doe^Jane" not in workers.log.read_text()
    kept = "".join(job.reason for job in jobs.list())
    assert "Doe" not in kept


@both
def test_a_killed_worker_finishes_its_job_after_the_restart(
    jobs: Jobs, settings: Settings, workers: Workers, database: str | None
) -> None:
    job_id = jobs.submit(spec("slow"))
    first = workers.start()
    begun(settings, "slow")
    assert jobs.show(job_id[:10]).state == "running"
    kill(first)
    # On SQLite there is one worker at a time, so the next one takes over, whatever its name.
    workers.start(name="another" if database is None else "worker")

    job = ended(jobs, job_id)

    assert (job.state, job.attempts) == ("done", 1)
    assert lines(settings, "begun", "slow") == 2
    assert lines(settings, "finished", "slow") == 1
    assert [each.id for each in jobs.list()] == [job_id]


def test_a_job_that_hangs_is_given_to_another_worker(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    job_id = jobs.submit(spec("slow"))
    assert workers.start(longest_attempt_s=0.5).wait(30) == 1
    assert jobs.submit(spec("good")) != job_id
    workers.start()
    assert ended(jobs, job_id).state == "done"
    assert lines(settings, "finished", "slow") == 1


@both
def test_a_job_that_kills_its_worker_twice_is_set_aside(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    first, poison, last = (jobs.submit(spec(what)) for what in ("brief.a", "poison", "brief.b"))
    for _ in range(2):
        assert workers.start(concurrency=3).wait(60) == -signal.SIGKILL
    workers.start(concurrency=3)

    job = ended(jobs, poison)

    assert job.state == "failed"
    assert job.reason.startswith("set aside: it has cost 2 workers their life")
    assert job.reason.endswith(f"`isocenter jobs retry {poison[:12]}` runs it again")
    assert lines(settings, "begun", "poison") == 2
    # Those that ran beside it have lost a worker to it too, and are not taken for it.
    assert {ended(jobs, each).state for each in (first, last)} == {"done"}


@pytest.mark.parametrize("how", ["the whole stack", "in order"])
def test_a_worker_that_was_ended_has_not_died_of_its_job(
    jobs: Jobs, settings: Settings, workers: Workers, how: str
) -> None:
    job_id = jobs.submit(spec("held"))
    for number in range(3):
        worker = workers.start(stack=f"stack {number}" if how == "the whole stack" else "stack")
        begun(settings, "held", number + 1)
        kill(worker, signal.SIGKILL if how == "the whole stack" else signal.SIGTERM)
    go(settings)
    workers.start(stack="stack 3" if how == "the whole stack" else "stack")
    assert ended(jobs, job_id).state == "done"
    assert lines(settings, "begun", "held") == 4


def test_a_job_from_before_an_update_is_done_by_the_version_installed(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    old = jobs.submit(spec("good"))
    install(settings.apps_dir, version="2.0")
    workers.start()
    left = ended(jobs, old)
    assert left.state == "cancelled"
    (new,) = (job.id for job in jobs.list() if job.id != old)
    assert left.reason == f"trivial 2.0 is installed by now: job {new[:12]} does this"
    assert ended(jobs, new).state == "done"
    assert lines(settings, "finished", "good") == 1


def test_a_job_that_waits_is_cancelled_and_can_be_asked_for_again(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    job_id = jobs.submit(spec("good"))
    with pytest.raises(InputError, match="is queued: only a job that has ended can be run again"):
        jobs.retry(job_id)
    gone = jobs.cancel(job_id[:8])
    assert (gone.state, gone.reason, gone.over) == ("cancelled", "by hand", True)
    with pytest.raises(InputError, match="is cancelled: only a job that waits or runs can be cancelled"):
        jobs.cancel(job_id)
    last = jobs.submit(spec("other"))
    workers.start()
    ended(jobs, last)
    assert lines(settings, "begun", "good") == 0

    jobs.retry(job_id)

    assert ended(jobs, job_id).state == "done"


@both
def test_a_job_that_runs_stops_at_its_next_step(jobs: Jobs, settings: Settings, workers: Workers) -> None:
    job_id, held = jobs.submit(spec("steps")), jobs.submit(spec("held"))
    workers.start(concurrency=2)
    begun(settings, "steps")
    begun(settings, "held")

    jobs.cancel(job_id)
    stopped = ended(jobs, job_id)
    assert (stopped.state, stopped.reason) == ("cancelled", "by hand")

    # One that is in no step goes on until it would store.
    told = jobs.cancel(held)
    assert (told.state, told.reason) == ("running", "is being cancelled: by hand")
    go(settings)
    assert ended(jobs, held).state == "cancelled"
    assert noted(settings, "finished") == []

    jobs.retry(job_id)
    assert ended(jobs, job_id).state == "done"


def test_a_job_that_stores_its_results_is_not_stopped(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    job_id = jobs.submit(spec("storing"))
    workers.start()
    until(lambda: lines(settings, "stores", "storing"))
    with pytest.raises(InputError, match="stores its results already and can not be stopped"):
        jobs.cancel(job_id)
    go(settings)
    assert ended(jobs, job_id).state == "done"
    entry = Ledger(settings.database).entry(job_id)
    assert [each["modality"] for each in entry.results] == ["SEG"]


@both
def test_the_most_urgent_is_done_first_and_the_oldest_of_these(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    held = jobs.submit(spec("held"))
    workers.start()
    begun(settings, "held")
    asked = ["good.a", "good.b", "good.c", "good.d"]
    for what, priority in zip(asked, ("batch", "routine", "urgent", "routine"), strict=True):
        jobs.submit(spec(what, priority=priority))
        time.sleep(1.1)  # SQLite notes whole seconds
    stat = jobs.submit(spec("good.stat", priority="STAT"))

    # STAT has a place of its own, so it waits for nobody.
    assert ended(jobs, stat).notes[1] == "priority 1"
    assert jobs.show(held).state == "running"
    go(settings)

    until(lambda: not jobs.list(state="queued") and not jobs.list(state="running"))
    order = ["held", "good.stat", "good.c", "good.b", "good.d", "good.a"]
    assert noted(settings, "begun") == [f"1.2.{what}" for what in order]
    assert [job.priority for job in jobs.list(limit=2)] == ["STAT", "routine"]


def test_without_places_of_its_own_stat_is_only_first(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    held = jobs.submit(spec("held"))
    workers.start(stat_slots=0)
    without = Jobs(
        settings.model_copy(update={"worker": settings.worker.model_copy(update={"stat_slots": 0})})
    )
    begun(settings, "held")
    before = jobs.submit(spec("good.before", priority="STAT"))  # as when it had places
    routine = without.submit(spec("good.routine"))
    stat = without.submit(spec("good.stat", priority="STAT"))
    without.close()
    time.sleep(0.5)
    assert noted(settings, "begun") == ["1.2.held"]
    go(settings)
    assert {ended(jobs, each).state for each in (held, before, routine, stat)} == {"done"}
    order = noted(settings, "begun")  # "before" is in a queue of its own, whose turn is any
    assert order.index("1.2.good.stat") < order.index("1.2.good.routine")


def test_stat_passes_a_job_of_the_same_limit_that_only_waits_for_a_place(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    """The place is another application's for long, and a batch job has been taken from the queue too early."""
    install(settings.apps_dir, concurrency=1)
    install(settings.apps_dir, "long")
    long = jobs.submit(spec("held", algorithm=Algorithm("long", "1.0", {})))
    workers.start()
    until(lambda: noted(settings, "begun", "long"))
    batch = jobs.submit(spec("good.batch", priority="batch"))
    time.sleep(1.5)  # by now it waits for the place
    stat = jobs.submit(spec("good.stat", priority="STAT"))
    assert ended(jobs, stat).state == "done"
    assert noted(settings, "begun") == ["1.2.good.stat"]
    go(settings, "long")
    assert {ended(jobs, each).state for each in (long, batch)} == {"done"}


def test_a_job_that_several_routes_ask_for_goes_by_the_most_urgent(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    now = datetime.now()
    hours = Hours(start=(now + timedelta(hours=2)).time(), end=(now + timedelta(hours=3)).time())
    night = spec("good", priority="batch", hours=hours, destinations=("vna",))
    job_id = jobs.submit(night)
    assert jobs.submit(spec("good", route="emergency", priority="urgent")) == job_id
    assert jobs.submit(spec("good", route="any", priority="routine")) == job_id
    assert jobs.show(job_id).priority == "urgent"
    workers.start()
    assert ended(jobs, job_id).state == "done"
    assert lines(settings, "begun", "good") == 1
    assert Ledger(settings.database).entry(job_id).destinations == ("vna",)


def test_what_was_not_queued_after_a_crash_is(jobs: Jobs, settings: Settings, workers: Workers) -> None:
    job_id = jobs.submit(spec("good"))
    workers.start()
    assert ended(jobs, job_id).state == "done"
    Ledger(settings.database).renew(job_id)  # and the service dies before the new attempt is queued
    assert jobs.mend() == 0  # it may be on its way
    assert jobs.mend() == 1
    assert jobs.mend() == 0
    assert ended(jobs, job_id).attempts == 2


@both
@pytest.mark.parametrize("noted_as", ["PENDING", "ERROR"])
def test_an_attempt_whose_end_could_not_be_written_down_is_made_again(
    jobs: Jobs, settings: Settings, workers: Workers, noted_as: str
) -> None:
    """What a full disk leaves of it: the ledger says that the worker is at it, DBOS that it goes on or was given up."""
    job_id = jobs.submit(spec("good"))
    workers.start()
    assert ended(jobs, job_id).state == "done"
    _written(settings, "DELETE FROM operation_outputs")
    _written(
        settings, f"UPDATE workflow_status SET status = '{noted_as}', output = NULL, completed_at = NULL"
    )
    _written(settings, "UPDATE isocenter_job SET state = NULL, ended = NULL, worker = 'worker'")
    assert jobs.show(job_id).state != "done"
    again = ended_as(jobs, job_id, "done")
    assert (again.attempts, lines(settings, "finished", "good")) == (2, 2)
    assert Ledger(settings.database).entry(job_id).deaths == 0


def test_an_answer_that_was_noted_before_its_attempt_was_is_told(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    job_id = jobs.submit(spec("good"))
    workers.start()
    job = ended(jobs, job_id)
    _written(settings, "UPDATE workflow_status SET status = 'PENDING', output = NULL, completed_at = NULL")
    assert jobs.show(job_id).state == "running"
    assert ended(jobs, job_id) == job
    assert lines(settings, "finished", "good") == 1


def _written(settings: Settings, statement: str) -> None:
    tables = ("operation_outputs", "workflow_status")
    if not settings.database.startswith("sqlite"):
        for table in tables:
            statement = statement.replace(table, f"dbos.{table}")
    with engine(settings.database).begin() as connection:
        connection.exec_driver_sql(statement)


def ended_as(jobs: Jobs, job_id: str, state: str) -> Job:
    return wait_for(jobs, job_id, lambda job: job.state == state)


def test_a_job_during_which_the_service_ends_again_and_again_is_set_aside(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    job_id = jobs.submit(spec("held"))
    ledger = Ledger(settings.database)
    for number in range(6):
        ledger.begin(job_id, settings.worker.name, f"life {number}")
    workers.start(stack="life 6")
    job = ended(jobs, job_id)
    assert job.state == "failed"
    assert job.reason.startswith("set aside: the service ended 6 times while it ran")


def test_a_setting_that_is_wrong_for_a_while_fails_nothing(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    """An application that is being installed, on one of the machines."""
    manifest = settings.apps_dir / "trivial" / "app.yaml"
    whole = manifest.read_text()
    job_id = jobs.submit(spec("good"))
    workers.start()
    assert ended(jobs, job_id).state == "done"
    manifest.write_text(whole[:20])
    other = jobs.submit(spec("good.other"))
    waits = wait_for(jobs, other, lambda job: "app.yaml" in job.reason)
    assert waits.state == "queued"
    manifest.write_text(whole)
    assert ended(jobs, other).state == "done"


def test_an_application_with_a_limit_leaves_room_for_others(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    install(settings.apps_dir, concurrency=1)
    install(settings.apps_dir, "free")
    other = spec("good.other").algorithm.__class__("free", "1.0", {})
    limited = [jobs.submit(spec(f"held.{number}")) for number in range(3)]
    workers.start(concurrency=3)
    free = jobs.submit(spec("good.other", algorithm=other))
    assert ended(jobs, free).state == "done"
    begun(settings, "held.0")
    time.sleep(1)
    assert len(noted(settings, "begun")) == 1
    go(settings)
    assert {ended(jobs, each).state for each in limited} == {"done"}


def test_no_job_is_stranded_when_a_limit_comes_or_goes(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    install(settings.apps_dir, concurrency=1)
    with_limit = jobs.submit(spec("good.a"))
    install(settings.apps_dir)  # gone before a worker was there
    first = workers.start()
    assert ended(jobs, with_limit).state == "done"
    install(settings.apps_dir, concurrency=1)  # comes while one is
    assert ended(jobs, jobs.submit(spec("good.b"))).state == "done"
    kill(first, signal.SIGTERM)


def test_a_route_with_hours_waits_for_them(
    jobs: Jobs, settings: Settings, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.now()
    hours = Hours(start=(now + timedelta(hours=2)).time(), end=(now + timedelta(hours=3)).time())
    told = f"waits for its hours, {hours.start:%H:%M} to {hours.end:%H:%M}"
    waits = jobs.submit(spec("good.waits", hours=hours))
    stat = jobs.submit(spec("good.stat", hours=hours, priority="STAT"))
    with monkeypatch.context() as then:
        # It was queued while they were open, and no worker came to it in time.
        then.setattr("isocenter.jobs.closed", lambda *_: (0.0, ""))
        late = jobs.submit(spec("good.late", hours=hours))
        assert jobs.show(late).reason == ""
    workers.start()

    assert ended(jobs, stat).state == "done"
    wait_for(jobs, late, lambda job: job.reason == told and job.attempts == 2)
    for job_id in (waits, late):
        job = jobs.show(job_id)
        assert (job.state, job.reason) == ("queued", told)
    assert noted(settings, "begun") == ["1.2.good.stat"]
    assert jobs.cancel(waits).state == "cancelled"


def test_a_larger_set_takes_the_place_of_the_smaller(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    waits = jobs.submit(spec("good", sop_instance_uids=("1.2.good.1",)))
    second = jobs.submit(spec("good"))
    said = f"superseded: job {second[:12]} does more images"
    assert [(job.id, job.state, job.reason) for job in jobs.list()] == [
        (second, "queued", ""),
        (waits, "cancelled", said),
    ]
    runs = jobs.submit(spec("steps", sop_instance_uids=("1.2.steps.1",)))
    stores = jobs.submit(spec("storing", sop_instance_uids=("1.2.storing.1",)))
    workers.start(concurrency=2)
    begun(settings, "steps")
    until(lambda: lines(settings, "stores", "storing"))

    larger = jobs.submit(spec("steps"))
    assert ended(jobs, runs).reason == f"superseded: job {larger[:12]} does more images"
    # What is being stored is replaced when the larger one is done, and not cut off.
    larger_too = jobs.submit(spec("storing"))
    go(settings)
    assert {ended(jobs, each).state for each in (stores, larger, larger_too)} == {"done"}
    pairs = [(old.job_id, new.job_id) for old, new in Ledger(settings.database).to_supersede()]
    assert pairs == [(stores, larger_too)]


@both
def test_an_interrupted_submission_is_repeated(jobs: Jobs, settings: Settings, workers: Workers) -> None:
    """Each step of it alone, as a crash leaves it."""
    prepare(settings)
    ledger = Ledger(settings.database)
    small, large = spec("good", sop_instance_uids=("1",)), spec("good", sop_instance_uids=("1", "2"))
    jobs.submit(small)
    ledger.enter(large)
    assert [job.id for job in jobs.list()] == [small.identity.job_id]

    jobs.submit(large)  # known to the ledger, and not queued

    assert [job.state for job in jobs.list()] == ["queued", "cancelled"]
    workers.start()
    first = ended(jobs, large.identity.job_id)
    assert first.state == "done"

    # The set has become the smaller one again; its job was renewed, and then not queued.
    ledger.enter(small)
    assert jobs.show(small.identity.job_id).attempts == 2
    jobs.submit(small)
    assert ended(jobs, small.identity.job_id).state == "done"
    # And the larger one comes back: it is done again, though it had ended.
    jobs.submit(large)
    again = ended(jobs, large.identity.job_id)
    assert (again.state, again.attempts, again.created) == ("done", 2, first.created)
    # A person's wish that was noted, and not queued.
    ledger.renew(large.identity.job_id)
    assert jobs.retry(large.identity.job_id).attempts == 3
    assert ended(jobs, large.identity.job_id).state == "done"
    assert lines(settings, "begun", "good") == 4


def test_images_that_came_again_are_done_again(jobs: Jobs, settings: Settings, workers: Workers) -> None:
    asked = spec("good")
    job_id = jobs.submit(asked, changed_at=time.time())
    workers.start()
    first = ended(jobs, job_id)
    later = spec("good")
    assert later.created > first.created
    jobs.submit(later, changed_at=first.ended.timestamp() - 1)
    assert jobs.show(job_id) == first

    for _ in range(2):  # the second is the same wish, repeated
        jobs.submit(later, changed_at=first.ended.timestamp() + 0.001)

    again = ended(jobs, job_id)
    assert (again.state, again.attempts, again.created) == ("done", 2, first.created)


def test_a_job_whose_results_were_replaced_is_not_run_again(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    old = jobs.submit(spec("good", sop_instance_uids=("1",)))
    workers.start()
    ended(jobs, old)
    new = jobs.submit(spec("good", sop_instance_uids=("1", "2")))
    ended(jobs, new)
    Ledger(settings.database).superseded(old, new, [])
    assert jobs.show(old).superseded_by == new
    with pytest.raises(InputError, match=f"were replaced by those of job {new[:12]}: run that one again"):
        jobs.retry(old)


@both
def test_records_of_jobs_that_ended_are_deleted(jobs: Jobs, settings: Settings, workers: Workers) -> None:
    old, waits = jobs.submit(spec("away")), spec("held")
    workers.start()
    ended(jobs, old)
    until(lambda: not jobs.list(state="running"))
    jobs.submit(waits)
    assert jobs.forget(datetime.now(UTC) - timedelta(days=1)) == 0

    assert jobs.forget(datetime.now(UTC) + timedelta(days=1)) == 3

    assert jobs.show(old) is None
    assert [job.id for job in jobs.list()] == [waits.identity.job_id]
    assert jobs.list(state="failed") == []
    assert Ledger(settings.database).entry(old).state == "failed"
    with pytest.raises(InputError, match="there is no job"):
        jobs.retry(old)
    # Its images come again: it is known, and done again.
    jobs.submit(spec("away"), changed_at=time.time() + 1)
    assert jobs.show(old).attempts == 4
    go(settings)
    assert ended(jobs, old).attempts == 6


def test_nothing_is_begun_while_the_disk_is_full(
    jobs: Jobs, settings: Settings, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = jobs.submit(spec("good"))
    with monkeypatch.context() as full:
        full.setenv("ISOCENTER_LIMITS__FREE_DISK_MB", str(10**9))
        worker = workers.start()
    job = wait_for(jobs, job_id, lambda job: job.reason != "")
    assert (job.state, job.reason.split(":")[0]) == ("queued", "no new work is taken")
    assert workers.log.read_text().count("no new work is taken") == 1
    # It can be cancelled all the same, and one that was not goes on once there is room.
    other = jobs.submit(spec("other"))
    assert jobs.cancel(job_id).state == "cancelled"
    kill(worker, signal.SIGTERM)
    workers.start()
    assert ended(jobs, other).state == "done"
    assert ended(jobs, other).reason == ""
    assert noted(settings, "begun") == ["1.2.other"]


def test_5000_jobs_that_wait_cost_no_worker_memory(jobs: Jobs, settings: Settings, workers: Workers) -> None:
    instances = tuple(f"1.2.840.113619.2.55.3.{number}" for number in range(300))
    jobs.submit(spec("held"))
    waits = jobs.submit(spec("waits", sop_instance_uids=instances, priority="batch"))

    def rss() -> float:
        before = lines(settings, "begun", "held")
        worker = workers.start()
        begun(settings, "held", before + 1)
        time.sleep(2)  # ten looks into the queue
        used = psutil.Process(worker.pid).memory_info().rss / 1e6
        kill(worker, signal.SIGTERM)
        return used

    with_one = rss()
    copy_job(settings, waits, 4999)
    assert len(jobs.list(limit=10_000, state="queued")) == 5001

    with_5000 = rss()

    assert abs(with_5000 - with_one) < 20, (
        f"{with_one:.0f} MB with one job that waits, {with_5000:.0f} with 5,000"
    )
    # And what is asked of the queue stays quick: the newest fifty are a few milliseconds, with room for a busy machine.
    started = time.monotonic()
    assert len(jobs.list(limit=50)) == 50
    assert time.monotonic() - started < 2


def copy_job(settings: Settings, job_id: str, times: int) -> None:
    """Put jobs like this one that waits into the database, which is quicker than to submit them."""
    copies = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {times}) "
    new_id = "printf('%064x', i)"
    with sqlite3.connect(settings.data_dir / "isocenter.sqlite") as database:
        for table, name, value in (
            ("isocenter_job", "job_id", new_id),
            ("workflow_status", "workflow_uuid", f"{new_id} || '.1'"),
            ("workflow_input", "workflow_uuid", f"{new_id} || '.1'"),
        ):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            changed = {name: value, "generation": "generation + i", "subject": "subject || i"}
            values = ", ".join(changed.get(column, column) for column in columns)
            database.execute(
                f"{copies} INSERT INTO {table} ({', '.join(columns)}) "
                f"SELECT {values} FROM {table}, n WHERE {name} LIKE '{job_id}%'"
            )
    database.close()


@pytest.mark.parametrize("job_id", ["ffff", "%", "", "_"])
def test_a_job_that_is_not_there_is_not_another_one(jobs: Jobs, job_id: str) -> None:
    jobs.submit(spec("good"))
    assert jobs.show(job_id) is None


def test_a_job_that_is_not_there_is_named(jobs: Jobs) -> None:
    with pytest.raises(InputError, match="there is no job 'ffff'"):
        jobs.retry("ffff")


def test_ids_that_begin_alike_are_told_apart(jobs: Jobs) -> None:
    ids = [jobs.submit(spec(f"good.{number}")) for number in range(17)]
    first = max({each[0] for each in ids}, key=[each[0] for each in ids].count)
    with pytest.raises(InputError, match=f"more than one job begins with '{first}'"):
        jobs.show(first)
    found = jobs.show(ids[0])
    assert isinstance(found, Job)
    assert found.id == ids[0]
