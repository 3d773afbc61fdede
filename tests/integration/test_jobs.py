"""The durable queue and the worker, for real: DBOS on SQLite, the worker as a process that can be killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from isocenter.job import Job, JobSpec
from isocenter.jobs import Jobs
from isocenter.settings import Settings
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.errors import InputError

pytestmark = pytest.mark.integration

APP = """
import os, pathlib, time
from isocenter_operators import errors
from isocenter_operators.run import Outcome, StoredInstance

HERE = pathlib.Path(__file__).parent

class App:
    def __init__(self, task):
        self.task = task

    def execute(self):
        series = self.task.source.series_uids[0]
        with (HERE / "begun").open("a") as file:
            file.write(series + chr(10))
        begun = (HERE / "begun").read_text().count(series)
        if series == "1.2.slow" and begun == 1:
            time.sleep(600)
        if series == "1.2.flaky" and begun < 3:
            raise errors.InferenceUnavailable("Triton does not answer")
        if series == "1.2.away":
            raise errors.InferenceUnavailable("Triton does not answer")
        if series == "1.2.bad":
            raise errors.GeometryError("series 1.2.bad: the slices are not parallel")
        if series == "1.2.surprise":
            raise KeyError("^".join(["Doe", "Jane"]))
        if series == "1.2.head":
            time.sleep(0.3)
            return Outcome("not_applicable", "no lungs in this series", (), (), (), {"fetch": 0.1})
        with (HERE / "finished").open("a") as file:
            file.write(series + chr(10))
        stored = StoredInstance("1.2.840.10008.5.1.4.1.1.66.4", "2.25.1", "2.25.2", "1.2", "SEG")
        group = {"label": "Lung", "notes": [], "volume_mL": 12.5, "mean_HU": float("nan")}
        return Outcome("done", "", (group,), ("cut off",), (stored,), {"fetch": 0.01})

def application(task):
    return App(task)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    folder = tmp_path / "apps" / "trivial"
    folder.mkdir(parents=True)
    (folder / "app.py").write_text(APP)
    (folder / "app.yaml").write_text(
        yaml.safe_dump({"application": {"title": "Trivial", "version": "1.0"}, "isocenter": {"models": {}}})
    )
    return Settings(
        data_dir=tmp_path / "data",
        apps_dir=tmp_path / "apps",
        worker={"attempts": 3, "retry_after_s": 0.1},
    )


@pytest.fixture
def worker(settings: Settings, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a worker of these settings; every one that was started is ended with the test."""
    config = tmp_path / "isocenter.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True)))
    started: list[subprocess.Popen[bytes]] = []

    def start(**options: object) -> subprocess.Popen[bytes]:
        changed = {f"ISOCENTER_WORKER__{name.upper()}": str(value) for name, value in options.items()}
        with (tmp_path / "worker.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "isocenter.worker", "--config", str(config)],
                env=os.environ | changed,
                stdout=log,
                stderr=log,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(10)


def spec(series_uid: str) -> JobSpec:
    return JobSpec(
        algorithm=Algorithm("trivial", "1.0", {}),
        study_uid="1.2",
        series_uids=(series_uid,),
        sop_instance_uids=(f"{series_uid}.1", f"{series_uid}.2"),
        route="everything",
    )


def wait_for(jobs: Jobs, job_id: str, condition: Callable[[Job], bool], within_s: float = 60) -> Job:
    deadline = time.monotonic() + within_s
    while True:
        job = jobs.show(job_id)
        assert job is not None
        if condition(job):
            return job
        assert time.monotonic() < deadline, f"still {job.state}: {job.reason}"
        time.sleep(0.05)


def lines(settings: Settings, name: str, series_uid: str) -> int:
    file = settings.apps_dir / "trivial" / name
    return file.read_text().splitlines().count(series_uid) if file.exists() else 0


def test_every_way_a_job_can_end(
    jobs: Jobs, settings: Settings, worker: Callable[..., object], tmp_path: Path
) -> None:
    good, head, bad, flaky, away, surprise = (
        jobs.submit(spec(f"1.2.{name}")) for name in ("good", "head", "bad", "flaky", "away", "surprise")
    )
    assert jobs.submit(spec("1.2.good")) == good
    assert [job.state for job in jobs.list()] == ["queued"] * 6
    worker()

    ended = {
        each: wait_for(jobs, each, lambda job: job.over) for each in (good, head, bad, flaky, away, surprise)
    }

    done = ended[good]
    assert (done.state, done.reason, done.attempts, done.notes) == ("done", "", 1, ("cut off",))
    assert done.groups == ({"label": "Lung", "notes": [], "volume_mL": 12.5, "mean_HU": None},)
    assert done.results[0]["sop_instance_uid"] == "2.25.1"
    assert list(done.seconds) == ["settle", "queue", "fetch", "rest"]
    assert done.seconds["fetch"] == 0.01
    assert done.ended is not None
    whole = (done.ended - done.created).total_seconds()
    assert 0.01 < done.seconds["queue"] + done.seconds["rest"] <= whole + 0.01
    assert lines(settings, "finished", "1.2.good") == 1

    assert 0.2 <= ended[head].seconds["rest"] < 0.5
    assert (ended[head].state, ended[head].reason) == ("not_applicable", "no lungs in this series")
    assert (ended[bad].state, ended[bad].attempts) == ("failed", 1)
    assert ended[bad].reason == "series 1.2.bad: the slices are not parallel"
    assert (ended[flaky].state, ended[flaky].attempts) == ("done", 3)
    assert (ended[away].state, ended[away].attempts) == ("failed", 3)
    assert ended[away].reason == (
        f"Triton does not answer (tried 3 times); `isocenter jobs retry {away[:12]}` runs it again"
    )
    assert ended[surprise].state == "failed"
    assert "KeyError" in ended[surprise].reason

    # A person asks once more: the same job, with a new budget of attempts.
    again = jobs.retry(away)
    assert (again.id, again.state) == (away, "queued")
    assert wait_for(jobs, away, lambda job: job.over).attempts == 6

    assert len(jobs.list()) == 6
    assert len(jobs.list(limit=2)) == 2
    assert "Doe^Jane" not in (tmp_path / "worker.log").read_text()
    with sqlite3.connect(settings.data_dir / "isocenter.sqlite") as database:
        assert "Doe^Jane" not in "\n".join(database.iterdump())
    database.close()


def test_a_killed_worker_finishes_its_job_after_the_restart(
    jobs: Jobs, settings: Settings, worker: Callable[..., subprocess.Popen[bytes]]
) -> None:
    job_id = jobs.submit(spec("1.2.slow"))
    first = worker()
    wait_for(jobs, job_id, lambda job: job.state == "running")
    with pytest.raises(InputError, match="runs already and can not be stopped: wait until it has ended"):
        jobs.cancel(job_id)
    deadline = time.monotonic() + 10
    while lines(settings, "begun", "1.2.slow") == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    worker(name="another")

    job = wait_for(jobs, job_id, lambda job: job.over)

    assert (job.state, job.attempts) == ("done", 1)
    assert lines(settings, "begun", "1.2.slow") == 2
    assert lines(settings, "finished", "1.2.slow") == 1
    assert [each.id for each in jobs.list()] == [job_id]


def test_a_job_that_hangs_is_given_to_another_worker(
    jobs: Jobs, settings: Settings, worker: Callable[..., subprocess.Popen[bytes]]
) -> None:
    job_id = jobs.submit(spec("1.2.slow"))
    assert worker(longest_attempt_s=0.5).wait(30) == 1
    assert jobs.submit(spec("1.2.good")) != job_id
    worker()
    assert wait_for(jobs, job_id, lambda job: job.over).state == "done"
    assert lines(settings, "finished", "1.2.slow") == 1


def test_a_job_from_before_an_update_is_done_by_the_version_installed(
    jobs: Jobs, settings: Settings, worker: Callable[..., object]
) -> None:
    old = jobs.submit(spec("1.2.good"))
    (settings.apps_dir / "trivial" / "app.yaml").write_text(
        yaml.safe_dump({"application": {"title": "Trivial", "version": "2.0"}, "isocenter": {"models": {}}})
    )
    worker()
    left = wait_for(jobs, old, lambda job: job.over)
    assert left.state == "cancelled"
    (new,) = (job.id for job in jobs.list() if job.id != old)
    assert left.reason == f"trivial 2.0 is installed by now: job {new[:12]} does this"
    assert wait_for(jobs, new, lambda job: job.over).state == "done"
    assert lines(settings, "finished", "1.2.good") == 1


def test_a_job_that_waits_is_cancelled_and_can_be_asked_for_again(
    jobs: Jobs, settings: Settings, worker: Callable[..., object]
) -> None:
    job_id = jobs.submit(spec("1.2.good"))
    with pytest.raises(InputError, match="is queued: only a job that has ended can be run again"):
        jobs.retry(job_id)
    assert jobs.cancel(job_id[:8]).state == "cancelled"
    with pytest.raises(InputError, match="only a job that waits can be cancelled"):
        jobs.cancel(job_id)
    worker()
    time.sleep(1)
    assert lines(settings, "begun", "1.2.good") == 0

    jobs.retry(job_id)

    assert wait_for(jobs, job_id, lambda job: job.over).state == "done"


@pytest.mark.parametrize("job_id", ["ffff", "%", "", "_"])
def test_a_job_that_is_not_there_is_not_another_one(jobs: Jobs, job_id: str) -> None:
    jobs.submit(spec("1.2.good"))
    assert jobs.show(job_id) is None


def test_a_job_that_is_not_there_is_named(jobs: Jobs) -> None:
    with pytest.raises(InputError, match="there is no job 'ffff'"):
        jobs.retry("ffff")
