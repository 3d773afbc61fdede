"""An upgrade with jobs in the queue: what an earlier release was asked to do, this one does: none lost, none twice.

The earlier release is its own code, from the project's history.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from trivial_app import Workers, ended, go, install, lines, noted, until

from isocenter.jobs import Jobs
from isocenter.settings import Settings

pytestmark = pytest.mark.integration
pytest_plugins = ["postgres"]

ROOT = Path(__file__).parents[2]
EARLIER = {
    "before outcomes were noted": "252f68b",
    "before containers": "9496f28",
}
WAITING = [f"brief.{number}" for number in range(6)]

SUBMIT = """
import json, sys
from isocenter.jobs import Jobs
from isocenter.settings import Settings
from trivial_app import spec

jobs = Jobs(Settings.load())
import isocenter
print(json.dumps({"": isocenter.__file__, **{what: jobs.submit(spec(what)) for what in sys.argv[1:]}}))
jobs.close()
"""


class Release:
    """An earlier one, unpacked. Its programs run where the settings are, and see this environment's packages."""

    def __init__(self, commit: str, folder: Path, place: Path) -> None:
        wanted = ["src", "operators", "tests/integration/trivial_app.py"]
        packed = subprocess.run(
            ["git", "archive", commit, *wanted], cwd=ROOT, capture_output=True, check=False
        )
        if packed.returncode != 0:
            pytest.skip(f"this copy of the project has no history: {packed.stderr.decode().strip()}")
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
            if hasattr(tarfile, "data_filter"):
                archive.extraction_filter = tarfile.data_filter
            archive.extractall(folder)
        paths = [folder / "src", folder / "operators", folder / "tests" / "integration"]
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
        self._folder, self._place = folder, place

    def submit(self, *what: str) -> dict[str, str]:
        done = subprocess.run(
            [sys.executable, "-c", SUBMIT, *what],
            cwd=self._place,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        assert Path(found.pop("")).is_relative_to(self._folder)  # its own code, and not this one's
        return found

    def worker(self) -> subprocess.Popen[bytes]:
        with (self._place / "earlier.log").open("ab") as log:
            command = [sys.executable, "-m", "isocenter.worker"]
            return subprocess.Popen(command, cwd=self._place, env=self._environment, stdout=log, stderr=log)


@pytest.mark.parametrize(
    ("earlier", "database"),
    [
        ("before outcomes were noted", "sqlite"),
        ("before outcomes were noted", "postgres"),
        ("before containers", "sqlite"),
    ],
)
def test_jobs_of_an_earlier_release_are_done_by_this_one(
    earlier: str, database: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    install(tmp_path / "apps")
    url = request.getfixturevalue("postgres") if database == "postgres" else None
    settings = Settings(
        data_dir=tmp_path / "data",
        apps_dir=tmp_path / "apps",
        database_url=url,
        limits={"free_disk_mb": 0},
        worker={"lost_after_s": 2.0},
    )
    workers = Workers(settings, tmp_path)  # writes isocenter.yaml
    release = Release(EARLIER[earlier], tmp_path / "earlier", tmp_path)
    old = release.worker()
    try:
        asked = release.submit("good.first")
        until(
            lambda: lines(settings, "finished", "good.first") == 1,
            (tmp_path / "earlier.log").read_text,
        )
        asked |= release.submit("held.running")
        until(lambda: lines(settings, "begun", "held.running") == 1)
        asked |= release.submit(*WAITING)  # behind it
    finally:
        # The machine is stopped for the upgrade: the one in the middle is left.
        old.terminate()
        old.wait(30)
    assert noted(settings, "finished") == ["1.2.good.first"]

    go(settings)
    jobs = Jobs(settings)
    try:
        before = jobs.show(asked["good.first"])
        workers.start()
        states = {what: ended(jobs, job_id).state for what, job_id in asked.items()}
        assert states == dict.fromkeys(asked, "done")
        assert sorted(noted(settings, "finished")) == sorted(f"1.2.{what}" for what in asked)
        assert {job.id for job in jobs.list()} == set(asked.values())
        assert jobs.show(asked["good.first"]) == before
    finally:
        workers.end()
        jobs.close()
