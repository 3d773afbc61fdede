"""A job whose graph hangs where no Python runs: its worker ends all the same, and the next one goes on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from trivial_app import Workers, ended, install, spec

from isocenter.jobs import Jobs
from isocenter.ledger import Ledger
from isocenter.settings import Settings
from isocenter.worker import presence
from isocenter.worker.heartbeat import BEAT_S
from isocenter_operators.dicom.identity import Algorithm

pytestmark = pytest.mark.integration

GRIPS = """
import ctypes, pathlib
from isocenter_operators.run import Outcome

class App:
    def execute(self):
        begun = pathlib.Path(__file__).parent / "begun"
        if not begun.exists():
            begun.touch()
            ctypes.PyDLL(None).sleep(600)  # keeps the interpreter's lock
        return Outcome("not_applicable", "the second time", (), (), (), {})

def application(task):
    return App()
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    install(tmp_path / "apps", "grips")
    (tmp_path / "apps" / "grips" / "app.py").write_text(GRIPS)
    return Settings(
        data_dir=tmp_path / "data",
        apps_dir=tmp_path / "apps",
        limits={"free_disk_mb": 0},
        worker={"longest_attempt_s": 1.0, "retry_after_s": 0.1},
    )


def test_a_call_that_lets_no_python_run_costs_its_worker_and_not_the_job(
    jobs: Jobs, settings: Settings, tmp_path: Path
) -> None:
    workers = Workers(settings, tmp_path)
    job_id = jobs.submit(spec("grips", algorithm=Algorithm("grips", "1.0", {})))
    try:
        first = workers.start()
        while not (settings.apps_dir / "grips" / "begun").exists():
            assert first.poll() is None
            time.sleep(0.05)
        began = time.monotonic()
        assert first.wait(30) == 1
        assert time.monotonic() - began < 15
        assert "execute" in workers.log.read_text()  # where it hung
        workers.start()
        job = ended(jobs, job_id)
    finally:
        workers.end()
    assert (job.state, job.reason) == ("not_applicable", "the second time")
    entry = Ledger(settings.database).entry(job_id)
    assert entry is not None
    assert entry.deaths == 1


def test_a_worker_shows_that_it_lives_for_as_long_as_it_takes_jobs(
    jobs: Jobs, settings: Settings, tmp_path: Path
) -> None:
    """Whose threads look into the queues is known by DBOS's names for them, which another release may change."""
    workers = Workers(settings, tmp_path)
    file = settings.data_dir / "run" / f"{settings.worker.name}.pid"
    try:
        worker = workers.start()
        while not file.exists():
            assert worker.poll() is None
            time.sleep(0.05)
        seen, until = set(), time.monotonic() + 3.5 * BEAT_S
        while time.monotonic() < until:
            seen.add(file.stat().st_mtime)
            time.sleep(0.1)
        assert len(seen) >= 3  # the third beat is the first that would miss a thread
        assert presence.missing(settings) is None
        assert "nobody takes jobs" not in workers.log.read_text()
        worker.send_signal(signal.SIGSTOP)
        os.utime(file, (time.time() - 1,) * 2)  # as it is a minute later
        time.sleep(2 * BEAT_S)
        assert "the worker hangs" in str(presence.missing(settings))
    finally:
        workers.end()
