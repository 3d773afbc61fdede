"""An application that needs no archive and no model, and does what the name of its series says; workers that run it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from isocenter.job import Job, JobSpec
from isocenter.jobs import Jobs
from isocenter.settings import Settings
from isocenter_operators.dicom.identity import Algorithm

_T = TypeVar("_T")

APP = """
import os, pathlib, signal, time
from isocenter_operators import errors
from isocenter_operators.run import Outcome, StoredInstance

HERE = pathlib.Path(__file__).parent

def note(file, series):
    with (HERE / file).open("a") as opened:
        opened.write(series + chr(10))

class App:
    def __init__(self, task):
        self.task = task

    def execute(self):
        series = self.task.source.series_uids[0]
        what = series.split(".")[2]
        note("begun", series)
        begun = (HERE / "begun").read_text().splitlines().count(series)
        if what == "slow" and begun == 1:
            time.sleep(600)
        if what == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "steps":
            while not (HERE / "go").exists():
                self.task.checkpoint()
                time.sleep(0.05)
        if what == "held" or what == "frozen":
            while not (HERE / "go").exists():
                time.sleep(0.02)
        if what == "brief":
            time.sleep(0.3)
        if what == "flaky" and begun < 3:
            raise errors.InferenceUnavailable("Triton does not answer")
        if what == "away":
            raise errors.InferenceUnavailable("Triton does not answer")
        if what == "memory":
            raise errors.InferenceUnavailable("CUDA out of memory")
        if what == "late":
            raise errors.DeadlineExceeded("no answer in 1 s", model="trivial")
        if what == "hungry":
            raise MemoryError
        if what == "bad":
            raise errors.GeometryError("series 1.2.bad: the slices are not parallel")
        if what == "surprise":
            raise KeyError("^".join(["Doe", "Jane"]))
        if what == "head":
            time.sleep(0.3)
            return Outcome("not_applicable", "no lungs in this series", (), (), (), {"fetch": 0.1})
        stored = StoredInstance("1.2.840.10008.5.1.4.1.1.66.4", f"2.25.1.{len(series)}", "2.25.2", "1.2", "SEG")
        self.task.before_store((stored,))
        if what == "storing":
            note("stores", series)
            while not (HERE / "go").exists():
                time.sleep(0.02)
        note("finished", series)
        group = {"label": "Lung", "notes": [], "volume_mL": 12.5, "mean_HU": float("nan")}
        notes = ("cut off", f"priority {self.task.priority}")
        return Outcome("done", "", (group,), notes, (stored,), {"fetch": 0.01})

def application(task):
    return App(task)
"""


def install(apps: Path, name: str = "trivial", *, version: str = "1.0", **ours: Any) -> None:
    """Put the application into a folder of applications. `ours`: keys of app.yaml's own block."""
    folder = apps / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "app.py").write_text(APP)
    described = {"application": {"title": name, "version": version}, "isocenter": ours}
    (folder / "app.yaml").write_text(yaml.safe_dump(described))


def spec(what: str, **changed: Any) -> JobSpec:
    """A job on the series `1.2.<what>`."""
    series_uid = f"1.2.{what}"
    made = JobSpec(
        algorithm=Algorithm("trivial", "1.0", {}),
        study_uid="1.2",
        series_uids=(series_uid,),
        sop_instance_uids=(f"{series_uid}.1", f"{series_uid}.2"),
        route="everything",
    )
    return replace(made, **changed)


class Workers:
    """Worker processes of the same settings."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._config = folder / "isocenter.yaml"
        self._config.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True)))
        self.log = folder / "worker.log"
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, *, stack: str | None = None, **options: object) -> subprocess.Popen[bytes]:
        """Start one. `options` are keys of `worker`, for it alone; `stack` is the life of the stack it belongs to."""
        environment = {f"ISOCENTER_WORKER__{name.upper()}": str(value) for name, value in options.items()}
        if stack is not None:
            environment["ISOCENTER_STACK"] = stack
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "isocenter.worker", "--config", str(self._config)],
                env=os.environ | environment,
                stdout=log,
                stderr=log,
            )
        self._started.append(process)
        return process

    @property
    def running(self) -> list[subprocess.Popen[bytes]]:
        return [each for each in self._started if each.poll() is None]

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
                process.wait(10)


def wait_for(jobs: Jobs, job_id: str, condition: Callable[[Job], bool], within_s: float = 180) -> Job:
    def job() -> Job | None:
        found = jobs.show(job_id)
        return found if found is not None and condition(found) else None

    return until(job, lambda: str(jobs.show(job_id)), within_s)


def ended(jobs: Jobs, job_id: str) -> Job:
    return wait_for(jobs, job_id, lambda job: job.over)


def until(ask: Callable[[], _T | None], tell: Callable[[], str] = lambda: "", within_s: float = 180) -> _T:
    """Wait until `ask` gives something, and give it."""
    deadline = time.monotonic() + within_s
    while True:
        answer = ask()
        if answer:
            return answer
        assert time.monotonic() < deadline, tell()
        time.sleep(0.05)


def lines(settings: Settings, name: str, what: str, app: str = "trivial") -> int:
    """How often the application has noted this series in the file of this name."""
    return noted(settings, name, app).count(f"1.2.{what}")


def noted(settings: Settings, name: str, app: str = "trivial") -> list[str]:
    file = settings.apps_dir / app / name
    return file.read_text().splitlines() if file.exists() else []


def go(settings: Settings, app: str = "trivial") -> None:
    """Let those that wait go on."""
    (settings.apps_dir / app / "go").touch()
