"""Several workers on one PostgreSQL: what one leaves behind another takes over, and what all may do together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from trivial_app import Workers, ended, go, install, lines, noted, spec, until

from isocenter.database import engine
from isocenter.jobs import Jobs
from isocenter.ledger import Ledger
from isocenter.settings import Settings
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.errors import Unavailable

if TYPE_CHECKING:
    from postgres import Server

pytestmark = pytest.mark.integration
pytest_plugins = ["postgres"]

LOST_AFTER_S = 2.0


@pytest.fixture
def settings(tmp_path: Path, postgres: str) -> Settings:
    install(tmp_path / "apps")
    return Settings(
        data_dir=tmp_path / "data",
        apps_dir=tmp_path / "apps",
        database_url=postgres,
        limits={"free_disk_mb": 0},
        worker={"attempts": 3, "retry_after_s": 0.1, "lost_after_s": LOST_AFTER_S},
    )


@pytest.fixture
def workers(settings: Settings, tmp_path: Path) -> Iterator[Workers]:
    started = Workers(settings, tmp_path)
    yield started
    started.end()


def begun(settings: Settings, what: str, times: int = 1) -> None:
    until(lambda: lines(settings, "begun", what) >= times, lambda: str(noted(settings, "begun")))


_IN_A_TRANSACTION = """
import sys, time
from isocenter import ledger
from isocenter.database import alone, engine
with alone(engine(sys.argv[1]), ledger._LOCK):
    print("held", flush=True)
    time.sleep(600)
"""


def names(settings: Settings) -> list[str]:
    """Of the workers that are there, as the table says."""
    with engine(settings.database).connect() as connection:
        try:
            return list(
                connection.execute(sa.text("SELECT name FROM isocenter_worker ORDER BY name")).scalars()
            )
        except sa.exc.ProgrammingError:  # there was none yet
            return []


def test_a_lost_workers_job_is_done_by_another(jobs: Jobs, settings: Settings, workers: Workers) -> None:
    job_id = jobs.submit(spec("slow"))
    one = workers.start(name="one")
    begun(settings, "slow")
    workers.start(name="two")
    until(lambda: names(settings) == ["one", "two"])
    one.kill()

    job = ended(jobs, job_id)

    assert (job.state, job.attempts) == ("done", 1)
    assert lines(settings, "finished", "slow") == 1
    assert Ledger(settings.database).entry(job_id).deaths == 1
    until(lambda: names(settings) == ["two"])
    assert "worker one is lost: its jobs are taken over" in workers.log.read_text()


def test_a_worker_that_was_only_frozen_does_no_harm(jobs: Jobs, settings: Settings, workers: Workers) -> None:
    job_id = jobs.submit(spec("frozen"))
    one = workers.start(name="one")
    begun(settings, "frozen")
    workers.start(name="two")
    os.kill(one.pid, signal.SIGSTOP)
    begun(settings, "frozen", 2)  # by the other
    os.kill(one.pid, signal.SIGCONT)
    until(lambda: names(settings) == ["one", "two"])
    go(settings)

    job = ended(jobs, job_id)

    assert (job.state, job.attempts) == ("done", 1)
    assert (
        lines(settings, "finished", "frozen") == 1
    )  # the other one was refused when it woke and would have stored
    entry = Ledger(settings.database).entry(job_id)
    assert (entry.state, entry.worker, len(entry.results)) == ("done", None, 1)
    # Both go on with what comes.
    more = [jobs.submit(spec(f"brief.{number}")) for number in range(6)]
    assert {ended(jobs, each).state for each in more} == {"done"}
    assert jobs.show(job_id) == job
    assert one.poll() is None


def test_one_that_is_frozen_in_a_transaction_stops_nobody(settings: Settings, postgres: str) -> None:
    with engine(settings.database).connect() as connection:
        assert connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar() == "15s"
    sooner = Settings(
        data_dir=settings.data_dir,
        database_url=f"{postgres}?options=-c%20idle_in_transaction_session_timeout%3D1s",
    )
    ledger = Ledger(sooner.database)
    frozen = subprocess.Popen(
        [sys.executable, "-c", _IN_A_TRANSACTION, sooner.database], stdout=subprocess.PIPE
    )
    try:
        assert frozen.stdout is not None
        assert frozen.stdout.readline() == b"held\n"
        frozen.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert ledger.enter(spec("brief")) == []
        assert time.monotonic() - began > 0.2, "nobody held the lock"
    finally:
        frozen.kill()
        frozen.communicate()


def test_a_worker_that_ends_in_order_is_not_waited_for(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    job_id = jobs.submit(spec("slow"))
    one = workers.start(name="one", lost_after_s=600)
    begun(settings, "slow")
    workers.start(name="two", lost_after_s=600)
    until(lambda: len(names(settings)) == 2)
    one.terminate()
    assert one.wait(30) == 0
    assert ended(jobs, job_id).state == "done"
    assert Ledger(settings.database).entry(job_id).deaths == 0


def test_a_worker_sweeps_its_own_data_folder(jobs: Jobs, settings: Settings, workers: Workers) -> None:
    left = settings.data_dir / "jobs" / ("a" * 64)
    left.mkdir(parents=True)
    os.utime(left, (0, 0))  # of a database that is no more
    workers.start(name="one")
    until(lambda: not left.exists())


def test_a_name_is_one_workers(jobs: Jobs, settings: Settings, workers: Workers) -> None:
    first = workers.start(name="one")
    until(lambda: names(settings) == ["one"])
    second = workers.start(name="one")
    assert second.wait(60) == 1
    assert "worker.name: a worker 'one' is at work on" in workers.log.read_text()
    # Its own next start is no other worker.
    first.kill()
    first.wait()
    workers.start(name="one")
    assert ended(jobs, jobs.submit(spec("good"))).state == "done"


def test_a_job_that_kills_two_workers_is_not_given_to_a_third(
    jobs: Jobs, settings: Settings, workers: Workers
) -> None:
    good = jobs.submit(spec("good"))
    poison = jobs.submit(spec("poison"))
    for name in ("one", "two"):
        assert workers.start(name=name, stack=name).wait(60) == -signal.SIGKILL
    third = workers.start(name="three", stack="three")
    assert ended(jobs, good).state == "done"
    job = ended(jobs, poison)
    assert (job.state, job.reason.split(":")[0]) == ("failed", "set aside")
    assert lines(settings, "begun", "poison") == 2
    assert third.poll() is None


def test_many_jobs_are_each_done_once(jobs: Jobs, settings: Settings, workers: Workers) -> None:
    for name in ("one", "two", "three"):
        workers.start(name=name, concurrency=2)
    asked = {jobs.submit(spec(f"good.{number}")) for number in range(60)}
    until(lambda: {job.id for job in jobs.list(state="done")} == asked, lambda: str(jobs.list()))
    assert sorted(noted(settings, "begun")) == sorted(f"1.2.good.{number}" for number in range(60))
    assert {job.attempts for job in jobs.list()} == {1}


def test_a_limit_counts_over_all_workers(jobs: Jobs, settings: Settings, workers: Workers) -> None:
    install(settings.apps_dir, "narrow", concurrency=1)
    narrow = Algorithm("narrow", "1.0", {})
    for name in ("one", "two"):
        workers.start(name=name, concurrency=2)
    asked = [jobs.submit(spec(f"held.{number}", algorithm=narrow)) for number in range(3)]
    until(lambda: noted(settings, "begun", "narrow"))
    free = [jobs.submit(spec(f"good.{number}")) for number in range(4)]
    assert {ended(jobs, each).state for each in free} == {"done"}
    assert len(noted(settings, "begun", "narrow")) == 1
    go(settings, "narrow")
    assert {ended(jobs, each).state for each in asked} == {"done"}


def test_a_database_that_restarts_in_the_middle(own_postgres: Server, tmp_path: Path) -> None:
    install(tmp_path / "apps")
    settings = Settings(
        data_dir=tmp_path / "data",
        apps_dir=tmp_path / "apps",
        database_url=own_postgres.new_database(),
        limits={"free_disk_mb": 0},
        worker={"retry_after_s": 0.1, "lost_after_s": LOST_AFTER_S},
    )
    workers, jobs = Workers(settings, tmp_path), Jobs(settings)
    try:
        asked = [jobs.submit(spec(what)) for what in ("held.a", "steps.a", *(f"brief.{n}" for n in range(8)))]
        for name in ("one", "two"):
            workers.start(name=name, concurrency=2)
        begun(settings, "held.a")
        begun(settings, "steps.a")
        own_postgres.kill()
        with pytest.raises(Unavailable, match=rf"the database 127.0.0.1:{own_postgres.port} can not be used"):
            jobs.list()
        go(settings)
        time.sleep(LOST_AFTER_S)  # long enough for everybody to seem silent
        own_postgres.start()
        assert {ended(jobs, each).state for each in asked} == {"done"}
        # Nobody was believed dead because of it.
        assert {Ledger(settings.database).entry(each).deaths for each in asked} == {0}
    finally:
        workers.end()
        jobs.close()


def test_the_command_for_one_more_worker(
    jobs: Jobs, settings: Settings, workers: Workers, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "isocenter.cli", "worker", "--name", "extra"]
    with workers.log.open("ab") as log:
        process = subprocess.Popen([*command, "--config", str(tmp_path / "isocenter.yaml")], stderr=log)
    try:
        assert ended(jobs, jobs.submit(spec("good"))).state == "done"
        assert names(settings) == ["extra"]
    finally:
        process.terminate()
        assert process.wait(30) == 0
