"""The archive's client and the router against a real Orthanc."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import yaml
from ports import free_port
from pydicom import dcmread
from pydicom.uid import generate_uid
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt

from isocenter.cli import main
from isocenter.cli.sending import send
from isocenter.jobs import Jobs
from isocenter.pacs import Orthanc
from isocenter.routing import Router
from isocenter.settings import OrthancSettings, Settings
from isocenter.stack.orthanc import running_orthanc
from isocenter_operators.errors import ArchiveUnavailable

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    folder = tmp_path / "apps" / "trivial"
    folder.mkdir(parents=True)
    (folder / "app.yaml").write_text(yaml.safe_dump({"application": {"title": "Trivial", "version": "1"}}))
    return Settings(
        data_dir=tmp_path / "data",
        apps_dir=tmp_path / "apps",
        gateway={"port": free_port()},
        orthanc={"http_port": free_port(), "dicom_port": free_port()},
        # Long enough for several images that are sent one by one to be one change, on a busy machine too.
        routing={"settle_s": 2.0, "reconcile_every_s": 0.3},
        routes=[
            {"name": "CT", "application": "trivial", "when": {"Modality": "^CT$"}, "min_instances": 3},
            {"name": "MR", "application": "trivial", "when": {"Modality": "^MR$"}},
        ],
    )


@pytest.fixture
def slices(test_data: Path, tmp_path: Path) -> list[Path]:
    """Five slices of the abdomen CT."""
    return sorted((test_data / "ct-abdomen-41" / "image").iterdir())[:5]


@pytest.fixture
def other_study(test_data: Path) -> list[Path]:
    """Five slices of the thorax CT."""
    return sorted((test_data / "ct-chest-275" / "image").rglob("*.dcm"))[:5]


@pytest.fixture
def router(settings: Settings) -> Iterator[Router]:
    router = Router(settings)
    router.start()
    yield router
    router.stop()


def store(settings: Settings, files: list[Path]) -> None:
    for file in files:
        httpx.post(f"{settings.orthanc.rest_url}/instances", content=file.read_bytes()).raise_for_status()


def wait_for(condition: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def verdicts(router: Router) -> list[str]:
    return [str(each) for arrival in router.arrivals.newest() for each in arrival.verdicts]


def test_a_series_becomes_one_job_and_late_images_another(
    settings: Settings, slices: list[Path], jobs: Jobs, router: Router
) -> None:
    with running_orthanc(settings):
        store(settings, slices[:4])
        wait_for(lambda: len(jobs.list()) == 1)
        (first,) = jobs.list()
        assert (first.application, first.route, first.state) == ("trivial", "CT", "queued")
        assert first.series_uid == str(dcmread(slices[0], stop_before_pixels=True).SeriesInstanceUID)
        assert first.seconds["settle"] >= 2
        wait_for(lambda: len(verdicts(router)) == 2)
        assert verdicts(router) == [
            f"job {first.id}",
            "not wanted: MR: Modality is 'CT', and should be like '^MR$'",
        ]

        store(settings, slices[:2])  # the same images once more are no news
        time.sleep(2.5)
        assert len(jobs.list()) == 1

        store(settings, slices[4:])
        wait_for(lambda: len(jobs.list()) == 2)
        larger, smaller = jobs.list()
        assert larger.id != first.id
        assert smaller.id == first.id
        # The larger job is there before the smaller one goes, so that a crash in between loses neither.
        wait_for(lambda: jobs.list()[1].state == "cancelled")


def test_what_came_while_nobody_looked_is_found_and_routed_once(
    settings: Settings, slices: list[Path], jobs: Jobs
) -> None:
    with running_orthanc(settings):
        store(settings, slices)
        for _ in range(2):  # a second router, as after a restart, finds nothing new
            router = Router(settings)
            wait_for(partial(looked, router))
            router.stop()
            assert [job.state for job in jobs.list()] == ["queued"]


def test_without_orthanc_the_router_says_so_and_catches_up(
    settings: Settings, slices: list[Path], jobs: Jobs, router: Router
) -> None:
    wait_for(lambda: "does not answer" in router.status()["away"])
    with running_orthanc(settings):
        store(settings, slices)
        wait_for(lambda: len(jobs.list()) == 1)
        assert router.status()["away"] == ""


def looked(router: Router) -> bool:
    """Look once; whether nothing is left to be judged."""
    return router.look() >= 0.3  # what it answers to while a series settles is less


def test_what_an_archive_of_others_held_before_is_not_analysed(
    settings: Settings, slices: list[Path], jobs: Jobs, other_study: list[Path]
) -> None:
    with running_orthanc(settings):
        store(settings, slices)
        url = settings.orthanc.rest_url
        external = settings.model_copy(
            update={
                "orthanc": settings.orthanc.model_copy(update={"url": url}),
                "routing": settings.routing.model_copy(update={"reconcile_every_s": 9}),
            }
        )
        router = Router(external)
        assert looked(router)
        store(settings, other_study)
        wait_for(lambda: looked(router))
        assert len(jobs.list()) == 1
        # Deleting the newest study makes the log shorter: no reason to take up all that was there before.
        other = str(dcmread(other_study[0], stop_before_pixels=True).StudyInstanceUID)
        (found,) = httpx.post(
            f"{url}/tools/find", json={"Level": "Study", "Query": {"StudyInstanceUID": other}}
        ).json()
        httpx.delete(f"{url}/studies/{found}").raise_for_status()
        time.sleep(0.5)
        wait_for(lambda: looked(router))
        assert len(jobs.list()) == 1
        assert len(router.newest()) == 1
        router.stop()


def test_a_study_that_was_deleted_and_sent_again_is_analysed_again(
    settings: Settings, slices: list[Path], jobs: Jobs, router: Router
) -> None:
    with running_orthanc(settings):
        store(settings, slices)
        wait_for(lambda: [job.state for job in jobs.list()] == ["queued"])
        (job,) = jobs.list()
        jobs.cancel(job.id)  # it ends
        (study,) = httpx.get(f"{settings.orthanc.rest_url}/studies").json()
        httpx.delete(f"{settings.orthanc.rest_url}/studies/{study}").raise_for_status()
        store(settings, slices)
        wait_for(
            lambda: [(each.id, each.state, each.attempts) for each in jobs.list()] == [(job.id, "queued", 2)]
        )


def test_a_set_that_comes_back_keeps_its_job(settings: Settings, slices: list[Path], jobs: Jobs) -> None:
    router = Router(settings)
    router.start()
    with running_orthanc(settings):
        store(settings, slices[:4])
        wait_for(lambda: len(jobs.list()) == 1)
        (job,) = jobs.list()
        before = set(httpx.get(f"{settings.orthanc.rest_url}/instances").json())
        store(settings, slices[4:])
        wait_for(lambda: any(arrival.settling and arrival.instances == 5 for arrival in router.newest()))
        (fifth,) = set(httpx.get(f"{settings.orthanc.rest_url}/instances").json()) - before
        httpx.delete(f"{settings.orthanc.rest_url}/instances/{fifth}").raise_for_status()
        wait_for(lambda: not router.settling())
        assert [(each.id, each.state) for each in jobs.list()] == [(job.id, "queued")]
    router.stop()


def test_an_application_that_is_away_loses_no_series_and_holds_up_no_other(
    settings: Settings, slices: list[Path], jobs: Jobs, router: Router, other_study: list[Path]
) -> None:
    description = settings.apps_dir / "trivial" / "app.yaml"
    content = description.read_text()
    with running_orthanc(settings):
        description.write_text("application: [")
        store(settings, slices)
        store(settings, other_study[:1])  # too few for the rule that asks for the application
        wait_for(lambda: "app.yaml: not valid YAML" in router.status()["away"])
        wait_for(lambda: len(router.settling()) == 1)
        assert jobs.list() == []
        description.write_text(content)
        wait_for(lambda: len(jobs.list()) == 1)
        wait_for(lambda: router.status() == {"away": "", "settling": 0})


def emptied(settings: Settings, file: Path) -> None:
    """The archive's copy of this file is empty, as after a full disk. Orthanc does not run meanwhile."""
    content = file.read_bytes()
    copies = [each for each in (settings.data_dir / "orthanc" / "storage").rglob("*") if each.is_file()]
    (copy,) = [each for each in copies if each.read_bytes() == content]
    copy.write_bytes(b"")


def test_a_study_that_the_archive_can_not_read_holds_up_no_other_and_says_why(
    settings: Settings, slices: list[Path], jobs: Jobs, other_study: list[Path]
) -> None:
    with running_orthanc(settings):
        store(settings, slices)
    for file in slices:
        emptied(settings, file)
    router = Router(settings)
    with running_orthanc(settings):
        router.start()
        wait_for(lambda: any(" to /instances/" in each.waiting for each in router.newest()))
        store(settings, other_study)
        # A study has settled when its job is there: for a moment it is both.
        wait_for(lambda: (len(jobs.list()), len(router.settling())) == (1, 1))
        (broken,) = router.settling()
        assert jobs.list()[0].study_uid != broken.study_uid
        assert router.status()["away"] == ""
        assert "can not be routed yet: Orthanc" in next(
            each.waiting for each in router.newest(1) if each.resource == broken.resource
        )
        # It is tried again: mended, it gets its job.
        httpx.delete(f"{settings.orthanc.rest_url}/series/{broken.resource}").raise_for_status()
        store(settings, slices)
        wait_for(lambda: len(jobs.list()) == 2)
    router.stop()


def test_a_comparison_that_fails_holds_up_nothing(
    settings: Settings, slices: list[Path], jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Orthanc) -> int:
        raise ArchiveUnavailable("Orthanc answered 500 to /statistics")

    monkeypatch.setattr(Orthanc, "instance_count", fails)
    router = Router(settings)
    with running_orthanc(settings):
        store(settings, slices)
        wait_for(partial(looked, router))
        assert len(jobs.list()) == 1
    router.stop()


def test_a_series_whose_images_go_while_they_are_read_is_left_for_later(
    settings: Settings, slices: list[Path], jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    attributes, gone = Orthanc.attributes, [True]
    monkeypatch.setattr(Orthanc, "attributes", lambda self, each: None if gone else attributes(self, each))
    router = Router(settings)
    with running_orthanc(settings):
        store(settings, slices)
        until = time.monotonic() + 2
        while time.monotonic() < until:
            assert router.look() < 0.3
            assert verdicts(router) == []
        gone.clear()
        wait_for(partial(looked, router))
        assert len(jobs.list()) == 1
    router.stop()


def test_a_study_of_before_is_explained_though_it_is_not_routed(
    settings: Settings, slices: list[Path], jobs: Jobs
) -> None:
    with running_orthanc(settings):
        store(settings, slices)
        url = settings.orthanc.rest_url
        router = Router(
            settings.model_copy(update={"orthanc": settings.orthanc.model_copy(update={"url": url})})
        )
        assert looked(router)
        first = dcmread(slices[0], stop_before_pixels=True)
        (series,) = router.study(str(first.StudyInstanceUID))
        assert (series.series_uid, series.instances) == (str(first.SeriesInstanceUID), 5)
        numbers = [str(dcmread(file, stop_before_pixels=True).InstanceNumber) for file in slices]
        assert series.attributes["InstanceNumber"] == min(numbers, key=int)
        assert router.study("1.2.3.4") == []
        assert jobs.list() == []
        router.stop()


def test_what_the_client_reads(settings: Settings, slices: list[Path]) -> None:
    with running_orthanc(settings), Orthanc(settings.orthanc) as orthanc:
        assert orthanc.ready() is None
        assert "dicom-web" in orthanc.system()["Plugins"]
        assert orthanc.changes(0).changes == ()
        store(settings, slices)
        log = orthanc.changes(0)
        assert [change.kind for change in log.changes].count("NewInstance") == 5
        assert log.last == orthanc.last_change()
        (resource,) = {change.resource for change in log.changes if change.kind == "NewSeries"}
        series = orthanc.series(resource)
        assert series is not None
        assert len(series.instances) == 5
        sent = [dcmread(file, stop_before_pixels=True) for file in slices]
        assert series.study_uid == sent[0].StudyInstanceUID
        assert {(each.sop_instance_uid, each.number) for each in orthanc.instances(resource)} == {
            (str(each.SOPInstanceUID), str(each.InstanceNumber)) for each in sent
        }
        assert {each.resource for each in orthanc.instances(resource)} == series.instances
        assert orthanc.study_series(series.study_uid) == [series]
        attributes = orthanc.attributes(min(series.instances))
        assert attributes is not None
        assert attributes["Modality"] == "CT"
        assert attributes["ImageType"].split("\\") == list(sent[0].ImageType)
        assert orthanc.series(generate_uid()) is None
        assert orthanc.attributes(generate_uid()) is None
        assert orthanc.instances(generate_uid()) == ()
        assert orthanc.study_series(generate_uid()) == []


def test_no_orthanc_is_one_sentence(settings: Settings) -> None:
    with (
        Orthanc(settings.orthanc) as orthanc,
        pytest.raises(ArchiveUnavailable, match=r"does not answer \(ConnectError\); is it running\?"),
    ):
        orthanc.changes(0)


@pytest.fixture
def study(slices: list[Path], test_data: Path, tmp_path: Path) -> Path:
    """Five slices and an image in another transfer syntax, beside a truncated image and a text."""
    folder = tmp_path / "study"
    folder.mkdir()
    for file in (*slices, sorted((test_data / "transfer-syntaxes" / "In").iterdir())[-1]):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "truncated.dcm").write_bytes(slices[0].read_bytes()[:-1000])
    (folder / "readme.txt").write_text("no image")
    return folder


@pytest.mark.parametrize("way", [[], ["--stow"]])
def test_send_takes_what_is_dicom_and_names_what_is_not(
    settings: Settings, study: Path, way: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    config = study.parent / "isocenter.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json", exclude_defaults=True)))
    with running_orthanc(settings), Orthanc(settings.orthanc) as orthanc:
        assert main(["send", str(study), "--config", str(config), "--json", *way]) == 1
        out, err = capfd.readouterr()
        sent = json.loads(out)
        assert sent["sent"] == 6
        assert len(sent["study_uids"]) == 2
        assert [Path(each["path"]).name for each in sent["not_sent"]] == ["truncated.dcm"]
        assert [Path(each).name for each in sent["not_dicom"]] == ["readme.txt"]
        assert "1 file passed over, not DICOM: readme.txt" in err
        assert "truncated" in err
        kinds = [change.kind for change in orthanc.changes(0).changes]
        assert kinds.count("NewInstance") == 6
        (study / "truncated.dcm").unlink()
        assert main(["send", str(study), "--config", str(config), *way]) == 0  # a note is no fault


@contextmanager
def archive_that(store: Callable[[evt.Event], int]) -> Iterator[Settings]:
    """The settings for an archive that answers each C-STORE as `store` says."""
    scp = AE(ae_title="ARCHIVE")
    for syntax in ALL_TRANSFER_SYNTAXES:
        scp.add_supported_context("1.2.840.10008.5.1.4.1.1.2", syntax)
    server = scp.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    assert server is not None
    try:
        yield Settings(orthanc=OrthancSettings(dicom_port=server.server_address[1]))
    finally:
        server.shutdown()


def test_what_an_archive_refuses_is_named_with_its_reason(slices: list[Path], tmp_path: Path) -> None:
    statuses = [0x0000, 0xB007, 0xA700, 0xC000, 0x0000]
    folder = tmp_path / "images"
    folder.mkdir()
    for index, file in enumerate(slices):
        (folder / str(index)).write_bytes(file.read_bytes())
    answers = iter(statuses)
    with archive_that(lambda _: next(answers)) as settings:
        sent = send(folder, settings, aet="ARCHIVE")
    assert sent.count == 3
    assert {file.name: reason for file, reason in sent.skipped.items()} == {
        "2": "the archive refused it with status 0xA700 (out of resources: is its disk full?)",
        "3": "the archive refused it with status 0xC000",
    }


def test_an_archive_that_drops_the_association_gets_the_image_again(
    slices: list[Path], tmp_path: Path
) -> None:
    kept: list[str] = []

    def store(event: evt.Event) -> int:
        if len(kept) == 2 and not dropped:
            dropped.append(True)
            event.assoc.abort()
            return 0xC000
        kept.append(str(event.request.AffectedSOPInstanceUID))
        return 0

    dropped: list[bool] = []
    folder = tmp_path / "images"
    folder.mkdir()
    for file in slices:
        (folder / file.name).write_bytes(file.read_bytes())
    with archive_that(store) as settings:
        sent = send(folder, settings, aet="ARCHIVE")
    assert (sent.count, sent.skipped) == (5, {})
    assert len(set(kept)) == len(kept) == 5
