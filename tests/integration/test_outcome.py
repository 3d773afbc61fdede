"""Notes on how jobs ended, in a real Orthanc: what a reader finds in the study, whatever happens in between."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from archive_count import rejected_by
from chaos.proxy import FaultProxy
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from sqlalchemy.exc import OperationalError
from trivial_app import install, until

from isocenter import telling
from isocenter.arrivals import Arrivals
from isocenter.database import prepare
from isocenter.job import JobSpec, State
from isocenter.jobs import Jobs
from isocenter.ledger import Ledger
from isocenter.notices import Notices
from isocenter.pacs import Orthanc
from isocenter.route import OutcomeWanted, Superseded
from isocenter.routing import Router
from isocenter.settings import OrthancSettings, Settings
from isocenter.telling import Telling
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.errors import ArchiveUnavailable, Unavailable
from isocenter_operators.testing import as_datasets, thorax_phantom

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def images() -> list[Dataset]:
    return as_datasets(thorax_phantom(size=(48, 40, 6), spacing_mm=(8.0, 8.0, 50.0), noise_hu=0.0))


@pytest.fixture
def settings(orthanc: OrthancSettings, tmp_path: Path) -> Settings:
    """A database of the test's own before the archive that all tests share."""
    install(tmp_path / "apps")
    site = Settings(
        data_dir=tmp_path / "data",
        apps_dir=tmp_path / "apps",
        orthanc=orthanc,
        limits={"free_disk_mb": 0},
        routing={"settle_s": 0.1},
        routes=[{"name": "everything", "application": "trivial"}],
    )
    prepare(site)
    return site


class Site:
    """A study of its own in the archive, and jobs on it that end as the test says."""

    def __init__(self, settings: Settings, jobs: Jobs, images: list[Dataset]) -> None:
        self.settings = settings
        self.jobs = jobs
        self.ledger = Ledger(settings.database)
        self.telling = Telling(settings, jobs)
        self.study_uid, self.series_uid = generate_uid(), generate_uid()
        self.images = []
        for image in images:
            copy = dcmread(BytesIO(_content(image)))
            copy.StudyInstanceUID, copy.SeriesInstanceUID = self.study_uid, self.series_uid
            copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            copy.PatientName, copy.PatientID = "Mustermann^Erika", f"PID-{self.study_uid[-8:]}"
            self.images.append(copy)
        with DICOMwebClient(settings.orthanc.dicomweb_url) as client:
            client.store(self.images)

    def spec(
        self,
        count: int = 6,
        outcome: OutcomeWanted = "on_failure",
        policy: Superseded = "keep",
        picture: bool = False,
    ) -> JobSpec:
        return JobSpec(
            algorithm=Algorithm("trivial", "1.0", {}),
            study_uid=self.study_uid,
            series_uids=(self.series_uid,),
            sop_instance_uids=tuple(str(image.SOPInstanceUID) for image in self.images[:count]),
            route="everything",
            superseded=policy,
            outcome=outcome,
            outcome_picture=picture,
        )

    def run(
        self, spec: JobSpec, state: State, reason: str = "the model does not answer", **others: Any
    ) -> str:
        """A job from its being queued, or asked for again, to its end."""
        job_id = spec.identity.job_id
        if self.ledger.entry(job_id) is None:
            self.jobs.submit(spec)
        else:
            self.jobs.retry(job_id)
        self.end(job_id, state, reason, **others)
        return job_id

    def end(self, job_id: str, state: State, reason: str, **others: Any) -> None:
        self.ledger.begin(job_id, "worker", "life")
        self.ledger.end(job_id, state, reason=reason, **others)

    def said(self, job_id: str) -> str:
        job = self.jobs.show(job_id)
        assert job is not None
        return job.outcome_note

    def documents(self, modality: str) -> list[Dataset]:
        with DICOMwebClient(self.settings.orthanc.dicomweb_url) as client:
            return [
                dcmread(BytesIO(content))
                for series in client.search_series(self.study_uid, Modality=modality)
                for content in client.retrieve_series(self.study_uid, series["0020000E"]["Value"][0])
            ]

    def current(self) -> list[Dataset]:
        """The notes that nothing rejects."""
        rejected = {uid for note in self.documents("KO") for uid in rejected_by(note)}
        return [note for note in self.documents("SR") if note.SOPInstanceUID not in rejected]


def _content(instance: Dataset) -> bytes:
    content = BytesIO()
    instance.save_as(content, enforce_file_format=True)
    return content.getvalue()


def outcome_of(note: Dataset) -> str:
    return next(
        str(item.ConceptCodeSequence[0].CodeValue)
        for item in note.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "OUTCOME"
    )


def words_of(note: Dataset) -> str:
    return "\n".join(str(item.TextValue) for item in note.ContentSequence if item.ValueType == "TEXT")


@pytest.fixture
def site(settings: Settings, jobs: Jobs, images: list[Dataset]) -> Site:
    return Site(settings, jobs, images)


@pytest.mark.parametrize(
    ("state", "outcome", "others"),
    [
        ("not_applicable", "NOT_APPLICABLE", {}),
        ("failed", "FAILED", {}),
        ("failed", "REFUSED", {"refused": True}),
    ],
)
def test_a_job_without_a_result_leaves_one_note(site: Site, state: State, outcome: str, others: Any) -> None:
    job_id = site.run(site.spec(), state, "the lungs are cut off", **others)
    assert site.said(job_id) == "not in the study yet"
    for _ in range(2):  # the second time nothing is left to do
        site.telling.settle()
        (note,) = site.current()
        assert (outcome_of(note), note.SeriesNumber) == (outcome, 9011)
    assert "The lungs are cut off." in words_of(note)
    assert note.PatientID == site.images[0].PatientID
    evidence = note.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    named = {
        (each.ReferencedSOPClassUID, each.ReferencedSOPInstanceUID) for each in evidence.ReferencedSOPSequence
    }
    assert named == {(each.SOPClassUID, each.SOPInstanceUID) for each in site.images}
    assert site.said(job_id) == f"in the study: {note.SOPInstanceUID}"
    assert site.documents("OT") == []


def test_what_the_route_wants_is_what_the_study_gets(site: Site) -> None:
    site.run(site.spec(1, "never", picture=True), "failed")
    site.run(site.spec(2, "on_failure"), "done")
    assert site.telling.settle() == 0
    assert site.current() == []
    job_id = site.run(site.spec(3, "always", picture=True), "done", "")
    assert site.telling.settle() == 1
    (note,) = site.current()
    assert outcome_of(note) == "DONE"
    (picture,) = site.documents("OT")
    assert picture.SeriesNumber == 9013
    assert site.said(job_id) == f"in the study: {note.SOPInstanceUID}"


def test_a_job_that_is_cancelled_leaves_none(site: Site) -> None:
    job_id = site.jobs.submit(site.spec())
    site.jobs.cancel(job_id)
    assert site.telling.settle() == 0
    # Nor one whose failure nobody has told yet when it is run again and stopped.
    site.run(site.spec(), "failed")
    site.jobs.retry(job_id)
    site.jobs.cancel(job_id)
    site.telling.settle()
    assert site.current() == []


def test_what_was_done_and_is_taken_back_is_not_told_any_more(site: Site) -> None:
    job_id = site.run(site.spec(outcome="always"), "failed")
    site.telling.settle()
    site.run(site.spec(outcome="always"), "done", "")
    site.telling.settle()
    (note,) = site.current()
    assert outcome_of(note) == "DONE"
    site.jobs.retry(job_id)
    site.jobs.cancel(job_id)
    site.telling.settle()
    assert site.current() == []  # neither that it is done, nor again that it failed once
    assert site.telling.settle() == 0


def test_an_attempt_that_waits_for_the_next_one_is_no_end(site: Site) -> None:
    job_id = site.jobs.submit(site.spec())
    site.ledger.begin(job_id, "worker", "life")
    site.ledger.pause(job_id, 1)
    assert site.telling.settle() == 0
    site.end(job_id, "failed", "the model does not answer (tried 2 times)")
    assert site.telling.settle() == 1
    assert "tried 2 times" in words_of(site.current()[0])


@pytest.mark.parametrize("policy", ["keep", "hide", "delete"])
def test_a_retry_that_succeeds_makes_the_note_invalid(site: Site, policy: Superseded) -> None:
    spec = site.spec(policy=policy)
    job_id = site.run(spec, "failed")
    site.telling.settle()
    (note,) = site.current()
    site.jobs.retry(job_id)
    assert site.telling.settle() == 0
    assert len(site.current()) == 1  # until it is known how it ends this time
    site.end(job_id, "done", "")
    assert site.telling.settle() == 1
    assert site.current() == []
    kept = policy != "delete"
    assert len(site.documents("SR")) == len(site.documents("KO")) == kept
    assert site.ledger.superseded_series(site.study_uid) == ({note.SeriesInstanceUID: policy} if kept else {})
    assert site.said(job_id) == f"not valid any more, since job {job_id[:12]} ended"
    assert site.telling.settle() == 0


def test_a_retry_that_fails_otherwise_says_so_in_a_note_of_its_own(site: Site) -> None:
    job_id = site.run(site.spec(), "failed", "the model does not answer")
    site.telling.settle()
    site.run(site.spec(), "failed", "the disk is full")
    assert site.telling.settle() == 2
    (note,) = site.current()
    assert "The disk is full." in words_of(note)
    assert site.said(job_id) == f"in the study: {note.SOPInstanceUID}"
    # One that is stopped by a person is no news: it has failed, as the note says.
    site.jobs.retry(job_id)
    site.jobs.cancel(job_id)
    site.telling.settle()
    assert [each.SOPInstanceUID for each in site.current()] == [note.SOPInstanceUID]


def test_the_note_of_a_smaller_set_goes_with_the_larger_ones_end(site: Site) -> None:
    site.run(site.spec(2), "failed")
    site.telling.settle()
    larger = site.run(site.spec(6), "not_applicable")
    assert site.telling.settle() == 2
    assert [outcome_of(note) for note in site.current()] == ["NOT_APPLICABLE"]
    (mark,) = site.documents("KO")
    assert any("newer set of images" in str(item.get("TextValue", "")) for item in mark.ContentSequence)

    # The larger set is done in the end; then its own note goes too.
    site.run(site.spec(6), "done", "")
    assert site.telling.settle() == 1
    assert site.current() == []
    assert site.said(larger).startswith("not valid")


def test_a_note_is_valid_again_when_what_replaced_it_is_gone(site: Site) -> None:
    small, large = site.spec(2, "always"), site.spec(6, "never")
    site.run(small, "done", "")
    site.run(large, "done", "")
    site.telling.settle()
    assert site.current() == []  # it was overtaken before it was told
    site.run(large, "failed")  # its results are withdrawn, so those of the smaller set count again
    assert site.telling.settle() == 1
    assert [outcome_of(note) for note in site.current()] == ["DONE"]
    site.run(large, "done", "")
    assert site.telling.settle() == 1
    assert site.current() == []
    site.run(large, "failed")
    assert site.telling.settle() == 1
    assert [outcome_of(note) for note in site.current()] == ["DONE"]
    assert site.documents("KO") == []


def test_a_study_that_is_gone_is_told_nothing(site: Site) -> None:
    job_id = site.run(site.spec(), "failed")
    with Orthanc(site.settings.orthanc) as archive:
        for image in site.images:
            for found in archive.find_instances(str(image.SOPInstanceUID)):
                archive.delete_instance(found.resource)
    assert site.telling.settle() == 0
    assert site.said(job_id) == "not in the study yet: its images are not in the archive any more"
    assert site.documents("SR") == []
    assert Notices(site.settings.database).open() == []


@pytest.mark.parametrize("mode", ["503 to STOW", "cut", "503"])
def test_with_the_archive_away_the_job_stays_as_it_is_and_the_note_waits(
    site: Site, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling, "_REST_S", 0.0)
    job_id = site.run(site.spec(), "failed")
    proxy = FaultProxy(site.settings.orthanc.http_port)
    try:
        behind = site.settings.orthanc.model_copy(update={"http_port": proxy.port})
        faulty = Telling(site.settings.model_copy(update={"orthanc": behind}), site.jobs)
        proxy.mode = mode
        with pytest.raises(Unavailable):
            faulty.settle()
        job = site.jobs.show(job_id)
        assert job is not None
        assert job.state == "failed"
        assert job.outcome_note.startswith("not in the study yet: ")
        assert f"http://127.0.0.1:{proxy.port}" in job.outcome_note
        proxy.mode = "through"
        faulty.settle()
    finally:
        proxy.close()
    assert len(site.documents("SR")) == 1
    assert site.said(job_id).startswith("in the study")


def test_a_study_that_the_archive_can_not_read_holds_up_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orthanc keeps an empty file of what came while its disk was full, and answers 500 to whoever asks for it."""
    unreadable = {str(image.SOPInstanceUID) for image in site.images}
    bad = site.run(site.spec(), "failed")
    other = Site(site.settings, site.jobs, site.images)
    good = other.run(other.spec(), "failed")
    beginning = Orthanc.beginning

    def empty(archive: Orthanc, resource: str, size_bytes: int) -> bytes | None:
        content = beginning(archive, resource, size_bytes)
        if content is not None and str(dcmread(BytesIO(content)).SOPInstanceUID) in unreadable:
            raise ArchiveUnavailable("Orthanc answered 500")
        return content

    monkeypatch.setattr(Orthanc, "beginning", empty)
    with pytest.raises(ArchiveUnavailable, match="500"):
        site.telling.settle()
    assert site.said(bad) == "not in the study yet: Orthanc answered 500"
    assert site.said(good).startswith("in the study")
    unreadable.discard(str(sorted(unreadable)[0]))  # one that can be read is enough
    assert Telling(site.settings, site.jobs).settle() == 1


def broken_off(*_: object, **__: object) -> None:
    raise OperationalError("UPDATE", {}, Exception("the database is away"))


def test_a_crash_at_any_step_is_mended_by_the_next_service(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash_at(step: str) -> None:
        with monkeypatch.context() as fault:
            fault.setattr(Notices, step, broken_off)
            with pytest.raises(OperationalError):
                Telling(site.settings, site.jobs).settle()

    job_id = site.run(site.spec(), "failed")
    for step in ("storing", "stored", "settled"):
        crash_at(step)
    Telling(site.settings, site.jobs).settle()
    assert len(site.documents("SR")) == len(site.current()) == 1

    site.run(site.spec(), "done", "")
    for step in ("marking", "withdrawn"):
        crash_at(step)
    Telling(site.settings, site.jobs).settle()
    assert (len(site.documents("SR")), len(site.documents("KO")), site.current()) == (1, 1, [])

    # Stored, and the job done before that was written down: it is not known to be there, and so deleted.
    site.run(site.spec(), "failed", "another reason")
    crash_at("stored")
    assert len(site.current()) == 1
    site.run(site.spec(), "done", "")
    Telling(site.settings, site.jobs).settle()
    assert site.current() == []
    assert len(site.documents("SR")) == 1
    assert site.said(job_id).startswith("not valid")


def test_a_note_makes_no_work(site: Site, settings: Settings) -> None:
    """The router sees it arrive, and takes it for what it is."""
    site.run(site.spec(picture=True), "failed")
    site.telling.settle()
    router = Router(settings)
    try:
        until(lambda: router.look() and _all_settled(settings, site.study_uid))
    finally:
        router.stop()
    arrivals = Arrivals(settings.database).of_study(site.study_uid)
    assert sorted(each.ours for each in arrivals) == [False, True, True]
    # The images were asked for once by hand and once by the route, which is the same job.
    assert {entry.job_id for entry in site.ledger.of_study(site.study_uid)} == {site.spec().identity.job_id}


def _all_settled(settings: Settings, study_uid: str) -> bool:
    arrivals = Arrivals(settings.database).of_study(study_uid)
    return len(arrivals) == 3 and not any(each.settling for each in arrivals)


def test_two_routes_ask_for_the_same_and_one_wants_a_note(site: Site) -> None:
    site.jobs.submit(site.spec(outcome="never"))
    job_id = site.jobs.submit(site.spec(outcome="on_failure", picture=True))
    site.jobs.submit(site.spec(outcome="never"))
    site.end(job_id, "failed", "the model does not answer")
    assert site.telling.settle() == 1
    assert len(site.documents("OT")) == 1


def test_what_is_wrong_with_one_jobs_note_holds_up_no_other(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = telling.outcome_note
    bad = site.run(site.spec(1), "failed")

    def fails_for_one(**given: Any) -> Any:
        if given["subject"].job_id == bad:
            raise ValueError("Doe^John")
        return made(**given)

    other = Site(site.settings, site.jobs, site.images[:1])
    good = other.run(other.spec(1), "failed")
    monkeypatch.setattr(telling, "outcome_note", fails_for_one)
    with pytest.raises(telling.IsocenterError, match="no note on how it ended could be made: ValueError"):
        site.telling.settle()
    assert site.said(good).startswith("in the study")
    assert "ValueError" in site.said(bad)
    assert "Doe" not in site.said(bad)
