"""A package in routing: a container for each job, and its results as any other's. Real Orthanc, router and worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from engines import ENGINES, command, require_containers, running_engine
from pydicom import Dataset, dcmread
from trivial_app import Workers, ended, until
from unit.map_cases import PYTHON, Recipe, add_python, good

from isocenter.job import Job
from isocenter.jobs import Jobs
from isocenter.maps import bubblewrap, namespaces
from isocenter.maps.store import MapStore
from isocenter.route import Route
from isocenter.routing import Router
from isocenter.rules import OUR_OWN
from isocenter.settings import Settings
from isocenter.stack.orthanc import running_orthanc
from isocenter_operators.dicom.identity import JobIdentity
from isocenter_operators.testing import as_datasets, thorax_phantom

_IMAGES = 4
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(
        not bubblewrap.available() and not namespaces.available(), reason="nothing here can confine a package"
    ),
    pytest.mark.skipif(not PYTHON.exists(), reason="the package is made of the system's Python"),
]

# An application without any library: it hands back the first image under UIDs of its own, random as everybody's are.
PROGRAM = """
import os, pathlib, random, sys
source, target = (pathlib.Path(os.environ[f"HOLOSCAN_{each}_PATH"]) for each in ("INPUT", "OUTPUT"))
content = min(source.iterdir()).read_bytes()

def value(tag):
    at = content.index(tag + b"UI")
    size = int.from_bytes(content[at + 6 : at + 8], "little")
    return content[at + 8 : at + 8 + size].rstrip(bytes(1))

for tag in (bytes((8, 0, 0x18, 0)), bytes((0x20, 0, 0x0E, 0))):
    old = value(tag)
    content = content.replace(old, old[:-10] + "".join(random.choices("123456789", k=10)).encode())
print("images", len(list(source.iterdir())))
if (pathlib.Path(__file__).parent / "fail").exists():
    sys.exit(3)
if (pathlib.Path(__file__).parent / "nobody").exists() and b"Phantom^Thorax" in content:
    sys.exit(4)
(target / f"{random.random()}.dcm").write_bytes(content)
"""


@dataclass
class Site:
    """An archive with a router and a worker."""

    settings: Settings
    workers: Workers
    jobs: Jobs

    def send(self, *, images: int = _IMAGES, seed: str = "a") -> list[Dataset]:
        phantom = thorax_phantom(size=(16, 16, images), spacing_mm=(22.0, 22.0, 180.0 / images))
        made = as_datasets(phantom, uid_seed=seed)
        for image in made:
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
    recipe = good()
    add_python(recipe)
    recipe.content.files["opt/holoscan/app/__main__.py"] = PROGRAM.encode()
    recipe.config["Labels"]["org.opencontainers.image.vendor"] = "ACME"
    return recipe


@pytest.fixture
def settings(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Settings]:
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
    """Starts the site with a route to the package, which is built of `recipe` then."""
    ends: list[Callable[[], None]] = []

    def start(engine: str | None = None, **route: Any) -> Site:
        (tmp_path / "image").mkdir(exist_ok=True)
        stored = MapStore(settings.maps_dir).add(recipe.write_image(tmp_path / "image"), name="copy")
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
    for end in ends:
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


@pytest.mark.parametrize("ours", [True, False])
def test_an_application_of_ours_may_say_that_it_is_not_applicable(
    ours: bool, begin: Callable[..., Site], recipe: Recipe
) -> None:
    """Anybody else's who writes nothing has failed: what it says may be about the patient."""
    recipe.content.files["opt/holoscan/app/__main__.py"] = (
        b"import sys\nsys.stderr.write('not applicable: no liver in this series\\n')\n"
    )
    if ours:
        recipe.content.files["var/holoscan/app.yaml"] = b"isocenter: {}\n"
    site = begin()
    site.send()
    job = site.job()
    told = "no liver in this series" if ours else "wrote no DICOM"
    assert job.state == ("not_applicable" if ours else "failed")
    assert told in job.reason


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
