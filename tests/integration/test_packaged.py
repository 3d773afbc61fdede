"""A package in routing: a container for each job, and its results as any other's. Real Orthanc, router and worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from archive_count import rejected_by, rejection_notes
from engines import ENGINES, command, require_containers, running_engine
from ports import free_port
from pydicom import Dataset, dcmread
from trivial_app import Workers, ended, until
from unit.map_cases import COPY_AS_RESULT, PYTHON, Recipe, good, with_python

from isocenter.job import Job
from isocenter.jobs import Jobs
from isocenter.maps import bubblewrap, namespaces
from isocenter.maps.standby import STANDBY_LABEL, STANDBY_VALUE
from isocenter.maps.store import MapStore
from isocenter.replacement import Replacement
from isocenter.route import Route
from isocenter.routing import Router
from isocenter.rules import OUR_OWN
from isocenter.settings import Settings
from isocenter.stack.orthanc import running_orthanc
from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Findings, Measurement, MeasurementGroup
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.sr import measurement_report
from isocenter_operators.dicom.series.geometry import volume_of
from isocenter_operators.standby import READY
from isocenter_operators.testing import as_datasets, thorax_phantom

_IMAGES = 4
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not bubblewrap.available() and not namespaces.available(), reason="nothing here can confine a package"
    ),
    pytest.mark.skipif(not PYTHON.exists(), reason="the package is made of the system's Python"),
]


@dataclass
class Site:
    """An archive with a router and a worker."""

    settings: Settings
    workers: Workers
    jobs: Jobs

    def send(self, *, images: int = _IMAGES, seed: str = "a", **attributes: str) -> list[Dataset]:
        """The first images of one series; more of them are more of the same."""
        phantom = thorax_phantom(size=(16, 16, 6), spacing_mm=(22.0, 22.0, 30.0))
        made = as_datasets(phantom, uid_seed=seed)[:images]
        for image in made:
            for name, value in attributes.items():
                setattr(image, name, value)
            content = BytesIO()
            image.save_as(content, enforce_file_format=True)
            httpx.post(
                f"{self.settings.orthanc.rest_url}/instances", content=content.getvalue()
            ).raise_for_status()
        return made

    def job(self, count: int = 1) -> Job:
        """The newest, once there are so many and all have ended."""
        found = until(lambda: jobs if len(jobs := self.jobs.list()) >= count else None)
        return ended(self.jobs, max(found, key=lambda job: job.created).id)

    def stored(self, job: Job) -> list[Dataset]:
        """Its results, as they lie in the archive."""
        found = []
        for result in job.results:
            url = f"{self.settings.orthanc.rest_url}/tools/lookup"
            there = httpx.post(url, content=result["sop_instance_uid"]).json()
            file = httpx.get(f"{self.settings.orthanc.rest_url}/instances/{there[0]['ID']}/file").content
            found.append(dcmread(BytesIO(file)))
        return found

    def count(self) -> int:
        statistics: dict[str, Any] = httpx.get(f"{self.settings.orthanc.rest_url}/statistics").json()
        return int(statistics["CountInstances"])


@pytest.fixture
def recipe() -> Recipe:
    recipe = with_python(good(), COPY_AS_RESULT)
    recipe.config["Labels"]["org.opencontainers.image.vendor"] = "ACME"
    return recipe


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    (tmp_path / "apps").mkdir()
    settings = Settings(
        data_dir=tmp_path / "data",
        apps_dir=tmp_path / "apps",
        gateway={"port": free_port()},
        orthanc={"http_port": free_port(), "dicom_port": free_port()},
        routing={"settle_s": 0.6, "reconcile_every_s": 0.2},
        limits={"free_disk_mb": 0},
        worker={"retry_after_s": 0.1},
        routes=[],
    )
    with running_orthanc(settings):
        yield settings


@pytest.fixture
def begin(settings: Settings, recipe: Recipe, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Starts the site with a route to the package, which is built of `recipe` then; anew, with another one."""
    ends: list[Callable[[], None]] = []

    def end() -> None:
        while ends:
            ends.pop(0)()

    def start(*, vouched: bool = False, engine: str | None = None, **route: Any) -> Site:
        end()
        (tmp_path / "image").mkdir(exist_ok=True)
        image = recipe.write_image(tmp_path / "image")
        stored = MapStore(settings.maps_dir).add(image, name="copy", vouched=vouched)
        with_route = settings.model_copy(
            update={
                "maps": settings.maps.model_copy(update={"engine": engine}),
                "routes": (
                    Route(
                        name="r",
                        application=stored.reference,
                        when={"Modality": "^CT$"},
                        min_instances=_IMAGES,
                        **route,
                    ),
                ),
            }
        )
        router, workers, jobs = Router(with_route), Workers(with_route, tmp_path), Jobs(with_route)
        workers.start()
        router.start()
        ends.extend((router.stop, workers.end, jobs.close))
        return Site(with_route, workers, jobs)

    yield start
    end()


def test_the_whole_way(begin: Callable[..., Site]) -> None:
    site = begin()
    images = site.send()
    job = site.job()
    assert (job.state, job.reason, job.application) == ("done", "", "map://copy"), job
    assert {"fetch", "write", "package", "check", "store"} <= set(job.seconds)
    (result,) = site.stored(job)
    identity = JobIdentity(job.id, job.created)
    assert result.SOPInstanceUID == identity.uid("package.1")
    assert result.SeriesInstanceUID == identity.uid("package.series.1")
    assert (result.StudyInstanceUID, result.PatientID) == (images[0].StudyInstanceUID, images[0].PatientID)
    maker = result.ContributingEquipmentSequence[-1]
    assert (maker.Manufacturer, maker.ManufacturerModelName, maker.SoftwareVersions) == (
        "ACME",
        "map://copy",
        "1.0.0",
    )
    reference = site.settings.routes[0].applications[0]
    assert reference.partition("@")[2] in maker.ContributionDescription

    # What it made is a CT, and is not given to it again.
    until(lambda: _verdicts(site, str(result.SeriesInstanceUID)) == [OUR_OWN])
    assert len(site.jobs.list()) == 1
    assert not list((site.settings.maps_dir / "runs").iterdir())  # no image is left in a file


def _verdicts(site: Site, series_uid: str) -> list[str]:
    from isocenter.arrivals import Arrivals

    arrivals = Arrivals(site.settings.database)
    found = arrivals.of_study(site.jobs.list()[0].study_uid)
    return [verdict.reason for each in found if each.series_uid == series_uid for verdict in each.verdicts]


# Loading takes its time, and what was not loaded in advance is loaded in the job.
SLOW_TO_LOAD = f"""
import os, sys, time
time.sleep(3)
if os.environ.pop("ISOCENTER_WAIT", ""):
    print({READY!r}, flush=True)
    sys.stdin.readline()
"""


def test_the_second_job_finds_a_container_that_has_loaded_everything(
    begin: Callable[..., Site], recipe: Recipe, settings: Settings
) -> None:
    recipe.content.files["opt/holoscan/app/__main__.py"] = f"{SLOW_TO_LOAD}\n{COPY_AS_RESULT}".encode()
    recipe.config["Labels"][STANDBY_LABEL] = STANDBY_VALUE
    site = begin()
    site.send()
    first = site.job()
    assert (first.state, first.reason) == ("done", "")
    assert first.seconds["package"] > 3
    spare = _spare(settings)
    assert not list((spare / "input").iterdir())

    images = site.send(seed="b", PatientID="second", PatientName="Second^Patient")
    second = site.job(2)
    assert (second.state, second.reason) == ("done", "")
    assert second.id != first.id
    assert second.seconds["package"] < 2
    (result,) = site.stored(second)
    assert (result.PatientID, result.PatientName) == ("second", "Second^Patient")
    assert result.StudyInstanceUID == images[0].StudyInstanceUID
    assert result.PixelData == min(images, key=lambda image: str(image.SOPInstanceUID)).PixelData
    assert result.SOPInstanceUID == JobIdentity(second.id, second.created).uid("package.1")
    assert not spare.exists()
    assert _spare(settings) != spare  # for the third


def test_a_worker_that_is_killed_leaves_no_container_that_waits(
    begin: Callable[..., Site], recipe: Recipe, settings: Settings
) -> None:
    recipe.content.files["opt/holoscan/app/__main__.py"] = f"{SLOW_TO_LOAD}\n{COPY_AS_RESULT}".encode()
    recipe.config["Labels"][STANDBY_LABEL] = STANDBY_VALUE
    site = begin()
    site.send()
    assert site.job().state == "done"
    spare = _spare(settings)
    (worker,) = site.workers.running
    inside = psutil.Process(worker.pid).children(recursive=True)
    assert len(inside) > 1
    worker.kill()
    worker.wait()
    until(lambda: not [each for each in inside if _lives(each)])

    site.workers.start()
    until(lambda: not spare.exists())  # before any job of a package comes, which may never be
    site.send(seed="b")
    job = site.job(2)
    assert job.state == "done"
    assert job.seconds["package"] > 3


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _spare(settings: Settings) -> Path:
    """The folder of the container that waits, once it does."""

    def found() -> Path | None:
        logs = (settings.maps_dir / "runs").glob("run-*/work/log.txt")
        return next((log.parents[1] for log in logs if READY in log.read_text()), None)

    return until(found)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_whole_way_by_an_engine(
    engine: str, begin: Callable[..., Site], recipe: Recipe, tmp_path: Path
) -> None:
    """A real Docker, a real Podman: the route's settings name it, and each job is a container of it."""
    with running_engine(engine):
        (tmp_path / "tried").mkdir()
        require_containers(engine, recipe.write_image(tmp_path / "tried"), [str(PYTHON), "-c", "pass"])
        site = begin(engine=engine)
        images = site.send()
        job = site.job()
        assert (job.state, job.reason) == ("done", ""), job
        (result,) = site.stored(job)
        assert result.SOPInstanceUID == JobIdentity(job.id, job.created).uid("package.1")
        assert result.PatientID == images[0].PatientID
        known = command(engine, "image", "ls", "--format", "{{.Repository}}").stdout
        assert "localhost/isocenter-map" in known
        assert command(engine, "ps", "--all", "--quiet").stdout == ""
        assert not list((site.settings.maps_dir / "runs").iterdir())


def test_run_again_it_leaves_one_result(begin: Callable[..., Site]) -> None:
    site = begin()
    site.send()
    job = site.job()
    before = site.count()
    site.jobs.retry(job.id)
    until(lambda: (again := site.jobs.show(job.id)) and again.over and again.attempts == 2)
    again = site.jobs.show(job.id)
    assert again is not None
    assert (again.state, [each["sop_instance_uid"] for each in again.results]) == (
        "done",
        [each["sop_instance_uid"] for each in job.results],
    )
    assert site.count() == before


@pytest.mark.parametrize("policy", ["hide", "delete"])
def test_results_of_another_image_replace_those_of_the_one_before(
    policy: str, begin: Callable[..., Site], recipe: Recipe
) -> None:
    """A route that names another digest by now: what comes of it is the newer result, and counts alone."""
    site = begin(superseded=policy)
    images = site.send()
    first = site.job()
    (old,) = site.stored(first)
    recipe.content.files["opt/holoscan/app/newer"] = b""
    site = begin(superseded=policy)
    site.send(images=_IMAGES + 1)
    second = site.job(2)
    assert (second.state, second.application) == ("done", first.application), second
    (new,) = site.stored(second)
    before, after = (_digest(result) for result in (old, new))
    assert before != after == site.settings.routes[0].applications[0].partition("@")[2]
    until(lambda: not Replacement(site.settings).settle() and _superseded_by(site, first) == second.id)
    study, results = str(images[0].StudyInstanceUID), {str(old.SOPInstanceUID), str(new.SOPInstanceUID)}
    current = results & _uids(site)
    rejected = {
        uid
        for note in rejection_notes(site.settings.orthanc.dicomweb_url, study)
        for uid in rejected_by(note)
    }
    assert current - rejected == {str(new.SOPInstanceUID)}
    assert rejected == (set() if policy == "delete" else {str(old.SOPInstanceUID)})
    assert len(current) == (1 if policy == "delete" else 2)


@pytest.mark.parametrize("wrong", ["fail", "back"])
def test_of_two_images_that_one_counts_which_has_a_result_and_is_named_last(
    wrong: str, begin: Callable[..., Site], recipe: Recipe
) -> None:
    """One that fails replaces nothing; and the earlier image, named again, does its work again."""
    site = begin(superseded="delete")
    site.send()
    first = site.job()
    recipe.content.files[f"opt/holoscan/app/{wrong}"] = b""
    site = begin(superseded="delete")
    site.send(images=_IMAGES + 1)
    second = site.job(2)
    Replacement(site.settings).settle()
    if wrong == "fail":
        assert second.state == "failed"
        assert _superseded_by(site, first) == ""
        assert {each["sop_instance_uid"] for each in first.results} <= _uids(site)
        return
    assert (second.state, _superseded_by(site, first)) == ("done", second.id)
    del recipe.content.files[f"opt/holoscan/app/{wrong}"]
    site = begin(superseded="delete")
    site.send(images=_IMAGES + 2)
    third = site.job(3)
    assert third.state == "done", third
    Replacement(site.settings).settle()
    ours = {each["sop_instance_uid"] for job in (first, second, third) for each in job.results}
    assert ours & _uids(site) == {each["sop_instance_uid"] for each in third.results}


def _digest(result: Dataset) -> str:
    said = str(result.ContributingEquipmentSequence[-1].ContributionDescription)
    return f"sha256:{said.partition('sha256:')[2][:64]}"


def _superseded_by(site: Site, job: Job) -> str:
    found = site.jobs.show(job.id)
    assert found is not None
    return found.superseded_by


def _uids(site: Site) -> set[str]:
    """Of all that lies in the archive."""
    answer = httpx.get(f"{site.settings.orthanc.rest_url}/instances?expand")
    return {each["MainDicomTags"]["SOPInstanceUID"] for each in answer.json()}


def test_one_that_fails_says_why_and_keeps_its_log(begin: Callable[..., Site], recipe: Recipe) -> None:
    recipe.content.files["opt/holoscan/app/fail"] = b""
    site = begin()
    site.send()
    job = site.job()
    assert job.state == "failed"
    assert "map://copy 1.0.0: it ended with exit code 3; its log says more" in job.reason
    log = site.settings.data_dir / "jobs" / job.id / "package.log"
    assert "images 4\n" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("whose", ["vouched for", "says that it is ours", "a stranger's"])
def test_an_application_of_ours_may_say_that_it_is_not_applicable(
    whose: str, begin: Callable[..., Site], recipe: Recipe
) -> None:
    """Anybody else's who writes nothing has failed: what it says may be about the patient, or a lie."""
    recipe.content.files["opt/holoscan/app/__main__.py"] = (
        b"import sys\nsys.stderr.write('not applicable: no liver in this series\\n')\n"
    )
    if whose != "a stranger's":
        recipe.content.files["var/holoscan/app.yaml"] = b"isocenter: {}\n"
    site = begin(vouched=whose == "vouched for")
    site.send()
    job = site.job()
    if whose == "vouched for":
        assert (job.state, job.reason) == ("not_applicable", "no liver in this series")
        return
    assert job.state == "failed"
    assert "wrote no DICOM" in job.reason
    assert "liver" not in job.reason
    assert ("--vouch" in job.reason) is (whose == "says that it is ours")


@pytest.mark.parametrize("ours", [True, False])
def test_the_numbers_of_its_report_are_told_of_the_job(
    ours: bool, begin: Callable[..., Site], recipe: Recipe
) -> None:
    """The free text in it only where it is an application of ours, and is believed."""
    phantom = thorax_phantom(size=(16, 16, 6), spacing_mm=(22.0, 22.0, 30.0))
    volume = volume_of(as_datasets(phantom, uid_seed="a")[:_IMAGES])
    measured = Measurement("volume_mL", codes.VOLUME, 1234.5, codes.MILLILITER)
    groups = (MeasurementGroup("Doe^Jane's lung", codes.LUNG, (), (measured,), notes=("cut off",)),)
    report = measurement_report(
        findings=Findings(groups),
        frames=volume.frames,
        algorithm=Algorithm("lungs", "1"),
        identity=JobIdentity("0" * 64, datetime(2026, 11, 22)),
    )
    content = BytesIO()
    report.save_as(content, enforce_file_format=True)
    recipe.content.files["opt/holoscan/app/report"] = content.getvalue()
    recipe.content.files["opt/holoscan/app/__main__.py"] = (
        b"import os, pathlib, shutil\n"
        b"target = pathlib.Path(os.environ['HOLOSCAN_OUTPUT_PATH']) / 'report.dcm'\n"
        b"shutil.copyfile(pathlib.Path(__file__).parent / 'report', target)\n"
    )
    if ours:
        recipe.content.files["var/holoscan/app.yaml"] = b"isocenter: {}\n"
    site = begin(vouched=ours)
    site.send()
    job = site.job()
    assert job.state == "done", job.reason
    told = {"label": "Doe^Jane's lung", "notes": ["cut off"]} if ours else {"label": "Lung", "notes": []}
    assert job.groups == ({**told, "volume_mL": 1234.5},)


def test_de_identified_it_sees_nobody_and_its_result_is_the_patients(
    begin: Callable[..., Site], recipe: Recipe
) -> None:
    recipe.content.files["opt/holoscan/app/nobody"] = b""  # it fails where it sees the name
    site = begin(deidentify=True)
    images = site.send()
    job = site.job()
    assert job.state == "done", job.reason
    (result,) = site.stored(job)
    assert (result.PatientName, result.PatientID) == (images[0].PatientName, images[0].PatientID)
    assert result.StudyInstanceUID == images[0].StudyInstanceUID
    assert result.FrameOfReferenceUID == images[0].FrameOfReferenceUID
