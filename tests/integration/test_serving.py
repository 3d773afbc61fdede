"""Versions of a model side by side, in a real Triton, by the commands that an operator types, on studies that come."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from detection_bundle import ball_bundle, with_balls
from model_site import ABOVE_HU, NAME, ModelSite, mask_ml, written
from ports import free_port
from pydicom import dcmread
from pydicom.dataset import Dataset
from threshold_bundle import compute_without_monai, threshold_bundle
from trivial_app import Workers, ended, until

from isocenter.catalog import Catalog
from isocenter.cli import main, model_optimise
from isocenter.job import Job
from isocenter.jobs import Jobs
from isocenter.serving import Servings
from isocenter.settings import OrthancSettings, Settings, TritonSettings
from isocenter.shadows import Comparison, Shadows
from isocenter.stack.running import exclusively, write
from isocenter.stack.triton import running_triton
from isocenter.weights import digest_of
from isocenter.worker.model_process import Server
from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.inference.triton import TritonClient
from isocenter_operators.testing import thorax_phantom

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "triton_models" / "monai_bundle" / "1"
BALLS = "balls"
CHEST: dict[str, Any] = {"size": (60, 50, 24), "spacing_mm": (3.1, 3.3, 5.0)}


class Site(ModelSite):
    """A stack runs on its data folder: this process holds its lock, as the supervisor does."""

    def seg(self, job: Job) -> Dataset:
        (stored,) = [each for each in job.results if each["modality"] == "SEG"]
        with DICOMwebClient(self.settings.orthanc.dicomweb_url) as archive:
            (content,) = archive.retrieve_series(stored["study_uid"], stored["series_uid"])
        return dcmread(BytesIO(content))

    def instances(self, study_uid: str) -> int:
        """How many the archive holds of a study."""
        with DICOMwebClient(self.settings.orthanc.dicomweb_url) as archive:
            return sum(
                len(archive.search_instances(study_uid, each["0020000E"]["Value"][0]))
                for each in archive.search_series(study_uid)
            )

    def shadow(self, version: str, job_id: str, name: str = NAME) -> Comparison:
        def found() -> Comparison | None:
            known = Shadows(self.settings.data_dir).of(name, version)
            return next((each for each in known if each.job_id == job_id), None)

        return until(found)

    def processes(self, version: str = "") -> set[int]:
        server = Server.running(self.settings)
        assert server is not None
        return {each.process.pid for each in server.of(NAME, version)}


@pytest.fixture(scope="module")
def site(orthanc: OrthancSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("serving")
    settings = Settings(
        data_dir=folder / "data",
        apps_dir=folder / "apps",
        orthanc=OrthancSettings(url=orthanc.rest_url),
        triton=TritonSettings(
            http_port=free_port(),
            grpc_port=free_port(),
            metrics_port=free_port(),
            model_repository=ROOT / "triton_models",
            device="cpu",
        ),
        limits={"free_disk_mb": 0},
        routes=(),
    )
    settings.apps_dir.mkdir()
    config = written(settings, folder)
    first = threshold_bundle(folder / "first", ABOVE_HU["1"])
    workers, jobs = Workers(settings, folder), Jobs(settings)
    with exclusively(settings), running_triton(settings, []):
        write(settings)
        # The first model that is imported at all, into a stack that runs.
        models = ["models", "--config", str(config)]
        assert main([*models, "import", str(first), "--name", NAME]) == 0
        compute_without_monai(settings.data_dir / "models" / NAME / "1", ABOVE_HU["1"])
        assert main([*models, "load", NAME]) == 0
        workers.start()
        try:
            yield Site(settings, folder, jobs, config)
        finally:
            workers.end()
            jobs.close()


def test_a_version_is_added_promoted_and_taken_back(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    before = site.done("before")
    assert before.models == {NAME: "1"}
    assert site.added(capsys, ABOVE_HU["2"], version="1.1.0", title="Above another") == "2"
    with TritonClient(site.settings.triton.grpc_url) as client:
        assert (client.ready(NAME, "1"), client.ready(NAME, "2")) == (True, False)
        listed = {row["version"]: row for row in site.command(capsys, "list")["models"]}
        assert (listed["1"]["roles"], listed["2"]["roles"]) == (["active"], [])
        assert listed["1"]["weights_sha256"] != listed["2"]["weights_sha256"]

        old, refused = site.processes(), list[str]()
        asking = _asking(site, refused)
        promoted = site.command(capsys, "promote", NAME, "2")
        assert asking() > 10
        assert refused == []  # the version that was active answered all the time
        assert (promoted["active"], promoted["earlier"], promoted["live"]) == ("2", ["1"], True)
        assert client.ready(NAME, "1")  # what was begun with it ends with it
        assert client.ready(NAME, "2")
        assert not site.processes() & old  # it has read its configuration anew

    after = site.done("after")
    assert after.models == {NAME: "2"}
    segs = [site.seg(job) for job in (before, after)]
    for seg, version, app_version in zip(segs, "12", ("1.0.0", "1.1.0"), strict=True):
        told = seg.ContributingEquipmentSequence
        assert [(str(item.SoftwareVersions)) for item in told][-2:] == [app_version, version]
    volumes_ml = [job.groups[0]["volume_mL"] for job in (before, after)]
    assert volumes_ml == pytest.approx([mask_ml(ABOVE_HU["1"]), mask_ml(ABOVE_HU["2"])])
    assert site.command(capsys, "promote", NAME, "2", code=2).startswith(
        "version 2 is the active one already"
    )

    back = site.command(capsys, "rollback", NAME)
    assert (back["active"], back["earlier"], back["versions"]) == ("1", [], ["1"])
    assert site.done("back").models == {NAME: "1"}
    assert not site.processes("2")
    assert "there is none to go back to" in site.command(capsys, "rollback", NAME, code=2)


def test_a_shadow_is_compared_and_shown_to_nobody(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.command(capsys, "shadow", NAME, "2")
    job = site.done("shadowed")
    stored = site.instances(job.study_uid)

    found = site.shadow("2", job.id)

    assert site.instances(job.study_uid) == stored
    assert (found.shown.version, found.shadow.version) == ("1", "2")
    assert (found.shadow.state, found.not_compared) == ("done", "")
    (segment,) = found.segments
    sizes_ml = [mask_ml(ABOVE_HU["1"]), mask_ml(ABOVE_HU["2"])]
    assert [segment.shown_ml, segment.shadow_ml] == pytest.approx(sizes_ml)
    assert segment.dice == pytest.approx(2 * sizes_ml[1] / sum(sizes_ml))  # the second lies within the first
    kept = site.settings.data_dir / "shadow" / NAME / "2" / job.id
    assert {dcmread(file).Modality for file in kept.glob("*.dcm")} == {"SEG", "SR", "OT"}

    (report,) = site.command(capsys, "report", NAME)["shadows"]
    assert (report["compared"], report["shadow_failed"]) == (1, 0)
    assert report["segments"][0]["worst_study_uid"] == job.study_uid
    assert main(["models", "--config", str(site.config), "report", NAME]) == 0
    assert job.study_uid in capsys.readouterr().out
    site.command(capsys, "shadow", NAME, "off")


def test_a_shadow_that_fails_fails_alone(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert site.added(capsys, 500.0, version="2.0.0", broken=True) == "3"
    site.command(capsys, "shadow", NAME, "3")
    job = site.done("beside a broken one")

    found = site.shadow("3", job.id)

    assert (found.shown.state, found.shadow.state, found.segments) == ("done", "failed", ())
    assert found.shadow.reason
    assert (site.jobs.show(job.id) or job).state == "done"
    reports = {each["version"]: each for each in site.command(capsys, "report", NAME)["shadows"]}
    assert (reports["3"]["shadow_failed"], reports["3"]["compared"]) == (1, 0)
    site.command(capsys, "shadow", NAME, "off")


def test_a_shadows_boxes_are_compared_by_where_they_lie(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second version does not tell of the less bright one of two balls."""
    for at_least, words in ((0.3, []), (0.95, ["--as-version"])):
        bundle = ball_bundle(site.folder / f"balls from {at_least} on", score_thresh=at_least)
        site.command(capsys, "import", str(bundle), "--name", BALLS, *words)
    site.command(capsys, "load", BALLS)
    site.command(capsys, "shadow", BALLS, "2")
    phantom = with_balls(thorax_phantom(**CHEST), [((-60, 10, 0), 2000), ((50, -20, 20), 1500)])
    job = site.done("balls", BALLS, phantom)
    assert [group["box"]["kind"] for group in job.groups] == ["Lung nodule"] * 2

    found = site.shadow("2", job.id, BALLS)

    assert (found.shadow.state, found.not_compared, found.segments, found.numbers) == ("done", "", (), ())
    (boxes,) = found.boxes
    assert (boxes.shown_only, boxes.shadow_only) == (1, 0)
    assert boxes.ious == pytest.approx([1.0], abs=0.01)
    told = site.command(capsys, "report", BALLS)
    (report,) = told["shadows"]
    assert (report["compared"], report["boxes"][0]["shown_only"], report["boxes"][0]["both"]) == (1, 1, 1)
    assert report["boxes_differ_most"][0]["study_uid"] == job.study_uid
    assert [arm["boxes"] for arm in told["versions"]] == [{"Lung nodule": 2.0}]
    site.command(capsys, "shadow", BALLS, "off")
    site.command(capsys, "remove", BALLS)


def test_a_canary_does_the_work_of_its_share(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.command(capsys, "canary", NAME, "2", "--share", "0")
    assert site.done("no canary").models == {NAME: "1"}
    site.command(capsys, "canary", NAME, "2", "--share", "100")
    job = site.done("a canary")
    assert job.models == {NAME: "2"}
    assert job.groups[0]["volume_mL"] == pytest.approx(mask_ml(ABOVE_HU["2"]))
    assert [item.SoftwareVersions for item in site.seg(job).ContributingEquipmentSequence][-1] == "2"
    arms = {arm["version"]: arm for arm in site.command(capsys, "report", NAME)["versions"]}
    assert arms["2"]["role"] == "canary"
    assert arms["1"]["studies"] >= 2
    assert next(iter(arms["2"]["medians"].values()))["volume_mL"] == pytest.approx(mask_ml(ABOVE_HU["2"]))
    # A job that waits for a version that has no role any more is done by the one that has.
    site.command(capsys, "canary", NAME, "off")
    assert site.done("after the canary").models == {NAME: "1"}


def test_a_version_that_can_not_be_loaded_changes_nothing(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    model = site.version("3").parent
    weights = model / "3" / "bundle" / "models" / "model.pt"
    weights.rename(weights.with_suffix(".away"))
    config, serving = (model / "config.pbtxt").read_text(), Servings(site.settings.data_dir).of(NAME)
    assert "model.pt" in site.command(capsys, "promote", NAME, "3", code=1)
    weights.with_suffix(".away").rename(weights)
    assert (model / "config.pbtxt").read_text() == config
    assert Servings(site.settings.data_dir).of(NAME) == serving
    assert site.done("as before").models == {NAME: "1"}
    assert "there is no version 9 of bone, only 1, 2, 3" in site.command(capsys, "promote", NAME, "9", code=2)


def test_a_version_is_deleted_while_the_others_serve(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    version = site.added(capsys, 900.0, version="3.0.0")
    site.command(capsys, "promote", NAME, version)
    site.command(capsys, "promote", NAME, "1")
    assert site.processes(version)
    refused = site.command(capsys, "remove", NAME, "--version", version, code=2)
    assert "the one that a rollback makes active" in refused
    site.command(capsys, "unload", NAME, "--version", version)
    removed = site.command(capsys, "remove", NAME, "--version", version)
    assert (removed["live"], removed["freed_mb"] > 0) == (True, True)
    assert not site.processes(version)
    assert not site.version(version).exists()
    with TritonClient(site.settings.triton.grpc_url) as client:
        assert (client.ready(NAME, "1"), client.ready(NAME, version)) == (True, False)
    assert site.done("after a version was deleted").models == {NAME: "1"}


def test_an_optimised_version_is_promoted_and_results_name_what_made_them(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(folder: Path, place: Path, *_: Any, **__: Any) -> list[dict[str, Any]]:
        figures = {"seconds": 1.0, "agreement_percent": 99.0, "least_dice_percent": 99.0, "agrees": True}
        return [{"variant": variant, **figures, "reason": ""} for variant in ({"name": "as it is"}, coarse)]

    coarse = {"name": "bfloat16", "channels_last": False, "precision": "bfloat16", "compiled": False}
    coarse |= {"runtime": "torch", "int8": False, "window": [], "batch": 1, "measured_with": {}}
    monkeypatch.setattr(model_optimise, "_trials", measured)
    monkeypatch.setattr(model_optimise, "_fastest", lambda found: found[-1])
    before, old = site.done("as it is"), site.processes()
    kept = site.command(capsys, "optimise", NAME)
    assert (kept["measured"], kept["new"]) == ("1", True)
    assert site.processes() == old  # it does nothing yet
    # MONAI and the variant that was kept compute this one, in its own process: the same is found.
    shutil.copy(ENGINE / "model.py", site.version(kept["version"]))
    site.command(capsys, "promote", NAME, kept["version"])
    job = site.done("optimised")
    assert job.models == {NAME: kept["version"]}
    assert _weights(site, job) == digest_of(site.version(kept["version"]))
    assert job.groups[0]["volume_mL"] == pytest.approx(before.groups[0]["volume_mL"], rel=0.01)
    site.command(capsys, "rollback", NAME)
    back = site.done("as it is again")
    assert _weights(site, back) == _weights(site, before) == digest_of(site.version("1"))


def test_several_instances_and_their_memory_given_back(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    one = site.command(capsys, "scale", NAME, "2")
    assert len(site.processes("1")) == 2
    assert one["memory_after_mb"] > 1.5 * one["memory_before_mb"]
    site.command(capsys, "scale", NAME, "1")
    assert len(site.processes("1")) == 1

    pids = site.processes()
    gone = site.command(capsys, "unload", NAME)
    assert gone["memory_before_mb"] > 100
    assert not gone["memory_after_mb"]
    until(lambda: not any(_lives(pid) for pid in pids))  # seconds after Triton says that the model is gone
    assert NAME not in Catalog.of(site.settings).models  # nor is it loaded at the next start
    job_id = site.asked("while it is away")
    until(lambda: "bone" in str(site.jobs.show(job_id).reason))
    site.command(capsys, "load", NAME)
    assert ended(site.jobs, job_id).state == "done"


def _weights(site: Site, job: Job) -> str:
    """The SHA-256 that its result names."""
    item = site.seg(job).ContributingEquipmentSequence[-1]
    return str(item.ContributionDescription).removeprefix("Weights with SHA-256 ")


def _lives(pid: int) -> bool:
    """Whether it holds memory: what has ended and was not waited for holds none."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _asking(site: Site, refused: list[str]) -> Callable[[], int]:
    """Ask version 1 again and again; what is given stops that, and tells how often it answered."""
    stop, answered = threading.Event(), list[int]()
    volume = np.zeros((8, 8, 8), np.int16)

    def ask() -> None:
        with TritonClient(site.settings.triton.grpc_url) as client:
            while not stop.is_set():
                try:
                    client.infer(
                        NAME,
                        {"volume": volume, "affine": np.eye(4)},
                        outputs={"labels": volume.size},
                        deadline_s=30,
                        version="1",
                    )
                    answered.append(1)
                except Exception as error:  # noqa: BLE001 - shown by the test
                    refused.append(str(error))
                time.sleep(0.02)

    thread = threading.Thread(target=ask)
    thread.start()

    def end() -> int:
        stop.set()
        thread.join()
        return len(answered)

    return end
