"""The whole way as a user has it: `isocenter up`, scans sent to it, their results in the archive and in the viewer."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from lungs import assert_lungs_are_where_they_belong
from ports import free_port
from reader import ARTIFACTS, ROOT, coloured, reader, require_viewer

from isocenter_operators.testing import Phantom, ThoraxPhantom, as_datasets, head_phantom, thorax_phantom

pytestmark = pytest.mark.e2e

SMALL: dict[str, Any] = {"size": (160, 160, 75), "spacing_mm": (2.24, 2.24, 4.0)}
# What must be found nowhere but in the archive.
PATIENT = {"PatientName": "Zzyzx^Quillon", "PatientID": "QX7731", "PatientBirthDate": "19370911"}

CLUMSY = """
from isocenter_operators.dicom.series.read import read_bytes
from isocenter_operators.dicomweb.client import DICOMwebClient

class App:
    def __init__(self, task):
        self.task = task

    def execute(self):
        archive = self.task.source
        with DICOMwebClient(archive.dicomweb_url) as client:
            image = read_bytes(next(client.retrieve_series(archive.study_uid, archive.series_uids[0])), origin="it")
        raise ValueError(f"what about {image.PatientName}, {image.PatientID}, born {image.PatientBirthDate}?")

def application(task):
    return App(task)
"""


@dataclass(frozen=True)
class Site:
    """A stack that runs, and what a user at its command line can do."""

    folder: Path
    process: psutil.Process
    environment: dict[str, str]
    url: str

    def isocenter(self, *arguments: str) -> dict[str, Any]:
        """Run a command with --json and give its document."""
        done = subprocess.run(
            [sys.executable, "-m", "isocenter.cli", *arguments, "--json"],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def send(self, phantom: Phantom, uid_seed: str = "") -> str:
        """Send the phantom as the conspicuous patient's, and give its study's UID."""
        folder = self.folder / f"sent-{time.monotonic_ns()}"
        folder.mkdir()
        for index, image in enumerate(as_datasets(phantom, uid_seed=uid_seed)):
            for keyword, value in PATIENT.items():
                setattr(image, keyword, value)
            image.save_as(folder / f"{index}.dcm", enforce_file_format=True)
        sent = self.isocenter("send", str(folder))
        assert sent["sent"] == len(phantom.hu)
        (study_uid,) = sent["study_uids"]
        return str(study_uid)

    def jobs(self, study_uid: str) -> dict[str, dict[str, Any]]:
        """The newest job of each application on a study: one that was sent with a pause may have an older one too."""
        return newest(self.isocenter("jobs", "list"), study_uid)

    def ended(self, study_uid: str) -> dict[str, dict[str, Any]]:
        """The study's jobs once both are over. Asked over HTTP: commands would take the time that the jobs need."""

        def over() -> bool:
            jobs = newest(httpx.get(f"{self.url}/api/jobs").json(), study_uid).values()
            return len(jobs) == 2 and all(job["ended"] for job in jobs)

        wait_for(over, 180)
        return self.jobs(study_uid)

    def modalities(self, study_uid: str) -> list[str]:
        """The modality of each instance of the study, asked of the gateway by QIDO-RS."""
        found = httpx.get(
            f"{self.url}/dicom-web/studies/{study_uid}/instances",
            params={"includefield": "00080060", "limit": "1000"},
        ).json()
        return sorted(one["00080060"]["Value"][0] for one in found)

    def said(self) -> str:
        return (self.folder / "up.log").read_text()


def newest(document: dict[str, Any], study_uid: str) -> dict[str, dict[str, Any]]:
    found = [job for job in document["jobs"] if job["study_uid"] == study_uid]
    return {job["application"]: job for job in reversed(found)}


def wait_for(condition: Callable[[], bool], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """`isocenter up` with the lung application and one that stumbles over every patient."""
    folder = tmp_path_factory.mktemp("site")
    clumsy = folder / "apps" / "clumsy"
    clumsy.mkdir(parents=True)
    (clumsy / "app.py").write_text(CLUMSY)
    (clumsy / "app.yaml").write_text(yaml.safe_dump({"application": {"title": "C", "version": "1"}}))
    (folder / "apps" / "ct_lung_density").symlink_to(ROOT / "apps" / "ct_lung_density")
    routes = [
        {
            "name": name,
            "application": name,
            "when": {"Modality": "^CT$"},
            "min_instances": 20,
            "outcome": outcome,
        }
        for name, outcome in (("ct_lung_density", "on_failure"), ("clumsy", "never"))
    ]
    (folder / "isocenter.yaml").write_text(yaml.safe_dump({"apps_dir": "apps", "routes": routes}))
    gateway = free_port()
    environment = os.environ | {
        "ISOCENTER_DATA_DIR": str(folder / "data"),
        "ISOCENTER_ROUTING__SETTLE_S": "1",
        "ISOCENTER_GATEWAY__PORT": str(gateway),
        "ISOCENTER_GATEWAY__OHIF": str(require_viewer()),
        "ISOCENTER_ORTHANC__HTTP_PORT": str(free_port()),
        "ISOCENTER_ORTHANC__DICOM_PORT": str(free_port()),
        "ISOCENTER_TRITON__HTTP_PORT": str(free_port()),
        "ISOCENTER_TRITON__GRPC_PORT": str(free_port()),
        "ISOCENTER_TRITON__METRICS_PORT": str(free_port()),
    }
    with (folder / "up.log").open("wb") as log:
        up = subprocess.Popen(
            [sys.executable, "-m", "isocenter.cli", "up"],
            env=environment,
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    running = Site(folder, psutil.Process(up.pid), environment, f"http://127.0.0.1:{gateway}")
    try:
        wait_for(lambda: "ready after" in running.said() or up.poll() is not None, 240)
        assert up.poll() is None, running.said()
        yield running
    finally:
        if up.poll() is None:
            up.kill()
        up.wait()


@pytest.fixture(scope="module")
def thorax() -> ThoraxPhantom:
    return thorax_phantom(**SMALL)


@pytest.fixture(scope="module")
def analysed(site: Site, thorax: ThoraxPhantom) -> str:
    """The UID of a thorax's study whose jobs have ended."""
    study_uid = site.send(thorax)
    site.ended(study_uid)
    return study_uid


def test_the_results_are_in_the_archive_and_their_numbers_true(
    site: Site, analysed: str, thorax: ThoraxPhantom
) -> None:
    jobs = site.ended(analysed)
    done = jobs["ct_lung_density"]
    assert (done["state"], done["attempts"]) == ("done", 1), done["reason"]
    truth = thorax.truth
    for group, lung in zip(done["groups"], (truth.right, truth.left, truth.both), strict=True):
        assert group["volume_mL"] == pytest.approx(lung.volume_mL, rel=0.01), group["label"]
        assert group["laa_950_percent"] == pytest.approx(lung.laa_950_percent, abs=0.5), group["label"]
        assert group["mean_density_HU"] == pytest.approx(lung.mean_hu, abs=3), group["label"]
    stored = [result["modality"] for result in done["results"]]
    assert {"SEG", "SR"} <= set(stored)
    assert site.modalities(analysed) == sorted([*["CT"] * len(thorax.hu), *stored])


def test_the_same_study_sent_again_makes_no_second_job(
    site: Site, analysed: str, thorax: ThoraxPhantom
) -> None:
    before, instances = site.jobs(analysed), site.modalities(analysed)
    assert site.send(thorax) == analysed
    time.sleep(3)
    assert site.jobs(analysed) == before
    assert site.modalities(analysed) == instances


def test_a_head_is_not_applicable_and_the_study_says_so(site: Site) -> None:
    head = head_phantom()
    study_uid = site.send(head)
    job = site.ended(study_uid)["ct_lung_density"]
    assert job["state"] == "not_applicable"
    assert "the scan shows a head, this application is for the chest" in job["reason"]
    told = [*["CT"] * len(head.hu), "SR"]  # of the note
    give_up = time.monotonic() + 30
    while site.modalities(study_uid) != told and time.monotonic() < give_up:
        time.sleep(0.2)
    assert site.modalities(study_uid) == told


def test_a_triton_that_is_killed_comes_back_and_the_next_study_has_its_results(
    site: Site, thorax: ThoraxPhantom
) -> None:
    (triton,) = (child for child in site.process.children() if "tritonserver" in child.name())
    triton.kill()
    study_uid = site.send(thorax, uid_seed="another")
    job = site.ended(study_uid)["ct_lung_density"]
    assert job["state"] == "done", job["reason"]
    assert "SEG" in site.modalities(study_uid)
    assert "triton ended (killed by SIGKILL)" in site.said()
    assert "triton is back" in site.said()


def test_the_reader_sees_both_lungs_and_what_became_of_every_series(
    site: Site, analysed: str, thorax: ThoraxPhantom
) -> None:
    with reader(site.url) as browser:
        browser.open(analysed)
        images, picture = browser.wait_for(
            lambda seen: len(seen) == 2 and all(coloured(each.pixels).mean() > 0.01 for each in seen),
            "the segmentation and the picture",
        )
        browser.screenshot(ARTIFACTS / "stack.png")
        page = browser.open_page("/status")
        browser.screenshot(ARTIFACTS / "status.png")
    assert images.instance_number is not None
    assert_lungs_are_where_they_belong(images, thorax.labels[images.instance_number - 1])
    assert coloured(picture.pixels).mean() > 0.05
    assert browser.elsewhere == []
    assert browser.complaints == []
    assert "Series without a job" in page
    assert (
        "not wanted" not in page
    )  # each series sent has its jobs, and our own results leave nobody wondering


def test_who_the_patient_is_stays_in_the_archive(site: Site, analysed: str) -> None:
    clumsy = site.ended(analysed)["clumsy"]
    assert clumsy["state"] == "failed"
    assert "ended unexpectedly: ValueError in " in clumsy["reason"]
    told = {
        "jobs": httpx.get(f"{site.url}/api/jobs").text,
        "status": httpx.get(f"{site.url}/status").text,
        "health": httpx.get(f"{site.url}/healthz").text,
        "up": site.said(),
    }
    with sqlite3.connect(site.folder / "data" / "isocenter.sqlite") as database:
        told["database"] = "\n".join(database.iterdump())
    database.close()
    kept = site.folder / "data"
    for file in (file for file in kept.rglob("*") if file.is_file()):
        if not file.is_relative_to(kept / "orthanc" / "storage") and not file.is_relative_to(
            kept / "orthanc" / "index"
        ):
            told[str(file)] = f"{file.name} {file.read_bytes().decode(errors='replace')}"
    assert {"orthanc.log", "worker.log", "gateway.log", "triton.log"} <= {Path(name).name for name in told}
    for where, text in told.items():
        for secret in ("Zzyzx", "Quillon", "QX7731", "19370911"):
            assert secret not in text, where
    assert kept.stat().st_mode & 0o077 == 0


def test_nothing_is_left_after_sigterm(site: Site) -> None:
    family = [site.process, *site.process.children(recursive=True)]
    assert len(family) >= 6  # up, Orthanc, Triton and its models' processes, worker, gateway
    site.process.send_signal(signal.SIGTERM)
    gone, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert len(gone) == len(family)
    assert "did not stop" not in site.said()
