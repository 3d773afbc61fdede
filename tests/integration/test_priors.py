"""Priors: found in our archive or fetched from a real peer, and brought to a graph."""

from __future__ import annotations

import logging
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import tls
from ports import free_port
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless
from pynetdicom import AE, evt, sop_class

from isocenter.job import JobSpec
from isocenter.peer import DICOMPeer
from isocenter.priors import Gathered, Patience, gather
from isocenter.priors.body_part import covers
from isocenter.priors.dicomweb import DICOMwebArchive
from isocenter.priors.patient import Attributes, Moment, Patient
from isocenter.route import PriorsWanted
from isocenter.settings import GatewaySettings, OrthancSettings, Settings
from isocenter.stack.orthanc import running_orthanc
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.dicom.series.read import read_folder
from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.errors import (
    ArchiveUnavailable,
    ConfigurationError,
    InputError,
    IsocenterError,
    Unavailable,
)
from isocenter_operators.run import Archive, Folder, Run
from isocenter_operators.testing import as_datasets, thorax_phantom

pytestmark = pytest.mark.integration

PHANTOM = thorax_phantom(size=(32, 32, 4), spacing_mm=(11.0, 11.0, 75.0))
QUICK = Patience(away_s=1.0, silence_s=20.0, longest_s=60.0, first_pause_s=0.1)
HASTY = Patience(away_s=0.2, silence_s=3.0, longest_s=20.0, first_pause_s=0.1)
OURS, THEIRS = "ISOCENTER", "VNA"


def study(
    seed: str, patient: str, day: str, time: str = "083000", number: int = 1, **attributes: Any
) -> list[Dataset]:
    """One series of four images; the same seed and another number make another series of the study."""
    images = as_datasets(PHANTOM, uid_seed=seed, series_number=number)
    for image in images:
        image.PatientID = patient
        image.StudyDate, image.StudyTime = day, time
        for keyword, value in attributes.items():
            if value is None:
                del image[keyword]
            else:
                setattr(image, keyword, value)
    return images


def spoil(image: Dataset, attributes: dict[str, Any]) -> None:
    for keyword, value in attributes.items():
        setattr(image, keyword, value)


def uid_of(images: Sequence[Dataset]) -> str:
    return str(images[0].StudyInstanceUID)


def job(images: Sequence[Dataset], **wanted: Any) -> JobSpec:
    return JobSpec(
        algorithm=Algorithm("growth", "1"),
        study_uid=uid_of(images),
        series_uids=tuple({str(image.SeriesInstanceUID) for image in images}),
        sop_instance_uids=tuple(str(image.SOPInstanceUID) for image in images),
        route="growth",
        priors=PriorsWanted(**wanted),
        created=datetime(2026, 1, 5, tzinfo=UTC),
    )


def a_settings(folder: Path, aet: str) -> Settings:
    return Settings(
        data_dir=folder,
        gateway=GatewaySettings(port=free_port()),
        orthanc=OrthancSettings(http_port=free_port(), dicom_port=free_port(), aet=aet),
    )


@pytest.fixture(scope="module")
def vna(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Another archive, which knows our Orthanc and the place where a C-MOVE is to go."""
    settings = a_settings(tmp_path_factory.mktemp("vna"), THEIRS)
    with running_orthanc(settings):
        yield settings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, orthanc: OrthancSettings, vna: Settings) -> Settings:
    """Ours, with the other archive as three peers."""
    return known_to(Settings(data_dir=tmp_path_factory.mktemp("ours"), orthanc=orthanc), vna)


def known_to(ours: Settings, other: Settings) -> Settings:
    """Our settings with a running archive as three peers: over DICOM both ways, and over DICOMweb."""
    move_port = free_port()
    for name, aet, port in (("ours", OURS, ours.orthanc.dicom_port), ("priors", "ISOPRIORS", move_port)):
        known = {"AET": aet, "Host": "127.0.0.1", "Port": port}
        allowed = {"AllowFind": True, "AllowGet": True, "AllowMove": True}
        httpx.put(f"{other.orthanc.rest_url}/modalities/{name}", json=known | allowed).raise_for_status()
    node = {"kind": "dicom", "host": "127.0.0.1", "port": other.orthanc.dicom_port, "aet": other.orthanc.aet}
    move = {"method": "move", "aet": "ISOPRIORS", "host": "127.0.0.1", "port": move_port}
    peers: Any = {
        "get": node,
        "move": {**node, "retrieve": move},
        "web": {"kind": "dicomweb", "url": other.orthanc.dicomweb_url},
    }
    return Settings(data_dir=ours.data_dir, orthanc=ours.orthanc, peers=peers)


PEERS = ["get", "move", "web"]


def store(settings: Settings, *studies: Sequence[Dataset]) -> None:
    with DICOMwebClient(settings.orthanc.dicomweb_url) as client:
        for images in studies:
            client.store(images)


def found(gathered: Gathered) -> list[str]:
    """The study of each source."""
    return [
        each.study_uid if isinstance(each, Archive) else uid_of(read_folder(each.path))
        for each in gathered.sources
    ]


# -- our own archive ---------------------------------------------------------------------------------------------


def test_the_newest_of_the_patient_come_first_and_nothing_of_anybody_else(
    settings: Settings, tmp_path: Path
) -> None:
    now = study("own now", "OWN-1", "20260105", "120000")
    older, newer = study("own older", "OWN-1", "20240301"), study("own newer", "OWN-1", "20251103")
    morning = study("own morning", "OWN-1", "20260105", "0830")
    others = [
        study("own oldest", "OWN-1", "20200101"),
        study("own later", "OWN-1", "20260105", "120001"),
        study("own no time", "OWN-1", "20260105", ""),
        study("own next year", "OWN-1", "20270105"),
        study("own somebody", "OWN-2", "20251103"),
        study("own who begins alike", "OWN-11", "20251103"),
        study("own other case", "own-1", "20251103"),
        study("own other issuer", "OWN-1", "20251103", IssuerOfPatientID="ELSEWHERE"),
    ]
    store(settings, now, older, newer, morning, *others)
    gathered = gather(settings, job(now, newest=3), tmp_path / "priors")
    assert found(gathered) == [uid_of(each) for each in (morning, newer, older)]
    assert all(isinstance(each, Archive) for each in gathered.sources)
    assert not (tmp_path / "priors").exists()  # nothing is copied
    # The one of the other issuer: our images do not say whose their ID is.
    assert gathered.notes == (
        "3 of 3 priors: 1 earlier study was left out, because the birth date or the issuer of the patient ID "
        "does not agree",
    )


@pytest.mark.parametrize("source", [None, *PEERS])
@pytest.mark.parametrize("patient", ["W*", "Zoë 7/9", "a+b&c=d", "?"])
def test_an_id_is_never_a_pattern(
    settings: Settings, vna: Settings, tmp_path: Path, source: str | None, patient: str
) -> None:
    charset: Any = {"SpecificCharacterSet": "ISO_IR 192"}
    now = study(f"id {patient}", patient, "20260105", **charset)
    before = study(f"id {patient} before", patient, "20250105", **charset)
    alike = [
        study(f"id {other}", other, "20250106", **charset) for other in ("W1", "Zoe 7/9", "a b&c=d", "Q")
    ]
    store(settings, now)
    store(vna if source else settings, before, *alike)
    gathered = gather(settings, job(now, source=source), tmp_path, QUICK)
    assert (found(gathered), gathered.notes) == ([uid_of(before)], ())


def test_body_part_conditions_and_age_choose_the_series(settings: Settings, tmp_path: Path) -> None:
    now = study("part now", "PART", "20260105")
    head = study("part head", "PART", "20251201", BodyPartExamined="HEAD")
    thorax = study("part thorax", "PART", "20251101", BodyPartExamined="THORAX")
    scout = study(
        "part thorax", "PART", "20251101", number=2, BodyPartExamined="THORAX", SeriesDescription="Scout"
    )
    trunk = study(
        "part trunk", "PART", "20251001", BodyPartExamined="CHESTABDPELVIS", ConvolutionKernel="B70f"
    )
    old = study("part old", "PART", "20150101")
    store(settings, now, head, thorax, scout, trunk, old)

    everything = gather(settings, job(now, newest=4), tmp_path)
    assert found(everything) == [uid_of(each) for each in (thorax, trunk, old)]
    assert everything.notes == (
        "3 of 4 priors: the archive holds no more earlier studies of the same body part",
    )
    (first, *_) = everything.sources
    assert isinstance(first, Archive)
    assert len(first.series_uids) == 2

    # What the search tells, what only an image tells, and what only all images tell.
    chosen = {"SeriesDescription": "phantom"}
    (prior,) = gather(settings, job(now, when=chosen), tmp_path).sources
    assert isinstance(prior, Archive)
    assert prior.series_uids == (str(thorax[0].SeriesInstanceUID),)
    assert found(gather(settings, job(now, when={"ConvolutionKernel": "B70f"}), tmp_path)) == [uid_of(trunk)]
    none = gather(settings, job(now, when={"instances": {"at_least": 5}}), tmp_path)
    assert none.notes == (
        "0 of 1 priors: the archive holds no more earlier studies that meet the route's conditions",
    )

    assert found(gather(settings, job(now, same_body_part=False), tmp_path)) == [uid_of(head)]
    recent = gather(settings, job(now, newest=3, max_age_days=365), tmp_path)
    assert found(recent) == [uid_of(thorax), uid_of(trunk)]


def test_a_study_without_a_body_part_has_its_priors_by_modality(settings: Settings, tmp_path: Path) -> None:
    now = study("mute now", "MUTE", "20260105", BodyPartExamined=None)
    mr = study("mute mr", "MUTE", "20251201", Modality="MR")
    ct = study("mute ct", "MUTE", "20251101", BodyPartExamined="HEAD")
    store(settings, now, mr, ct)
    gathered = gather(settings, job(now), tmp_path)
    assert found(gathered) == [uid_of(ct)]
    assert gathered.notes == ("the study names no body part, so its priors were chosen by modality",)


def test_our_own_results_are_no_priors(settings: Settings, tmp_path: Path) -> None:
    now, before = study("result now", "RESULT", "20260105"), study("result before", "RESULT", "20250105")
    result = study("result before", "RESULT", "20250105", number=2)
    for image in result:
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = sop_class.SecondaryCaptureImageStorage
        image.Modality = "OT"
    store(settings, now, before, result)
    (prior,) = gather(settings, job(now), tmp_path).sources
    assert isinstance(prior, Archive)
    assert prior.series_uids == (str(before[0].SeriesInstanceUID),)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"PatientID": ""}, "the study has no patient ID"),
        ({"StudyDate": ""}, "the study has no date, so nothing is known to be earlier"),
    ],
)
def test_what_no_priors_can_be_looked_for_says_so(
    settings: Settings, tmp_path: Path, attributes: dict[str, str], reason: str
) -> None:
    now = study(f"lacks {reason}", "LACKS", "20260105")
    for image in now:
        spoil(image, attributes)
    store(settings, now, study("lacks before", "", "20250105"))
    assert gather(settings, job(now), tmp_path) == Gathered(notes=(f"0 of 1 priors: {reason}",))


def test_our_own_archive_away_is_worth_another_try(tmp_path: Path) -> None:
    nobody = a_settings(tmp_path, OURS)
    with pytest.raises(Unavailable):
        gather(nobody, job(study("away", "AWAY", "20260105")), tmp_path, QUICK)


# -- a named peer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", PEERS)
def test_priors_of_a_peer_arrive_as_they_are_and_are_not_stored(
    settings: Settings, vna: Settings, tmp_path: Path, source: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    patient = f"SECRET-{source}"
    now = study(f"{source} now", patient, "20260105", PatientBirthDate="19500203")
    before = study(f"{source} before", patient, "20251103", PatientBirthDate="19500203")
    further = study(f"{source} before", patient, "20251103", number=2, PatientBirthDate="19500203")
    unwanted = study(f"{source} before", patient, "20251103", number=3, BodyPartExamined="HEAD")
    packed = study(f"{source} packed", patient, "20241103", PatientBirthDate="19500203")
    for image in packed:
        image.compress(JPEGLSLossless, generate_instance_uid=False)
    somebody = study(f"{source} somebody", f"SOMEBODY-{source}", "20251103")
    twin = study(f"{source} twin", patient, "20251104", PatientBirthDate="19910101")
    store(settings, now)
    store(vna, before, further, unwanted, packed, somebody, twin)
    held = httpx.get(f"{settings.orthanc.rest_url}/statistics").json()["CountInstances"]

    gathered = gather(settings, job(now, newest=3, source=source), tmp_path / "job" / "priors", QUICK)

    newest, oldest = gathered.sources
    assert isinstance(newest, Folder)
    assert isinstance(oldest, Folder)
    arrived = {str(each.SOPInstanceUID): each for each in read_folder(newest.path)}
    sent = {str(each.SOPInstanceUID): each for each in (*before, *further)}
    assert arrived.keys() == sent.keys()
    assert all(arrived[uid].PixelData == sent[uid].PixelData for uid in sent)
    assert {each.file_meta.TransferSyntaxUID for each in read_folder(oldest.path)} == {JPEGLSLossless}
    # One with the same ID, and another birth date: nobody knows whose it is.
    assert gathered.notes == (
        "2 of 3 priors: 1 earlier study was left out, because the birth date or the issuer of the patient ID does "
        f"not agree; the archive {source} holds no more earlier studies of the same body part",
    )
    assert len(list((tmp_path / "job").rglob("*.dcm"))) == 12
    assert httpx.get(f"{settings.orthanc.rest_url}/statistics").json()["CountInstances"] == held
    told = caplog.text + str(gathered) + " ".join(map(str, tmp_path.rglob("*")))
    assert "SECRET" not in told
    assert "1950" not in told


@pytest.mark.parametrize("source", PEERS)
def test_a_patient_without_priors_is_told(
    settings: Settings, vna: Settings, tmp_path: Path, source: str
) -> None:
    now = study(f"{source} alone", f"ALONE-{source}", "20260105")
    store(settings, now)
    store(vna, now)  # the study itself is no prior
    gathered = gather(settings, job(now, source=source), tmp_path, QUICK)
    assert gathered == Gathered(
        notes=(f"0 of 1 priors: the archive {source} holds no earlier study of this patient",)
    )


@pytest.mark.parametrize("source", PEERS)
def test_what_only_the_images_tell_is_judged_after_they_came(
    settings: Settings, vna: Settings, tmp_path: Path, source: str
) -> None:
    patient = f"WHEN-{source}"
    now = study(f"{source} when", patient, "20260105")
    soft = study(f"{source} soft", patient, "20251103", ConvolutionKernel="B31f")
    sharp = study(f"{source} sharp", patient, "20241103", ConvolutionKernel="B70f")
    store(settings, now)
    store(vna, soft, sharp)
    wanted = job(now, source=source, when={"Modality": "CT", "ConvolutionKernel": "B70f"})
    gathered = gather(settings, wanted, tmp_path, QUICK)
    assert (found(gathered), gathered.notes) == ([uid_of(sharp)], ())
    assert len(list(tmp_path.rglob("*.dcm"))) == 4


@pytest.mark.parametrize("source", PEERS)
def test_a_series_that_lacks_an_image_is_left_out(settings: Settings, tmp_path: Path, source: str) -> None:
    frail = a_settings(tmp_path / "frail", "FRAIL")
    now = study(f"{source} lost", "LOST", "20260105")
    damaged, sound = (
        study(f"{source} damaged", "LOST", "20251103"),
        study(f"{source} sound", "LOST", "20241103"),
    )
    store(settings, now)
    with running_orthanc(frail):
        store(frail, damaged, sound)
    lose(frail, damaged[2])
    with running_orthanc(frail):  # with nothing in its memory
        peers = known_to(settings, frail)
        gathered = gather(peers, job(now, newest=2, source=source), tmp_path / "priors", QUICK)
    assert found(gathered) == [uid_of(sound)]
    (note,) = gathered.notes
    assert note in {  # some of Orthanc's services go on after the image that they can not read, some do not
        "1 of 2 priors: a series of the study of 2025-11-03 was left out, because 3 of 4 images arrived",
        f"1 of 2 priors: the archive {source} did not give the study of 2025-11-03",
    }
    assert len(list((tmp_path / "priors").rglob("*.dcm"))) == 4


def lose(settings: Settings, image: Dataset) -> None:
    """The archive's disk loses an image that its database has."""
    files = [file for file in (settings.data_dir / "orthanc" / "storage").rglob("*") if file.is_file()]
    (lost,) = [file for file in files if image.SOPInstanceUID.encode() in file.read_bytes()]
    lost.unlink()


def with_peer(settings: Settings, peer: Any) -> Settings:
    """The settings with this one more peer, called `other`."""
    return Settings(data_dir=settings.data_dir, orthanc=settings.orthanc, peers={"other": peer})


def test_a_peer_that_is_away_costs_the_priors_and_not_the_job(settings: Settings, tmp_path: Path) -> None:
    now = study("nobody", "NOBODY", "20260105")
    store(settings, now)
    port = free_port()
    for peer in (
        {"kind": "dicom", "host": "127.0.0.1", "port": port, "aet": "VNA"},
        {"kind": "dicomweb", "url": f"http://127.0.0.1:{port}/dicom-web"},
    ):
        gathered = gather(with_peer(settings, peer), job(now, newest=2, source="other"), tmp_path, QUICK)
        assert gathered == Gathered(notes=("0 of 2 priors: the archive other did not answer",))


def tried(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Why each search for a peer's studies failed, from now on."""
    failed: list[Exception] = []
    search = DICOMwebArchive.studies

    def studies(self: DICOMwebArchive, *asked: Any) -> list[Attributes]:
        try:
            return search(self, *asked)
        except IsocenterError as error:
            failed.append(error)
            raise

    monkeypatch.setattr(DICOMwebArchive, "studies", studies)
    return failed


def until(condition: Callable[[], bool], within_s: float = 30.0) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def test_a_peer_that_comes_back_is_asked_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = a_settings(tmp_path / "late", "LATE")
    now, before = study("late now", "LATE", "20260105"), study("late before", "LATE", "20250105")
    store(settings, now)
    patient = Patience(away_s=60.0, silence_s=20.0, longest_s=90.0, first_pause_s=0.2)
    peer = with_peer(settings, {"kind": "dicomweb", "url": late.orthanc.dicomweb_url})
    answers: list[Gathered] = []
    asking = threading.Thread(
        target=lambda: answers.append(gather(peer, job(now, source="other"), tmp_path / "priors", patient))
    )
    with running_orthanc(late):
        store(late, before)
    tries = tried(monkeypatch)
    asking.start()
    until(lambda: len(tries) > 0)
    assert isinstance(tries[0], ArchiveUnavailable)
    assert answers == []
    with running_orthanc(late):
        asking.join(90)
    (gathered,) = answers
    assert (found(gathered), gathered.notes) == ([uid_of(before)], ())


@pytest.mark.parametrize("kind", ["dicom", "dicomweb"])
def test_a_peer_that_says_nothing_is_not_waited_for(settings: Settings, tmp_path: Path, kind: str) -> None:
    now = study("silence", "SILENCE", "20260105")
    store(settings, now)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        peer = (
            {"kind": kind, "host": "127.0.0.1", "port": port, "aet": "VNA"}
            if kind == "dicom"
            else {"kind": kind, "url": f"http://127.0.0.1:{port}"}
        )
        brief = Patience(away_s=0.4, silence_s=0.3, longest_s=60.0, first_pause_s=0.1)
        began = time.monotonic()
        gathered = gather(with_peer(settings, peer), job(now, source="other"), tmp_path, brief)
    assert time.monotonic() - began < 15
    (note,) = gathered.notes
    assert note.startswith("0 of 1 priors: the archive other did not answer")


Answers = Callable[[evt.Event], Iterator[Any]]


@contextmanager
def a_node(
    images: Sequence[Dataset],
    move_to: tuple[str, int] | None,
    give: Answers,
    tls: ssl.SSLContext | None = None,
) -> Iterator[dict[str, Any]]:
    """A DICOM node that finds one study and gives it as `give` says; as a peer of our settings."""

    def search(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        answer = Dataset()
        for element in event.identifier:
            if element.keyword and element.keyword in images[0]:
                setattr(answer, element.keyword, images[0][element.keyword].value)
        answer.QueryRetrieveLevel = event.identifier.QueryRetrieveLevel
        answer.NumberOfSeriesRelatedInstances = len(images)
        yield 0xFF00, answer

    scp = AE(ae_title="NODE")
    for model in ("Find", "Get", "Move"):
        scp.add_supported_context(getattr(sop_class, f"StudyRootQueryRetrieveInformationModel{model}"))
    scp.add_supported_context(sop_class.CTImageStorage, scu_role=True, scp_role=True)
    scp.add_requested_context(sop_class.CTImageStorage)
    handlers = [(evt.EVT_C_FIND, search), (evt.EVT_C_GET, give), (evt.EVT_C_MOVE, give)]
    server = scp.start_server(("127.0.0.1", 0), block=False, ssl_context=tls, evt_handlers=handlers)
    assert server is not None
    retrieve: dict[str, Any] = {"method": "get"}
    if move_to:
        retrieve = {"method": "move", "aet": move_to[0], "host": "127.0.0.1", "port": move_to[1]}
    port = server.server_address[1]
    try:
        yield {"kind": "dicom", "host": "127.0.0.1", "port": port, "aet": "NODE", "retrieve": retrieve}
    finally:
        server.shutdown()


@pytest.mark.parametrize("method", ["get", "move"])
def test_a_peer_that_falls_silent_in_the_middle_keeps_the_job_for_no_longer(
    settings: Settings, tmp_path: Path, method: str
) -> None:
    now, before = study("stuck now", "STUCK", "20260105"), study("stuck before", "STUCK", "20250105")
    store(settings, now)
    place = ("ISOPRIORS", free_port())
    freed = threading.Event()

    def give(event: evt.Event) -> Iterator[Any]:
        if method == "move":
            yield "127.0.0.1", place[1]
        yield len(before)
        yield 0xFF00, before[0]
        freed.wait(60)
        yield 0xFE00, None

    brief = Patience(away_s=0.5, silence_s=1.5, longest_s=60.0, first_pause_s=0.1)
    with a_node(before, place if method == "move" else None, give) as node:
        began = time.monotonic()
        gathered = gather(with_peer(settings, node), job(now, source="other"), tmp_path / "priors", brief)
        took_s = time.monotonic() - began
        freed.set()
    assert took_s < 20
    reason = "the archive other did not give the study of 2025-01-05"
    assert gathered == Gathered(notes=(f"0 of 1 priors: {reason}",))
    assert list((tmp_path / "priors").rglob("*.dcm")) == []


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"PatientID": "ANOTHER"}, "its images do not say surely that they are of this patient"),
        ({"StudyInstanceUID": "1.2.3"}, "0 of 4 images arrived"),
        ({"PixelData": b"\0" * 100}, "an image arrived damaged"),
    ],
)
def test_a_peer_is_not_believed(
    settings: Settings, tmp_path: Path, wrong: dict[str, Any], reason: str
) -> None:
    now, before = study("trust now", "TRUST", "20260105"), study("trust before", "TRUST", "20250105")
    store(settings, now)
    sent = study("trust before", "TRUST", "20250105")
    for image in sent:
        spoil(image, wrong)

    def give(event: evt.Event) -> Iterator[Any]:
        yield len(sent)
        for image in sent:
            yield 0xFF00, image

    with a_node(before, None, give) as node:
        gathered = gather(with_peer(settings, node), job(now, source="other"), tmp_path / "priors", QUICK)
    assert gathered == Gathered(
        notes=(f"0 of 1 priors: a series of the study of 2025-01-05 was left out, because {reason}",)
    )
    assert list((tmp_path / "priors").rglob("*.dcm")) == []


@pytest.mark.parametrize(
    ("peer", "reason"),
    [
        ({"kind": "folder", "path": "results"}, "the peer other is of kind folder, which gives no priors"),
        (
            {"kind": "dicom", "host": "127.0.0.1", "port": 0, "aet": "VNA", "retrieve": "nowhere"},
            "the archive other did not give the study of 2025-01-05",
        ),
    ],
)
def test_a_peer_that_can_not_give_is_told(
    settings: Settings, vna: Settings, tmp_path: Path, peer: dict[str, Any], reason: str
) -> None:
    now, before = study("wrong now", "WRONG", "20260105"), study("wrong before", "WRONG", "20250105")
    store(settings, now)
    store(vna, before)
    if peer.get("retrieve"):  # a destination that the other side was not told of
        nowhere = {"method": "move", "aet": "UNKNOWN", "host": "127.0.0.1", "port": free_port()}
        peer = {**peer, "port": vna.orthanc.dicom_port, "retrieve": nowhere}
    gathered = gather(with_peer(settings, peer), job(now, source="other"), tmp_path, QUICK)
    assert gathered == Gathered(notes=(f"0 of 1 priors: {reason}",))


@pytest.mark.parametrize("method", ["get", "move"])
def test_images_over_tls(settings: Settings, tmp_path: Path, method: str) -> None:
    certificate, key = certified(tmp_path)
    now, before = study("tls now", "TLS", "20260105"), study("tls before", "TLS", "20250105")
    store(settings, now)
    place = ("ISOPRIORS", free_port())

    def give(event: evt.Event) -> Iterator[Any]:
        if method == "move":
            yield "127.0.0.1", place[1], {"tls_args": (client, "127.0.0.1")}
        yield len(before)
        for image in before:
            yield 0xFF00, image

    client = ssl.create_default_context(cafile=certificate)
    client.load_cert_chain(certificate, key)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificate)
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(certificate, key)
    keys = {"ca": certificate, "certificate": certificate, "key": key}
    with a_node(before, place if method == "move" else None, give, server) as node:
        secure = gather(
            with_peer(settings, node | {"tls": keys}), job(now, source="other"), tmp_path / "priors", QUICK
        )
        plain = gather(with_peer(settings, node), job(now, source="other"), tmp_path / "plain", HASTY)
        alien = gather(
            with_peer(settings, node | {"tls": {}}), job(now, source="other"), tmp_path / "alien", HASTY
        )
    assert (found(secure), secure.notes) == ([uid_of(before)], ())
    assert plain.notes == ("0 of 1 priors: the archive other did not answer",)  # it wants TLS
    assert alien.notes == (
        "0 of 1 priors: the archive other refused what was asked of it",
    )  # who vouches for it?


def certified(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=127.0.0.1",
    ]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def test_a_move_waits_for_another_to_end(settings: Settings, vna: Settings, tmp_path: Path) -> None:
    now, before = study("busy now", "BUSY", "20260105"), study("busy before", "BUSY", "20250105")
    store(settings, now)
    store(vna, before)
    peer = settings.peers["move"]
    assert isinstance(peer, DICOMPeer)
    answers: list[Gathered] = []
    asking = threading.Thread(
        target=lambda: answers.append(gather(settings, job(now, source="move"), tmp_path / "priors", QUICK))
    )
    with socket.create_server(("127.0.0.1", peer.retrieve.port or 0)):
        asking.start()
        asking.join(1.5)
        assert asking.is_alive()
    asking.join(60)
    (gathered,) = answers
    assert found(gathered) == [uid_of(before)]


def test_our_own_port_is_waited_for_longer_than_a_peer_and_not_held_against_it(
    settings: Settings, vna: Settings, tmp_path: Path
) -> None:
    """As for a STAT job, while the C-MOVE of a routine one goes on."""
    now, before = study("port now", "PORT", "20260105"), study("port before", "PORT", "20250105")
    store(settings, now)
    store(vna, before)
    peer = settings.peers["move"]
    assert isinstance(peer, DICOMPeer)
    stat = Patience(away_s=0.5, silence_s=1.0, longest_s=30.0, first_pause_s=0.1)
    asked = job(now, source="move")
    answers: list[Gathered] = []
    asking = threading.Thread(
        target=lambda: answers.append(gather(settings, asked, tmp_path / "late", stat)), daemon=True
    )
    with socket.create_server(("127.0.0.1", peer.retrieve.port or 0)):
        asking.start()
        asking.join(3.0)
        assert asking.is_alive()
    asking.join(60)
    assert found(answers[0]) == [uid_of(before)]

    with socket.create_server(("127.0.0.1", peer.retrieve.port or 0)):
        over = replace(stat, longest_s=3.0)
        occupied = gather(settings, asked, tmp_path / "over", over)
    ours = f"our own port {peer.retrieve.port}, to which a C-MOVE sends,"
    assert occupied.notes == (
        f"0 of 1 priors: the study of 2025-01-05 was not fetched, because {ours} was in use until the time for "
        "priors was over",
    )
    elsewhere = peer.model_copy(update={"retrieve": peer.retrieve.model_copy(update={"host": "192.0.2.1"})})
    unusable = gather(with_peer(settings, elsewhere), job(now, source="other"), tmp_path / "none", QUICK)
    assert unusable.notes == (
        f"0 of 1 priors: the study of 2025-01-05 was not fetched, because {ours} can not be listened to at "
        "192.0.2.1: Cannot assign requested address",
    )


@pytest.mark.parametrize("error", [ArchiveUnavailable("it broke off"), InputError("it does not know it")])
def test_a_study_whose_series_can_not_be_had_costs_no_other_one(
    settings: Settings, vna: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: IsocenterError
) -> None:
    seed = type(error).__name__
    now, newer, older = (
        study(f"{seed} {day}", f"SERIES-{seed}", day) for day in ("20260105", "20250105", "20240105")
    )
    store(settings, now)
    store(vna, newer, older)
    search = DICOMwebArchive.series

    def series(self: DICOMwebArchive, study_uid: str) -> list[Attributes]:
        if study_uid == uid_of(newer):
            raise error
        return search(self, study_uid)

    monkeypatch.setattr(DICOMwebArchive, "series", series)
    gathered = gather(settings, job(now, newest=2, source="web"), tmp_path, QUICK)
    assert found(gathered) == [uid_of(older)]
    assert gathered.notes == ("1 of 2 priors: the archive web did not give the study of 2025-01-05",)


def test_dicomweb_over_tls_with_an_authority_of_ones_own(
    settings: Settings, vna: Settings, tmp_path: Path
) -> None:
    now, before = study("https now", "HTTPS", "20260105"), study("https before", "HTTPS", "20250105")
    store(settings, now)
    store(vna, before)
    place = tls.certificates(tmp_path)
    ours = {"certificate": place / "client.pem", "key": place / "client.key"}
    with tls.secured(vna.orthanc.http_port, tls.server_context(place, ask=True)) as port:

        def asked(name: str, **keys: Any) -> Gathered:
            peer = {"kind": "dicomweb", "url": f"https://127.0.0.1:{port}/dicom-web", "tls": keys}
            return gather(with_peer(settings, peer), job(now, source="other"), tmp_path / name, patient)

        patient = Patience()
        secure = asked("secure", ca=place / "ca.pem", **ours)
        began = time.monotonic()
        alien, lacks = (
            asked("alien", ca=place / "stranger.pem", **ours),
            asked("lacks", ca=place / "none.pem"),
        )
    assert time.monotonic() - began < 20  # nobody mends a certificate while a job waits
    assert (found(secure), secure.notes) == ([uid_of(before)], ())
    assert alien.notes == ("0 of 1 priors: the archive other refused what was asked of it",)
    assert lacks.notes == (
        f"0 of 1 priors: the archive other can not be asked: tls.ca {place}/none.pem can not be read as PEM "
        "certificates: No such file or directory",
    )


def test_the_documented_configuration_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "priors.md").read_text()
    (tmp_path / "isocenter.yaml").write_text(page.split("```yaml")[1].split("```")[0])
    settings = Settings.load(tmp_path / "isocenter.yaml")
    assert settings.routes[0].priors == PriorsWanted(
        newest=2, source="vna", max_age_days=730, when={"Modality": "CT"}
    )
    nowhere = "peers: {a: {kind: dicom, host: b, port: 1, aet: C, retrieve: {method: move}}}"
    (tmp_path / "isocenter.yaml").write_text(nowhere)
    with pytest.raises(ConfigurationError, match="move needs aet and port"):
        Settings.load(tmp_path / "isocenter.yaml")


# -- what is the same --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "current", "same"),
    [
        ("CHEST", "CHEST", True),
        ("Thorax ", "CHEST", True),
        ("C-SPINE", "CSPINE", True),
        ("CHEST_ABDOMEN", "CHEST", True),  # shows all of it
        ("CHEST", "CHESTABDOMEN", False),  # shows a part only
        ("CHESTABDPELVIS", "ABDOMENPELVIS", True),
        ("HEAD", "BRAIN", False),
        ("LUNG", "CHEST", False),
        ("", "CHEST", None),
        ("CHEST", "", None),
    ],
)
def test_body_parts(prior: str, current: str, same: bool | None) -> None:
    assert covers(prior, current) is same


def test_a_left_knee_is_no_prior_of_a_right_one() -> None:
    assert covers("KNEE", "KNEE", "L", "R") is False
    assert covers("KNEE", "KNEE", "B", "R") is True
    assert covers("KNEE", "KNEE", "", "R") is True


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("7", "", ""), ("7", "", ""), True),
        (("7", "A", ""), ("7", "A", ""), True),
        (("7", "A", "19500203"), ("7", "", "19500203"), True),
        (("7", "A", ""), ("7", "", ""), None),
        (("7", "A", "19500203"), ("7", "A", "19910101"), None),
        (("7", "A", "19500203"), ("7", "B", "19500203"), False),
        (("7", "", ""), ("8", "", ""), False),
        (("", "", ""), ("", "", ""), False),
    ],
)
def test_patients(one: tuple[str, str, str], other: tuple[str, str, str], same: bool | None) -> None:
    assert Patient(*one).is_same(Patient(*other)) is same
    assert Patient(*other).is_same(Patient(*one)) is same
    assert "19500203" not in repr(Patient(*one))


@pytest.mark.parametrize(
    ("earlier", "later", "surely"),
    [
        (("20250105", ""), ("20260105", ""), True),
        (("2025.01.05", ""), ("20260105", ""), True),
        (("20260105", "08"), ("20260105", "0830"), True),
        (("20260105", "083000.1"), ("20260105", "083000.2"), True),
        (("20260105", "083000"), ("20260105", "0830"), False),
        (("20260105", ""), ("20260105", "0830"), False),
        (("20260105", "soon"), ("20260105", "0830"), False),
    ],
)
def test_what_is_earlier(earlier: tuple[str, str], later: tuple[str, str], surely: bool) -> None:
    first, second = (Moment.of({"StudyDate": day, "StudyTime": time}) for day, time in (earlier, later))
    assert first is not None
    assert second is not None
    assert first.before(second) is surely
    assert not second.before(first)
    assert Moment.of({"StudyDate": "yesterday"}) is None


# -- the graph ---------------------------------------------------------------------------------------------------

APPLICATION = """
from monai.deploy.core import Operator, OperatorSpec
from isocenter_operators.application import Application
from isocenter_operators.errors import NotApplicable


class Count(Operator):
    def setup(self, spec: OperatorSpec):
        spec.input("dicom_study_list")
        spec.input("prior_study_list")

    def compute(self, op_input, op_output, context):
        now, priors = op_input.receive("dicom_study_list"), op_input.receive("prior_study_list")
        count = lambda study: sum(len(each.get_sop_instances()) for each in study.get_all_series())
        raise NotApplicable(f"{sum(map(count, now))} now, {[(each.StudyDate, count(each)) for each in priors]} before")


class Counting(Application):
    def compose(self):
        count = Count(self, name="count")
        self.add_flow(self.source(), count, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(self.prior_source(), count, {("prior_study_list", "prior_study_list")})


def application(task=None):
    return Counting(task)
"""


def test_priors_reach_the_graph(settings: Settings, vna: Settings, tmp_path: Path) -> None:
    from isocenter.worker import runner
    from isocenter_operators.manifest import read_manifest

    folder = tmp_path / "apps" / "counting_priors"
    folder.mkdir(parents=True)
    (folder / "app.py").write_text(APPLICATION)
    (folder / "app.yaml").write_text("application: {title: Counting, version: '1'}")
    app = read_manifest(folder)

    now = study("graph now", "GRAPH", "20260105")
    before, earlier = study("graph before", "GRAPH", "20250105"), study("graph earlier", "GRAPH", "20240105")
    store(settings, now, before, earlier)
    store(vna, before)

    def answer(
        sources: tuple[Folder | Archive, ...], notes: tuple[str, ...] = ()
    ) -> tuple[str, tuple[str, ...]]:
        url = settings.orthanc.dicomweb_url
        task = Run(source=Archive(url, uid_of(now)), sink=Folder(tmp_path), priors=sources, notes=notes)
        outcome = runner.run(app, task)
        return outcome.reason, outcome.notes

    ours = gather(settings, job(now, newest=2), tmp_path / "ours")
    assert answer(ours.sources) == ("4 now, [('20250105', 4), ('20240105', 4)] before", ())
    theirs = gather(settings, job(now, newest=2, source="get"), tmp_path / "theirs", QUICK)
    note = "1 of 2 priors: the archive get holds no more earlier studies of the same body part"
    assert answer(theirs.sources, theirs.notes) == ("4 now, [('20250105', 4)] before", (note,))
    assert answer(()) == ("4 now, [] before", ())

    (prior,) = theirs.sources
    assert isinstance(prior, Folder)
    image = next(prior.path.rglob("*.dcm"))
    image.write_bytes(image.read_bytes()[:-1000])
    reason, (note,) = answer(theirs.sources)
    assert reason == "4 now, [] before"
    assert note.startswith("prior 1 of 1 was left out: ")
    assert "truncated" in note
