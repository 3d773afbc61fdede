"""Superseded and withdrawn results in a real Orthanc: what a client counts there, whatever happens in between."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import pytest
from archive_count import current_results, rejection_notes
from chaos.proxy import FaultProxy
from ports import free_port
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from sqlalchemy.exc import OperationalError
from unit.result_cases import findings_of, phantom_case, report_of, seg_of

from isocenter import replacement
from isocenter.database import prepare
from isocenter.job import JobSpec, State
from isocenter.ledger import Ledger
from isocenter.ledger_entry import Entry
from isocenter.replacement import Replacement
from isocenter.route import Superseded
from isocenter.settings import GatewaySettings, OrthancSettings, Settings
from isocenter.stack.orthanc import running_orthanc
from isocenter.worker.runner import stored_as_json
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.errors import Unavailable
from isocenter_operators.result_gate import stored_instance

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def one_jobs_results() -> list[Dataset]:
    """A SEG and the SR on it."""
    volume, labels = phantom_case()
    seg = seg_of(volume, labels)
    return [seg, report_of(volume, findings_of(volume, labels), seg)]


@pytest.fixture
def settings(orthanc: OrthancSettings, tmp_path: Path) -> Settings:
    """A database of the test's own before the archive that all tests share."""
    site = Settings(data_dir=tmp_path / "data", orthanc=orthanc)
    prepare(site)
    return site


class Site:
    """A ledger and an archive, and workers that have always just finished. One study of its own."""

    def __init__(self, settings: Settings, results: Sequence[Dataset]) -> None:
        self.settings = settings
        self.ledger = Ledger(settings.database)
        self.replacement = Replacement(settings)
        self.study_uid = generate_uid()
        self._results = results

    def spec(self, *images: str, policy: Superseded = "keep", series: str = "1.2.3") -> JobSpec:
        return JobSpec(
            algorithm=Algorithm("ct_lung_density", "1.2.0", {"lungs": "3"}),
            study_uid=self.study_uid,
            series_uids=(series,),
            sop_instance_uids=tuple(f"{self.study_uid}.{image}" for image in images),
            route="chest",
            superseded=policy,
        )

    def results_of(self, spec: JobSpec) -> list[Dataset]:
        """What a job on these images stores, under UIDs of its own, always the same."""
        instances = []
        for role, result in zip(("seg", "sr"), self._results, strict=True):
            instance = deepcopy(result)
            instance.StudyInstanceUID = self.study_uid
            instance.SeriesInstanceUID = spec.identity.uid(f"{role}.series")
            instance.SOPInstanceUID = spec.identity.uid(role)
            instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
            instances.append(instance)
        return instances

    def run(self, spec: JobSpec, state: State = "done", stored: int = 2) -> str:
        """One job from its being queued to its end, of which so many results were stored."""
        job_id = spec.identity.job_id
        self.ledger.enter(spec)
        self.ledger.begin(job_id, "worker", "life")
        if stored:
            results = self.results_of(spec)
            self.ledger.store(job_id, stored_as_json([stored_instance(each) for each in results]))
            with DICOMwebClient(self.settings.orthanc.dicomweb_url) as client:
                client.store(results[:stored])
        self.ledger.end(job_id, state)
        return job_id

    def entry(self, job_id: str) -> Entry:
        entry = self.ledger.entry(job_id)
        assert entry is not None
        return entry

    def current(self) -> set[str]:
        """The SOP Instance UIDs of the results that count."""
        found = current_results(self.settings.orthanc.dicomweb_url, self.study_uid)
        return {uid for series in found for uid in series.instances}

    def notes(self) -> list[Dataset]:
        return rejection_notes(self.settings.orthanc.dicomweb_url, self.study_uid)

    def count_of_notes(self) -> int:
        with DICOMwebClient(self.settings.orthanc.dicomweb_url) as client:
            return len(client.search_series(self.study_uid, Modality="KO"))

    def held(self) -> set[str]:
        """Every instance of the study in the archive."""
        with DICOMwebClient(self.settings.orthanc.dicomweb_url) as client:
            return {
                instance["00080018"]["Value"][0]
                for series in client.search_series(self.study_uid)
                for instance in client.search_instances(self.study_uid, series["0020000E"]["Value"][0])
            }


@pytest.fixture
def site(settings: Settings, one_jobs_results: list[Dataset]) -> Site:
    return Site(settings, one_jobs_results)


def uids(instances: Sequence[Dataset]) -> set[str]:
    return {str(each.SOPInstanceUID) for each in instances}


@pytest.mark.parametrize("policy", ["keep", "hide"])
def test_the_newer_results_count_and_a_note_rejects_the_older(site: Site, policy: Superseded) -> None:
    small, large = site.spec("1", policy=policy), site.spec("1", "2", policy=policy)
    old = site.run(small)
    assert site.replacement.settle() == 0
    assert site.current() == uids(site.results_of(small))
    new = site.run(large)
    assert site.current() == uids([*site.results_of(small), *site.results_of(large)])

    assert site.replacement.settle() == 1
    assert site.current() == uids(site.results_of(large))
    assert site.held() >= uids(site.results_of(small))  # marked, not gone
    (note,) = site.notes()
    assert note.StudyInstanceUID == site.study_uid
    assert note.PatientID == site.results_of(small)[0].PatientID
    entry = site.entry(old)
    assert (entry.superseded_by, site.entry(new).superseded_by) == (new, None)
    (mark,) = entry.marks
    assert mark == {
        "sop_class_uid": note.SOPClassUID,
        "sop_instance_uid": note.SOPInstanceUID,
        "series_uid": note.SeriesInstanceUID,
        "study_uid": site.study_uid,
        "modality": "KO",
    }
    assert site.ledger.superseded_series() == {
        each.SeriesInstanceUID: policy for each in site.results_of(small)
    }

    # A service that starts again, or had not come to write it down, changes nothing more.
    assert Replacement(site.settings).settle() == 0
    assert len(site.notes()) == 1


def test_several_sets_one_after_another_leave_the_last(site: Site) -> None:
    sets = [site.spec(*images) for images in ("1", "12", "123", "1234")]
    for spec in sets:
        site.run(spec)
    assert site.replacement.settle() == 3
    assert site.current() == uids(site.results_of(sets[-1]))
    assert len(site.notes()) == 3
    last = sets[-1].identity.job_id
    assert [site.entry(spec.identity.job_id).superseded_by for spec in sets] == [last, last, last, None]


def test_another_series_and_another_study_are_left_alone(site: Site) -> None:
    site.run(site.spec("1", policy="delete"))
    beside = site.spec("1b", series="1.2.4", policy="delete")
    site.run(beside)
    larger = site.spec("1", "2", policy="delete")
    site.run(larger)
    assert site.replacement.settle() == 1
    assert site.held() == uids([*site.results_of(beside), *site.results_of(larger)])


def test_deleted_results_are_gone_and_nothing_else_is(site: Site) -> None:
    small, large = site.spec("1", policy="delete"), site.spec("1", "2", policy="delete")
    old = site.run(small)
    # Two objects that bear the UIDs of ours: another maker's, and one that an export put into another study.
    seg, report = site.results_of(small)
    report.PatientID, report.Manufacturer = "ANOTHER", "Another maker"
    seg.PatientID, seg.StudyInstanceUID = "ANOTHER", generate_uid()
    with DICOMwebClient(site.settings.orthanc.dicomweb_url) as client:
        client.store([report, seg])
    site.run(large)

    assert site.replacement.settle() == 1
    assert site.held() == {*uids(site.results_of(large)), str(report.SOPInstanceUID)}
    with DICOMwebClient(site.settings.orthanc.dicomweb_url) as client:
        assert len(client.search_series(str(seg.StudyInstanceUID))) == 1
        client_sees = client.search_studies(StudyInstanceUID=site.study_uid, PatientID="ANOTHER")
    assert len(client_sees) == 1
    assert site.notes() == []
    assert (site.entry(old).marks, site.ledger.to_supersede()) == ((), [])
    assert site.replacement.settle() == 0


def test_results_that_are_gone_already_need_no_note(site: Site) -> None:
    small = site.spec("1")
    old = site.run(small, stored=0)
    site.ledger.store(old, stored_as_json([stored_instance(each) for each in site.results_of(small)]))
    new = site.run(site.spec("1", "2"))
    assert site.replacement.settle() == 1
    assert site.notes() == []
    assert (site.entry(old).superseded_by, site.entry(old).marks) == (new, ())


def test_a_newer_job_without_results_rejects_the_older_ones_and_says_so(site: Site) -> None:
    site.run(site.spec("1"))
    site.run(site.spec("1", "2"), state="not_applicable", stored=0)
    assert site.replacement.settle() == 1
    assert site.current() == set()
    (note,) = site.notes()
    assert any("is not applicable" in str(item.get("TextValue", "")) for item in note.ContentSequence)


@pytest.mark.parametrize("state", ["failed", "cancelled", "not_applicable"])
def test_what_a_job_stored_that_did_not_end_well_is_taken_out(site: Site, state: State) -> None:
    first = site.spec("1")
    site.run(first)
    second = site.run(site.spec("1", "2"), state=state, stored=1)
    assert len(site.held()) == 3
    assert site.replacement.settle() == (2 if state == "not_applicable" else 1)
    assert site.held() >= uids(site.results_of(first))
    assert not site.held() & uids(site.results_of(site.spec("1", "2")))
    assert site.entry(second).results == ()
    assert site.replacement.settle() == 0
    assert site.current() == (set() if state == "not_applicable" else uids(site.results_of(first)))


def test_what_the_archive_stores_late_is_taken_out_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It had been sent, and its sender had given up waiting, before the job was cancelled."""
    monkeypatch.setattr(replacement, "_LATE_S", 4.0)
    late = site.spec("1")
    site.run(late, state="cancelled", stored=0)
    site.ledger.store(
        late.identity.job_id, stored_as_json([stored_instance(r) for r in site.results_of(late)])
    )
    assert site.replacement.settle() == 1
    with DICOMwebClient(site.settings.orthanc.dicomweb_url) as client:
        client.store(site.results_of(late))
    assert site.held() & uids(site.results_of(late))
    assert site.replacement.settle() == 0
    time.sleep(4.0)
    assert site.replacement.settle() == 1
    assert not site.held() & uids(site.results_of(late))


def test_images_that_are_taken_back_make_the_older_results_current_again(site: Site) -> None:
    small, large = site.spec("1"), site.spec("1", "2")
    old, new = site.run(small), site.run(large)
    site.replacement.settle()
    for newest, other in ((small, large), (large, small), (small, large)):
        site.ledger.enter(newest)
        assert site.replacement.settle() == 0
        assert site.current() == uids(site.results_of(other))  # until the others are there
        site.run(newest)
        assert site.replacement.settle() == 2
        assert site.current() == uids(site.results_of(newest))
        assert len(site.notes()) == 1
        assert site.replacement.settle() == 0
    assert (site.entry(old).superseded_by, site.entry(new).superseded_by) == (None, old)
    assert site.entry(old).marks == ()


def test_with_the_archive_away_nothing_is_noted(site: Site) -> None:
    old, failed = site.run(site.spec("1")), site.run(site.spec("8", series="1.2.5"), state="failed")
    site.run(site.spec("1", "2"))
    away = Replacement(
        site.settings.model_copy(
            update={"orthanc": OrthancSettings(http_port=free_port(), dicom_port=free_port())}
        )
    )
    with pytest.raises(Unavailable, match="does not answer"):
        away.settle()
    assert (site.entry(old).superseded_by, site.entry(old).marks) == (None, ())
    assert len(site.entry(failed).results) == 2
    assert site.replacement.settle() == 2


@pytest.mark.parametrize("mode", ["503 to STOW", "cut", "503"])
def test_a_faulty_line_to_the_archive_leaves_one_note(site: Site, mode: Any) -> None:
    old = site.run(site.spec("1"))
    large = site.spec("1", "2")
    new = site.run(large)
    proxy = FaultProxy(site.settings.orthanc.http_port)
    try:
        behind = site.settings.orthanc.model_copy(update={"http_port": proxy.port})
        faulty = Replacement(site.settings.model_copy(update={"orthanc": behind}))
        proxy.mode = mode
        for _ in range(8):
            if site.entry(old).superseded_by is None:
                try:
                    faulty.settle()
                except Unavailable:
                    assert (site.entry(old).superseded_by, site.entry(old).marks) == (None, ())
        assert proxy.felt > 0
        proxy.mode = "through"
        faulty.settle()
    finally:
        proxy.close()
    assert site.entry(old).superseded_by == new
    assert site.current() == uids(site.results_of(large))
    assert len(site.notes()) == 1


def broken_off(*_: object, **__: object) -> None:
    raise OperationalError("UPDATE", {}, Exception("the database is away"))


def test_a_note_that_nobody_came_to_write_down_is_no_harm(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = site.spec("1"), site.spec("1", "2")
    old = site.run(small)
    site.run(large)
    with monkeypatch.context() as fault:
        fault.setattr(Ledger, "superseded", broken_off)
        with pytest.raises(OperationalError):
            site.replacement.settle()
    assert len(site.notes()) == 1
    assert site.entry(old).marks == ()

    # Before it is repeated the older job becomes the newest, and the other one has no results to be superseded.
    site.ledger.enter(small)
    site.run(small)
    with monkeypatch.context() as fault:
        fault.setattr(Ledger, "superseded", broken_off)
        with pytest.raises(OperationalError):
            Replacement(site.settings).settle()
    for _ in range(2):
        Replacement(site.settings).settle()
        assert site.current() == uids(site.results_of(small))
        assert [note.SOPInstanceUID for note in site.notes()] == [
            mark["sop_instance_uid"] for mark in site.entry(large.identity.job_id).marks
        ]


@pytest.mark.parametrize("policy", ["keep", "delete"])
def test_a_job_that_is_the_newest_again_while_it_is_superseded_is_not(
    site: Site, monkeypatch: pytest.MonkeyPatch, policy: Superseded
) -> None:
    small, large = site.spec("1", policy=policy), site.spec("1", "2", policy=policy)
    old = site.run(small)
    site.replacement.settle()
    site.run(large)
    archive = replacement._Archive
    reject, delete = archive.reject, archive.delete

    def rejected_late(self: Any, *given: Any) -> Any:
        site.ledger.enter(small)
        return reject(self, *given)

    def deleted_late(self: Any, *given: Any) -> None:
        site.ledger.enter(small)
        delete(self, *given)

    with monkeypatch.context() as race:
        race.setattr(archive, "reject", rejected_late)
        race.setattr(archive, "delete", deleted_late)
        assert site.replacement.settle() == 0
    site.replacement.settle()  # while it runs
    assert site.entry(old).superseded_by is None
    site.run(small)
    for _ in range(2):
        site.replacement.settle()
        assert site.current() == uids(site.results_of(small))


def test_a_failed_job_that_is_tried_again_while_it_is_withdrawn_keeps_its_line(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = site.spec("1")
    job_id = site.run(spec, state="failed", stored=1)
    delete = replacement._Archive.delete

    def deleted_late(self: Any, *given: Any) -> int:
        site.ledger.renew(job_id)
        return delete(self, *given)

    with monkeypatch.context() as race:
        race.setattr(replacement._Archive, "delete", deleted_late)
        assert site.replacement.settle() == 0
    assert len(site.entry(job_id).results) == 2  # by which what it stores is found again
    site.run(spec)
    assert site.replacement.settle() == 0
    assert site.current() == uids(site.results_of(spec))


def test_a_service_that_is_killed_in_the_middle_goes_on(site: Site, tmp_path: Path) -> None:
    pairs = [
        (site.spec(f"{n}", series=f"1.2.{n}"), site.spec(f"{n}", f"{n}.1", series=f"1.2.{n}"))
        for n in range(9, 21)
    ]
    for small, large in pairs:
        site.run(small)
        site.run(large)
    program = (
        "import sys; from pathlib import Path; from isocenter.settings import Settings;"
        "from isocenter.replacement import Replacement;"
        "Replacement(Settings.model_validate_json(Path(sys.argv[1]).read_text())).settle()"
    )
    file = tmp_path / "settings.json"
    file.write_text(site.settings.model_dump_json())
    for rounds in (1, 2):
        process = subprocess.Popen([sys.executable, "-c", program, str(file)])
        while process.poll() is None and site.count_of_notes() < 3 * rounds:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 6 <= site.count_of_notes() < len(pairs)
    Replacement(site.settings).settle()
    assert site.ledger.to_supersede() == []
    assert site.current() == uids([each for _, large in pairs for each in site.results_of(large)])
    assert len(site.notes()) == len(pairs)


def test_one_jobs_damaged_results_hold_up_no_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    first = site.run(site.spec("1"))
    site.run(site.spec("1", "2"))
    second = site.run(site.spec("5", series="1.2.5"))
    site.run(site.spec("5", "6", series="1.2.5"))
    made = replacement.rejection_note

    def fails_for_the_first(**given: Any) -> Any:
        if given["old_job"] == first:
            raise ValueError("Doe^John")
        return made(**given)

    monkeypatch.setattr(replacement, "rejection_note", fails_for_the_first)
    with pytest.raises(replacement.IsocenterError, match=r"no note .* could be made: ValueError") as caught:
        site.replacement.settle()
    assert "Doe" not in str(caught.value)
    assert site.entry(first).superseded_by is None
    assert site.entry(second).superseded_by is not None


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Settings]:
    """An archive of somebody else's, which asks for a name and a password."""
    ports = {"http_port": free_port(), "dicom_port": free_port()}
    entrance = {"username": "isocenter", "password": "s3cret"}
    there = Settings.model_validate(
        {
            "data_dir": tmp_path / "theirs",
            "gateway": GatewaySettings(port=free_port()),
            "orthanc": {**ports, **entrance},
        }
    )
    with running_orthanc(there):
        ours = {"url": there.orthanc.rest_url, **entrance}
        site = Settings.model_validate({"data_dir": tmp_path / "ours", "orthanc": ours})
        prepare(site)
        yield site


def test_an_archive_of_somebody_elses(guarded: Settings, one_jobs_results: list[Dataset]) -> None:
    site = Site(guarded, one_jobs_results)
    credentials = guarded.orthanc.credentials
    spec, larger = site.spec("1", policy="delete"), site.spec("1", "2", policy="delete")
    with DICOMwebClient(guarded.orthanc.dicomweb_url, credentials=credentials) as client:
        for each in (spec, larger):
            results, job_id = site.results_of(each), each.identity.job_id
            site.ledger.enter(each)
            site.ledger.store(job_id, stored_as_json([stored_instance(result) for result in results]))
            client.store(results)
            site.ledger.end(job_id, "done")
    assert site.replacement.settle() == 1
    count = httpx.get(f"{guarded.orthanc.rest_url}/statistics", auth=("isocenter", "s3cret")).json()
    assert count["CountInstances"] == 2
    found = current_results(guarded.orthanc.dicomweb_url, site.study_uid, credentials)
    assert {uid for series in found for uid in series.instances} == uids(site.results_of(larger))
    assert [(each.application, each.modality) for each in found] == [
        ("ct_lung_density", "SEG"),
        ("ct_lung_density", "SR"),
    ]
