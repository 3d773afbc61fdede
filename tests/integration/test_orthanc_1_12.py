"""Orthanc 1.12, Debian 13's: the whole way with it, and some of the other tests run against it.

`ISOCENTER_TEST_ORTHANC=.cache/orthanc-1.12 pytest tests/...` runs any other test against it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from archive_count import current_results, rejected_by, rejection_notes
from ports import free_port
from pydicom import dcmread
from pydicom.dataset import Dataset

from isocenter.cli.sending import send
from isocenter.job import Job
from isocenter.jobs import Jobs
from isocenter.settings import Settings
from isocenter.stack.up import stack
from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.testing import ThoraxPhantom, as_datasets, thorax_phantom

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
ORTHANC_1_12 = ROOT / ".cache" / "orthanc-1.12"
SMALL: dict[str, Any] = {"size": (160, 160, 75), "spacing_mm": (2.24, 2.24, 4.0)}
LATE = 2  # images of the 75

# What the whole way does not come to: images and results that are taken back.
SENSITIVE = (
    "test_replacement.py::test_what_a_job_stored_that_did_not_end_well_is_taken_out[failed]",
    "test_replacement.py::test_images_that_are_taken_back_make_the_older_results_current_again",
    "test_replacement.py::test_deleted_results_are_gone_and_nothing_else_is",
)


@pytest.fixture(scope="module")
def program() -> Path:
    """Its Orthanc, which `make orthanc-1.12` fetches."""
    program = ORTHANC_1_12 / "bin" / "Orthanc"
    if not program.exists():
        pytest.skip(f"no Orthanc 1.12 in {ORTHANC_1_12}: make orthanc-1.12")
    return program


@dataclass(frozen=True)
class Site:
    """A stack that runs, and its one study."""

    settings: Settings
    jobs: Jobs
    folder: Path
    phantom: ThoraxPhantom
    images: list[Dataset]

    @property
    def study_uid(self) -> str:
        return str(self.images[0].StudyInstanceUID)

    def send(self, images: list[Dataset], name: str) -> None:
        """By C-STORE."""
        folder = self.folder / name
        folder.mkdir()
        for number, image in enumerate(images):
            image.save_as(folder / f"{number}.dcm", enforce_file_format=True)
        assert send(folder, self.settings).count == len(images)

    def ended(self, count: int) -> list[Job]:
        """The jobs, newest first, once there are so many and all are over."""

        def over() -> bool:
            jobs = self.jobs.list()
            return len(jobs) == count and all(job.over for job in jobs)

        wait_for(over)
        return self.jobs.list()

    def current(self) -> dict[str, set[str]]:
        """The SOP Instance UIDs of the results that count, by modality."""
        found: dict[str, set[str]] = {}
        for series in current_results(self.settings.orthanc.dicomweb_url, self.study_uid):
            found.setdefault(series.modality, set()).update(series.instances)
        return found


def wait_for(condition: Callable[[], bool], within_s: float = 90) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def site(program: Path, tmp_path: Path) -> Iterator[Site]:
    """`isocenter up` in this process: Orthanc 1.12, Triton, a worker and the gateway.

    Nobody looks into the archive within the test's time unless the script in Orthanc says that something came.
    """
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps" / "ct_lung_density").symlink_to(ROOT / "apps" / "ct_lung_density")
    settings = Settings(
        data_dir=tmp_path / "data",
        apps_dir=tmp_path / "apps",
        gateway={"port": free_port()},
        orthanc={"http_port": free_port(), "dicom_port": free_port(), "program": program},
        triton={name: free_port() for name in ("http_port", "grpc_port", "metrics_port")},
        routing={"settle_s": 1.0, "reconcile_every_s": 600, "compare_every_s": 600},
        routes=[{"name": "chest", "application": "ct_lung_density", "min_instances": 20}],
    )
    phantom = thorax_phantom(**SMALL)
    with stack(settings, say=lambda _: None) as running:
        running.supervisor.wait_until_ready()
        jobs = Jobs(running.settings)
        try:
            yield Site(running.settings, jobs, tmp_path, phantom, as_datasets(phantom))
        finally:
            jobs.close()


def uids(job: Job, modality: str) -> set[str]:
    return {each["sop_instance_uid"] for each in job.results if each["modality"] == modality}


def test_the_whole_way(site: Site) -> None:
    system = httpx.get(f"{site.settings.orthanc.rest_url}/system").json()
    assert system["Version"].startswith("1.12.")

    site.send(site.images[:-LATE], "first")
    (smaller,) = site.ended(1)
    assert smaller.state == "done", smaller.reason
    assert {modality: site.current()[modality] for modality in ("SEG", "SR")} == {
        modality: uids(smaller, modality) for modality in ("SEG", "SR")
    }

    site.send(site.images[-LATE:], "late")
    larger, before = site.ended(2)
    assert before.id == smaller.id
    assert larger.state == "done", larger.reason
    for group, lung in zip(
        larger.groups,
        (site.phantom.truth.right, site.phantom.truth.left, site.phantom.truth.both),
        strict=True,
    ):
        assert group["volume_mL"] == pytest.approx(lung.volume_mL, rel=0.01), group["label"]
        assert group["laa_950_percent"] == pytest.approx(lung.laa_950_percent, abs=0.5), group["label"]

    wait_for(lambda: site.jobs.show(smaller.id).superseded_by == larger.id)
    wait_for(lambda: len(rejection_notes(site.settings.orthanc.dicomweb_url, site.study_uid)) == 1)
    (note,) = rejection_notes(site.settings.orthanc.dicomweb_url, site.study_uid)
    assert rejected_by(note) == {each["sop_instance_uid"] for each in smaller.results}
    assert site.current()["SEG"] == uids(larger, "SEG")

    assert_comes_back_as_it_was_sent(site)
    assert_the_viewer_can_place_it(site)


def assert_comes_back_as_it_was_sent(site: Site) -> None:
    """By WADO-RS, pixel by pixel, in the transfer syntax it came in."""
    sent = {str(image.SOPInstanceUID): image for image in site.images}
    with DICOMwebClient(site.settings.orthanc.dicomweb_url) as client:
        found = [
            dcmread(BytesIO(content))
            for content in client.retrieve_series(site.study_uid, str(site.images[0].SeriesInstanceUID))
        ]
    assert {str(image.SOPInstanceUID) for image in found} == set(sent)
    assert len(found) == len(sent)
    for image in found:
        before = sent[str(image.SOPInstanceUID)]
        assert image.PixelData == before.PixelData
        assert image.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID


def assert_the_viewer_can_place_it(site: Site) -> None:
    """OHIF asks the gateway for the metadata of a series, which has to say more than Orthanc's index holds."""
    series_uid = site.images[0].SeriesInstanceUID
    url = f"{site.settings.gateway.url}/dicom-web/studies/{site.study_uid}/series/{series_uid}/metadata"
    described = httpx.get(url, timeout=30).raise_for_status().json()
    assert len(described) == len(site.images)
    placed = {image["00080018"]["Value"][0]: image for image in described}
    for image in site.images:
        there = placed[image.SOPInstanceUID]
        assert there["00200032"]["Value"] == pytest.approx(image.ImagePositionPatient)
        assert there["00280030"]["Value"] == pytest.approx(image.PixelSpacing)


def test_what_is_taken_back_is_gone_there_too(program: Path) -> None:
    assert program.exists()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        + [f"tests/integration/{name}" for name in SENSITIVE],
        cwd=ROOT,
        env={**os.environ, "ISOCENTER_TEST_ORTHANC": str(ORTHANC_1_12)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.match(r"\d+ passed in ", last), last  # none skipped
