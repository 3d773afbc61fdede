"""Results on their way to real archives, DICOM nodes, folders and webhooks, and what goes wrong there."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from shutil import which
from typing import Any, cast

import pytest
import tls
from ports import free_port
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE, StoragePresentationContexts, evt
from read_back import lacking
from served import served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from unit.result_cases import findings_of, phantom_case, pictures_of, report_of, seg_of

from isocenter.database import prepare
from isocenter.job import JobSpec
from isocenter.jobs import Jobs
from isocenter.ledger import Ledger
from isocenter.onward import Couriers, Outbox
from isocenter.onward.courier import Patience
from isocenter.settings import OrthancSettings, Settings
from isocenter.stack.orthanc import running_orthanc
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.dicom.series.read import read_bytes
from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.errors import Unavailable

pytestmark = [
    pytest.mark.integration,
    # pynetdicom leaves the socket of an association that failed to the garbage collector.
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <(socket.socket|ssl.SSLSocket):pytest.PytestUnraisableExceptionWarning"
    ),
]

QUICK = Patience(look_s=0.05, first_s=0.05, longest_s=0.4, refusals=3)
ALGORITHM = Algorithm("ct_lung_density", "1.2.0")
HERE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Results:
    """The results of one job, as they are in the archive."""

    study_uid: str
    series_uid: str  # of the images
    instances: tuple[Dataset, ...]  # SEG, SR, two pictures

    @property
    def uids(self) -> list[str]:
        return [str(each.SOPInstanceUID) for each in self.instances]

    @property
    def entries(self) -> list[dict[str, str]]:
        return [
            {
                "sop_class_uid": str(each.SOPClassUID),
                "sop_instance_uid": str(each.SOPInstanceUID),
                "series_uid": str(each.SeriesInstanceUID),
                "study_uid": str(each.StudyInstanceUID),
                "modality": str(each.Modality),
            }
            for each in self.instances
        ]


@pytest.fixture(scope="module")
def cases(orthanc: OrthancSettings) -> list[Results]:
    """Real results of three jobs, stored: two of one study, one of another."""
    found = []
    with DICOMwebClient(orthanc.dicomweb_url) as archive:
        for size in [(96, 80, 24), (96, 80, 22), (90, 80, 24)]:
            volume, labels = phantom_case(size=size)
            findings, seg = findings_of(volume, labels), seg_of(volume, labels)
            instances = [seg, report_of(volume, findings, seg), *pictures_of(volume, labels, findings)]
            if len(found) == 1:  # more images of the same study
                for each in instances:
                    each.StudyInstanceUID = found[0].study_uid
            archive.store(instances)
            source = volume.sources[0]
            study = str(instances[0].StudyInstanceUID)
            found.append(Results(study, str(source.SeriesInstanceUID), tuple(instances)))
    return found


class Service:
    """Ledger, outbox and couriers of one data folder, without the rest."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        prepare(settings)
        self.ledger = Ledger(settings.database)
        self.outbox = Outbox(settings.database, settings.peers)
        self.couriers = Couriers(settings, QUICK)

    def spec(self, results: Results, number: int = 1) -> JobSpec:
        """Jobs of the same results and other numbers are about more and more images of the same series."""
        return JobSpec(
            algorithm=ALGORITHM,
            study_uid=results.study_uid,
            series_uids=(results.series_uid,),
            sop_instance_uids=tuple(f"{results.series_uid}.{each}" for each in range(number)),
            route="CT",
            destinations=tuple(self.settings.peers),
            created=datetime(2026, 11, 22, 10, 30),
        )

    def done(
        self,
        results: Results,
        number: int = 1,
        *,
        spec: JobSpec | None = None,
        also: Sequence[dict[str, str]] = (),
    ) -> str:
        """A job has ended with these results; `also`: with these, which are not in the archive."""
        spec = spec or self.spec(results, number)
        job_id = spec.identity.job_id
        self.ledger.enter(spec)
        self.ledger.begin(job_id, "worker", "life")
        self.ledger.store(job_id, [*results.entries, *also])
        self.ledger.end(job_id, "done")
        return job_id

    def states(self, job_id: str) -> dict[str, str]:
        """By destination, of the last delivery to each."""
        return {each.destination: each.state for each in self.outbox.of_job(job_id)}

    def reason(self, job_id: str, destination: str) -> str:
        return [each for each in self.outbox.of_job(job_id) if each.destination == destination][-1].reason


@pytest.fixture
def serve(tmp_path: Path, orthanc: OrthancSettings) -> Iterator[Callable[..., Service]]:
    """A function that makes a service with these peers, and starts its couriers."""
    services: list[Service] = []

    def serve_(start: bool = True, **peers: dict[str, Any]) -> Service:
        data_dir = tmp_path / f"data{len(services)}"
        services.append(Service(Settings(data_dir=data_dir, orthanc=orthanc, peers=peers, routes=[])))
        if start:
            services[-1].couriers.start()
        return services[-1]

    yield serve_
    for service in services:
        service.couriers.stop()


def until(
    condition: Callable[[], bool], told: Callable[[], object] = lambda: "", within_s: float = 60
) -> None:
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, told()
        time.sleep(0.02)


def all_sent(service: Service, *job_ids: str) -> None:
    def states() -> list[dict[str, str]]:
        return [service.states(job_id) for job_id in job_ids]

    until(
        lambda: all(each and set(each.values()) == {"sent"} for each in states()),
        lambda: (states(), service.couriers.status()),
    )


@dataclass
class Node:
    """A DICOM node that stores in memory. `answers` are the next statuses; `refuses` is a SOP class it never takes."""

    port: int
    aet: str = "VNA"
    answers: list[int] = field(default_factory=list)
    refuses: str = ""
    slow_s: float = 0.0
    most: int = 1_000  # that it takes before it may go on
    goes_on: threading.Event = field(default_factory=threading.Event)
    received: list[Dataset] = field(default_factory=list)
    callers: set[str] = field(default_factory=set)

    @property
    def uids(self) -> list[str]:
        return [str(each.SOPInstanceUID) for each in self.received]

    def peer(self, **others: Any) -> dict[str, Any]:
        return {"kind": "dicom", "host": "127.0.0.1", "port": self.port, "aet": self.aet, **others}

    def store(self, event: evt.Event) -> int:
        self.callers.add(event.assoc.requestor.ae_title)
        time.sleep(self.slow_s)
        if len(self.received) >= self.most:
            self.goes_on.wait(60)
        if self.answers and (status := self.answers.pop(0)):
            return status
        if event.request.AffectedSOPClassUID == self.refuses:
            return 0xC000
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        self.received.append(dataset)
        return 0

    @contextmanager
    def up(
        self, *, tls: ssl.SSLContext | None = None, syntaxes: Sequence[str] = (ExplicitVRLittleEndian,)
    ) -> Iterator[None]:
        entity = AE(ae_title=self.aet)
        entity.require_called_aet = True
        for context in StoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, list(syntaxes))
        server = entity.start_server(
            ("127.0.0.1", self.port),
            block=False,
            ssl_context=tls,
            evt_handlers=[(evt.EVT_C_STORE, self.store)],
        )
        try:
            yield
        finally:
            server.shutdown()


@pytest.fixture
def node() -> Node:
    return Node(free_port())


def content(dataset: Dataset) -> dict[str, Any]:
    """All that an instance says, but for how it is encoded."""
    return {str(each.tag): each.value for each in dataset if each.tag.element}


@cache
def documented_receiver() -> Callable[[bytes, Mapping[str, str], bytes], bool]:
    """The function that docs/onward.md gives to whoever writes a webhook."""
    page = (HERE / "docs" / "onward.md").read_text()
    known = {"hmac": hmac, "hashlib": hashlib, "time": time, "Mapping": Mapping}
    exec(page.split("```python")[1].split("```")[0], known)
    return cast(Callable[[bytes, Mapping[str, str], bytes], bool], known["is_genuine"])


@dataclass
class Webhook:
    """Takes what is signed with its secret. `answers` are the next statuses."""

    port: int
    secret: str = "a secret"
    answers: list[int] = field(default_factory=list)
    told: list[dict[str, Any]] = field(default_factory=list)
    deliveries: list[str] = field(default_factory=list)
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def respond(self, request: Request) -> Response:
        body = await request.body()
        if not documented_receiver()(self.secret.encode(), request.headers, body):
            return Response(status_code=403)
        self.requests.append((dict(request.headers), body))
        self.deliveries.append(request.headers["X-Isocenter-Delivery"])
        if self.answers and (status := self.answers.pop(0)):
            return Response(status_code=status)
        self.told.append(json.loads(body))
        return Response(status_code=204)

    def peer(self, secret: str = "a secret") -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/isocenter?token=hidden"
        return {"kind": "webhook", "url": url, "secret": secret}


@pytest.fixture
def hook() -> Iterator[Webhook]:
    """A webhook that is up."""
    hook = Webhook(free_port())
    with served(Starlette(routes=[Route("/isocenter", hook.respond, methods=["POST"])]), hook.port):
        yield hook


@pytest.fixture
def archives(tmp_path: Path) -> Iterator[list[OrthancSettings]]:
    """Two more Orthancs; the second asks for a name and a password."""
    with ExitStack() as stack:
        found = []
        for number, login in enumerate([{}, {"username": "u", "password": "p"}]):
            settings = Settings(
                data_dir=tmp_path / f"archive{number}",
                gateway={"port": free_port()},
                orthanc={"http_port": free_port(), "dicom_port": free_port(), **login},
            )
            found.append(stack.enter_context(running_orthanc(settings)).orthanc)
        yield found


def in_archive(orthanc: OrthancSettings, results: Results) -> dict[str, dict[str, Any]]:
    """What an archive holds of the series of these results."""
    with DICOMwebClient(orthanc.dicomweb_url, credentials=orthanc.credentials) as archive:
        found = [
            read_bytes(each, origin="an archive")
            for series in dict.fromkeys(str(each.SeriesInstanceUID) for each in results.instances)
            for each in archive.retrieve_series(results.study_uid, series)
        ]
    return {str(each.SOPInstanceUID): content(each) for each in found if each is not None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


def files_in(folder: Path) -> dict[str, Path]:
    """By name without .dcm; whatever else lies there is there too."""
    return {each.name.removesuffix(".dcm"): each for each in folder.rglob("*") if each.is_file()}


def test_results_arrive_as_they_are_in_the_archive(
    serve: Callable[..., Service],
    orthanc: OrthancSettings,
    cases: list[Results],
    archives: list[OrthancSettings],
    folder: Path,
) -> None:
    results, (open_, closed) = cases[0], archives
    service = serve(
        stow={"kind": "dicomweb", "url": open_.dicomweb_url},
        rest={"kind": "orthanc", "url": closed.rest_url, "username": "u", "password": "p"},
        disk={"kind": "folder", "path": folder},
        wrong={"kind": "orthanc", "url": closed.rest_url},
        stowed={"kind": "dicomweb", "url": closed.dicomweb_url},
    )
    job_id = service.done(results)
    until(lambda: [service.states(job_id).get(name) for name in ("stow", "rest", "disk")] == ["sent"] * 3)
    kept = in_archive(orthanc, results)
    assert list(kept) != []
    assert in_archive(open_, results) == in_archive(closed, results) == kept
    assert {uid: content(dcmread(file)) for uid, file in files_in(folder).items()} == kept
    assert {file.parent for file in files_in(folder).values()} == {folder / results.study_uid}
    # A wrong password is for a person to mend: it waits, and says so.
    until(lambda: all(service.reason(job_id, name) for name in ("wrong", "stowed")))
    for name in ("wrong", "stowed"):
        assert "another name or password" in service.reason(job_id, name)
        assert service.states(job_id)[name] == "waiting"
    service.couriers.stop()
    assert not list((service.settings.data_dir / "onward").iterdir())


def test_a_peer_that_wants_no_pictures_gets_none(
    serve: Callable[..., Service], cases: list[Results], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "all").mkdir()
    service = serve(
        some={"kind": "folder", "path": folder, "profile": {"pictures": False}},
        all={"kind": "folder", "path": tmp_path / "all"},
    )
    all_sent(service, service.done(cases[0]))
    assert set(files_in(tmp_path / "all")) == set(cases[0].uids)
    assert {str(dcmread(file).Modality) for file in files_in(folder).values()} == {"SEG", "SR"}


def test_a_destination_that_is_dead_holds_up_no_other(
    serve: Callable[..., Service], cases: list[Results], node: Node, hook: Webhook
) -> None:
    dead = Node(node.port, aet="DEAD").peer() | {"port": 1}
    with node.up():
        service = serve(vna=node.peer(), ris=hook.peer(), dead=dead)
        job_id = service.done(cases[0])
        until(lambda: service.states(job_id) == {"vna": "sent", "ris": "sent", "dead": "waiting"})
        until(lambda: service.reason(job_id, "dead") != "")
    assert node.uids == cases[0].uids
    assert node.callers == {"ISOCENTER"}
    received = {str(each.SOPInstanceUID): content(each) for each in node.received}
    assert received == in_archive(service.settings.orthanc, cases[0])
    status = service.couriers.status()
    assert (status["dead"]["waiting"], status["vna"]["waiting"]) == (1, 0)
    assert status["dead"]["failing_since"] is not None
    assert status["dead"]["reason"] == "DEAD at 127.0.0.1:1 does not answer: Connection refused"

    (news,) = hook.told
    assert (news["event"], news["state"], news["reason"]) == ("done", "done", "")
    assert (news["job_id"], news["application"]) == (job_id, "ct_lung_density")
    assert [each["sop_instance_uid"] for each in news["results"]] == cases[0].uids
    patient = cases[0].instances[0]
    for secret in (patient.PatientID, patient.PatientName, patient.PatientBirthDate):
        assert not secret or str(secret) not in json.dumps(news)


def test_a_node_that_was_down_gets_everything_in_order(
    serve: Callable[..., Service], cases: list[Results], node: Node
) -> None:
    service = serve(vna=node.peer())
    first = service.done(cases[0], 1)
    until(lambda: service.outbox.counts().get("vna") is not None)
    # Two jobs of one study, and one of another, wait side by side.
    second, other = service.done(cases[1]), service.done(cases[2])
    until(lambda: service.couriers.status()["vna"]["reason"] != "")
    until(lambda: service.outbox.counts()["vna"].waiting == 3)
    time.sleep(1.0)
    assert node.received == []
    with node.up():
        all_sent(service, first, second, other)
    assert sorted(node.uids) == sorted(uid for each in cases for uid in each.uids)
    of_study = [uid for uid in node.uids if uid in cases[0].uids + cases[1].uids]
    assert of_study == cases[0].uids + cases[1].uids
    assert service.couriers.status()["vna"] == {
        "waiting": 0,
        "failed": 0,
        "failing_since": None,
        "reason": "",
    }


def test_a_node_out_of_resources_is_tried_again_and_what_it_has_is_no_error(
    serve: Callable[..., Service], cases: list[Results], node: Node
) -> None:
    """0xA700 in the middle; then it says of the first instance that it has it, of the second that it coerced it."""
    node.answers = [0, 0xA700, 0x0111, 0xB000]
    with node.up():
        service = serve(vna=node.peer())
        job_id = service.done(cases[0])
        all_sent(service, job_id)
    (delivery,) = service.outbox.of_job(job_id)
    assert delivery.attempts == 2
    assert node.answers == []
    # 1 before it was full; on the second attempt two were answered for without being kept, and two were kept.
    assert node.uids == [cases[0].uids[0], *cases[0].uids[2:]]


def test_what_is_refused_for_good_fails_with_its_reason_and_holds_nothing_up(
    serve: Callable[..., Service], cases: list[Results], node: Node
) -> None:
    node.refuses = SegmentationStorage
    with node.up():
        service = serve(vna=node.peer())
        first, second = service.done(cases[0]), service.done(cases[1])
        until(lambda: service.states(second) == {"vna": "failed"}, service.couriers.status)
        assert service.states(first) == {"vna": "failed"}
        reason = service.reason(first, "vna")
        assert reason == (
            f"refused: VNA at 127.0.0.1:{node.port} takes 3 of 4 instances; {cases[0].uids[0]}: "
            "status 0xC000 (PS3.4, B.2.3) (tried 3 times)"
        )
        assert service.couriers.status()["vna"]["failed"] == 2
        # Everything else of the set did arrive.
        assert set(node.uids) == {*cases[0].uids[1:], *cases[1].uids[1:]}

        node.refuses = ""  # somebody has mended it
        (told,) = service.couriers.deliveries(first)
        assert told.as_json() | {"created": "", "ended": ""} == {
            "destination": "vna",
            "what": "results",
            "state": "failed",
            "attempts": 3,
            "reason": reason,
            "created": "",
            "ended": "",
        }
        assert service.couriers.retry(first) == 1
        all_sent(service, first)
    assert cases[0].uids[0] in node.uids


def test_a_node_that_knows_only_implicit_vr_gets_what_can_be_recoded(
    serve: Callable[..., Service], cases: list[Results], node: Node
) -> None:
    with node.up(syntaxes=[ImplicitVRLittleEndian]):
        service = serve(vna=node.peer())
        all_sent(service, service.done(cases[0]))
    assert {each.file_meta.TransferSyntaxUID for each in node.received} == {ImplicitVRLittleEndian}
    kept = {str(each.SOPInstanceUID): each for each in cases[0].instances}
    for each in node.received:
        assert each.get("PixelData") == kept[str(each.SOPInstanceUID)].get("PixelData")


def test_a_node_that_does_not_know_a_kind_of_object_or_does_not_know_us(
    serve: Callable[..., Service], cases: list[Results]
) -> None:
    entity, taken = AE(ae_title="VNA"), []
    entity.require_called_aet = True
    entity.add_supported_context(SecondaryCaptureImageStorage)

    def store(event: evt.Event) -> int:
        taken.append(event.request.AffectedSOPInstanceUID)
        return 0

    port = free_port()
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        peer = {"kind": "dicom", "host": "127.0.0.1", "port": port}
        service = serve(vna={**peer, "aet": "VNA"}, wrong={**peer, "aet": "WRONG"})
        job_id = service.done(cases[0])
        until(lambda: service.states(job_id) == {"vna": "failed", "wrong": "waiting"})
        assert "it does not accept Segmentation Storage in Explicit VR Little Endian" in service.reason(
            job_id, "vna"
        )
        assert set(taken) == set(cases[0].uids[2:])
        until(lambda: "Called AE title not recogni" in service.reason(job_id, "wrong"))
    finally:
        server.shutdown()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tls.certificates(tmp_path_factory.mktemp("certificates"))


def test_tls_with_certificates_on_both_sides(
    serve: Callable[..., Service], cases: list[Results], node: Node, certificates: Path
) -> None:
    context = tls.server_context(certificates, ask=True)
    ours = {"certificate": certificates / "client.pem", "key": certificates / "client.key"}
    with node.up(tls=context):
        service = serve(
            good=node.peer(tls={"ca": certificates / "ca.pem", **ours}),
            untrusted=node.peer(tls={"ca": certificates / "stranger.pem", **ours}),
            anonymous=node.peer(tls={"ca": certificates / "ca.pem"}),
            missing=node.peer(tls={"ca": certificates / "nowhere.pem"}),
            clear=node.peer(),
        )
        job_id = service.done(cases[0])
        until(lambda: service.states(job_id).get("good") == "sent", service.couriers.status)
        until(
            lambda: all(
                service.reason(job_id, name) for name in ("untrusted", "anonymous", "missing", "clear")
            ),
            service.couriers.status,
        )
    assert node.uids == cases[0].uids
    assert "its certificate is not signed by an authority that is trusted here" in service.reason(
        job_id, "untrusted"
    )
    assert "nowhere.pem" in service.reason(job_id, "missing")
    assert {service.states(job_id)[name] for name in ("untrusted", "anonymous", "missing", "clear")} == {
        "waiting"
    }


KINDS = ("stow", "rest", "ris")  # DICOMweb, Orthanc's REST API, a webhook


def test_https_with_certificates_of_a_hospital_of_its_own(
    serve: Callable[..., Service],
    cases: list[Results],
    archives: list[OrthancSettings],
    hook: Webhook,
    certificates: Path,
) -> None:
    archive, context = archives[0], tls.server_context(certificates, ask=True)
    ours = {"certificate": certificates / "client.pem", "key": certificates / "client.key"}
    ca, stranger = ({"ca": certificates / f"{name}.pem"} for name in ("ca", "stranger"))
    with ExitStack() as stack:
        secure, heard = (
            stack.enter_context(tls.secured(port, context)) for port in (archive.http_port, hook.port)
        )
        misnamed = stack.enter_context(
            tls.secured(archive.http_port, tls.server_context(certificates, "elsewhere"))
        )

        def peers(name: str, keys: dict[str, Any] | None) -> dict[str, Any]:
            told = {} if keys is None else {"tls": keys}
            place = f"https://127.0.0.1:{secure}"
            return {
                f"{name}_stow": {"kind": "dicomweb", "url": f"{place}/dicom-web", **told},
                f"{name}_rest": {"kind": "orthanc", "url": place, **told},
                f"{name}_ris": hook.peer() | {"url": f"https://127.0.0.1:{heard}/isocenter", **told},
            }

        wrong = {
            **peers("untrusted", stranger | ours),
            **peers("unknown", None),
            **peers("missing", {"ca": certificates / "nowhere.pem"}),
            "misnamed": {"kind": "dicomweb", "url": f"https://127.0.0.1:{misnamed}/dicom-web", "tls": ca},
            "anonymous": {"kind": "orthanc", "url": f"https://127.0.0.1:{secure}", "tls": ca},
        }
        service = serve(**peers("good", ca | ours), **wrong)
        job_id = service.done(cases[0])
        good = [f"good_{kind}" for kind in KINDS]
        until(
            lambda: [service.states(job_id).get(each) for each in good] == ["sent"] * 3,
            service.couriers.status,
        )
        until(lambda: all(service.reason(job_id, each) for each in wrong), service.couriers.status)
        reasons = {each: service.reason(job_id, each) for each in wrong}
        service.couriers.stop()
    assert in_archive(archive, cases[0]) == in_archive(service.settings.orthanc, cases[0])
    assert [news["job_id"] for news in hook.told] == [job_id]
    for kind in KINDS:
        for name in ("untrusted", "unknown"):
            assert (
                "its certificate is not signed by an authority that is trusted" in reasons[f"{name}_{kind}"]
            )
        assert f"tls.ca {certificates}/nowhere.pem can not be read" in reasons[f"missing_{kind}"]
    assert "its certificate is not trusted: IP address mismatch" in reasons["misnamed"]


def test_tls_without_https_is_a_mistake() -> None:
    for peer in ({"kind": "dicomweb"}, {"kind": "orthanc"}, {"kind": "webhook", "secret": "s"}):
        with pytest.raises(ValueError, match="tls: url must begin with https://"):
            Settings(peers={"one": {**peer, "url": "http://there/", "tls": {}}})


def test_dcmtk_takes_it(serve: Callable[..., Service], cases: list[Results], tmp_path: Path) -> None:
    program = which("storescp")
    if program is None:
        lacking("DCMTK is not installed: apt-get install dcmtk")
    port, folder = free_port(), tmp_path / "dcmtk"
    folder.mkdir()
    process = subprocess.Popen([program, "--output-directory", str(folder), str(port)])
    try:
        service = serve(vna={"kind": "dicom", "host": "127.0.0.1", "port": port, "aet": "DCMTK"})
        all_sent(service, service.done(cases[0]))
    finally:
        process.terminate()
        process.wait(30)
    stored = [dcmread(each) for each in folder.iterdir()]
    assert {str(each.SOPInstanceUID): content(each) for each in stored} == in_archive(
        service.settings.orthanc, cases[0]
    )


_PROCESS = """
import json, sys, time
from isocenter.onward import Couriers
from isocenter.onward.courier import Patience
from isocenter.settings import Settings
Couriers(Settings(**json.loads(sys.argv[1])), Patience(first_s=0.05, longest_s=0.4)).start()
time.sleep(600)
"""


def test_a_process_that_is_killed_in_the_middle_loses_nothing(
    serve: Callable[..., Service], cases: list[Results], node: Node, hook: Webhook, folder: Path
) -> None:
    """Three times, at whatever it is doing; each instance arrives, and each study in its order."""
    node.slow_s, node.most = 0.1, 9
    peers = {
        "vna": node.peer(),
        "disk": {"kind": "folder", "path": str(folder)},
        "ris": hook.peer(),
    }
    service = serve(start=False, **peers)
    settings = {
        "data_dir": str(service.settings.data_dir),
        "orthanc": {"http_port": service.settings.orthanc.http_port},
        "peers": peers,
        "routes": [],
    }
    job_ids = [service.done(cases[0]), service.done(cases[1]), service.done(cases[2])]
    with node.up():
        for enough in (2, 5, 9):
            process = subprocess.Popen([sys.executable, "-c", _PROCESS, json.dumps(settings)], cwd=HERE)
            until(lambda enough=enough: len(node.received) >= enough, service.couriers.status)
            process.send_signal(signal.SIGKILL)
            process.wait(30)
        assert any(service.states(job_id)["vna"] != "sent" for job_id in job_ids)
        node.goes_on.set()
        service.couriers.start()
        all_sent(service, *job_ids)
        service.couriers.stop()
    assert not list((service.settings.data_dir / "onward").iterdir())  # what the killed ones had fetched

    everything = {uid for each in cases for uid in each.uids}
    assert set(node.uids) == everything
    first_times = list(dict.fromkeys(node.uids))
    of_study = [uid for uid in first_times if uid not in cases[2].uids]
    assert of_study == cases[0].uids + cases[1].uids
    assert set(files_in(folder)) == everything
    # Told again after a crash, a webhook knows it by the delivery's ID.
    assert len(set(hook.deliveries)) == 3
    of_study = [news["job_id"] for news in hook.told if news["study_uid"] == cases[0].study_uid]
    assert list(dict.fromkeys(of_study)) == job_ids[:2]


def test_superseded_before_and_after_it_was_sent(
    serve: Callable[..., Service], cases: list[Results], node: Node, folder: Path
) -> None:
    service = serve(vna=node.peer(), disk={"kind": "folder", "path": folder})
    old = service.done(cases[0], 1)
    until(lambda: service.states(old) == {"vna": "waiting", "disk": "sent"})
    until(lambda: "does not answer" in service.reason(old, "vna"))  # so it has been tried
    service.couriers.stop()  # with what is on its way to the node
    new = service.done(cases[1], 2)
    mark = cases[2]  # stands for the rejection note: what counts is that it is sent, and to whom
    service.ledger.superseded(old, new, mark.entries[:1])
    replaced = service.ledger.entry(old)
    assert replaced is not None
    assert service.outbox.post(replaced) == {"vna", "disk"}
    assert ("vna", "dropped") in [(each.destination, each.state) for each in service.outbox.of_job(old)]
    service.couriers = Couriers(service.settings, QUICK)
    service.couriers.start()
    with node.up():
        all_sent(service, new, old)
    told = [(each.destination, each.what, each.state) for each in service.outbox.of_job(old)]
    assert told == [
        ("disk", "results", "sent"),
        ("vna", "results", "dropped"),
        ("disk", "superseded", "sent"),
        ("vna", "superseded", "sent"),  # it had been tried: something of it may have arrived
    ]
    assert node.uids in ([*cases[1].uids, mark.uids[0]], [mark.uids[0], *cases[1].uids])
    assert set(files_in(folder)) == {*cases[0].uids, *cases[1].uids, mark.uids[0]}


def test_results_that_are_gone_from_the_archive(
    serve: Callable[..., Service], cases: list[Results], node: Node
) -> None:
    """Half a set is not sent: a report without its segmentation says something else."""
    gone = {**cases[0].entries[0], "sop_instance_uid": "2.25.1", "series_uid": "2.25.2"}
    with node.up():
        service = serve(vna=node.peer())
        job_id = service.done(cases[0], also=[gone])
        until(lambda: service.states(job_id) == {"vna": "failed"}, service.couriers.status)
    assert "series 2.25.2 can not be had from the archive any more" in service.reason(job_id, "vna")
    assert node.received == []


def test_an_archive_that_is_away_makes_deliveries_wait(
    cases: list[Results], node: Node, tmp_path: Path
) -> None:
    settings = Settings(
        data_dir=tmp_path, orthanc={"http_port": free_port()}, peers={"vna": node.peer()}, routes=[]
    )
    service = Service(settings)
    service.couriers.start()
    try:
        job_id = service.done(cases[0])
        until(lambda: service.states(job_id) == {"vna": "waiting"} and service.reason(job_id, "vna") != "")
        assert f"127.0.0.1:{settings.orthanc.http_port}" in service.reason(job_id, "vna")
    finally:
        service.couriers.stop()


def test_a_study_that_a_node_chokes_on_holds_up_no_other(
    serve: Callable[..., Service], cases: list[Results], node: Node
) -> None:
    """It never answers for one study, and so it looks as if it were away."""
    chokes = set(cases[0].uids)
    store = node.store

    def choke(event: evt.Event) -> int:
        return 0xA700 if event.request.AffectedSOPInstanceUID in chokes else store(event)

    node.store = choke  # type: ignore[method-assign]
    with node.up():
        service = serve(vna=node.peer())
        first = service.done(cases[0])
        until(lambda: service.reason(first, "vna") != "" if service.states(first) else False)
        behind, other = service.done(cases[1]), service.done(cases[2])
        all_sent(service, other)
        assert service.states(first) == service.states(behind) == {"vna": "waiting"}
        chokes.clear()
        all_sent(service, first, behind)
    assert node.uids == cases[2].uids + cases[0].uids + cases[1].uids


def test_given_up_after_its_time_with_the_reason(
    serve: Callable[..., Service], cases: list[Results], node: Node
) -> None:
    service = serve(start=False, vna=node.peer())
    service.couriers = Couriers(service.settings, replace(QUICK, give_up_s=0.3))
    service.couriers.start()
    job_id = service.done(cases[0])
    until(lambda: service.states(job_id) == {"vna": "failed"})
    assert "does not answer" in service.reason(job_id, "vna")
    assert "given up" in service.reason(job_id, "vna")
    with node.up():
        service.outbox.retry(job_id)
        all_sent(service, job_id)


def test_a_webhook_is_told_again_when_it_asks_to_and_not_when_it_refuses(
    serve: Callable[..., Service], cases: list[Results], hook: Webhook
) -> None:
    hook.answers = [503, 429, 0, 410, 410, 410]
    service = serve(ris=hook.peer())
    all_sent(service, service.done(cases[0]))
    assert len(hook.deliveries) == 3
    assert len(set(hook.deliveries)) == 1

    gone = service.done(cases[1])
    until(lambda: service.states(gone) == {"ris": "failed"})
    assert service.reason(gone, "ris") == (
        f"refused: http://127.0.0.1:{hook.port}/isocenter answers HTTP 410 (tried 3 times)"
    )


def test_what_a_webhook_was_told_can_not_be_repeated_as_another_delivery(
    serve: Callable[..., Service], cases: list[Results], hook: Webhook
) -> None:
    service = serve(ris=hook.peer())
    all_sent(service, service.done(cases[0]))
    ((headers, body),) = hook.requests
    names = {
        name.lower(): name
        for name in ("X-Isocenter-Timestamp", "X-Isocenter-Delivery", "X-Isocenter-Signature")
    }
    told = {names[name]: value for name, value in headers.items() if name in names}
    genuine = documented_receiver()
    assert genuine(b"a secret", told, body)
    assert not genuine(b"a secret", told | {"X-Isocenter-Delivery": "0" * 32}, body)
    another = str(int(told["X-Isocenter-Timestamp"]) - 1)
    assert not genuine(b"a secret", told | {"X-Isocenter-Timestamp": another}, body)
    assert not genuine(b"a secret", told, body.replace(b"done", b"gone"))
    assert not genuine(b"another secret", told, body)


def test_a_webhook_is_told_why_a_job_was_cancelled(
    serve: Callable[..., Service], cases: list[Results], hook: Webhook
) -> None:
    """By a real queue, which says why."""
    service = serve(ris=hook.peer())
    jobs = Jobs(service.settings)
    job_id = jobs.submit(service.spec(cases[2]))
    jobs.cancel(job_id)
    jobs.close()
    all_sent(service, job_id)
    (news,) = hook.told
    assert (news["event"], news["reason"], news["results"]) == ("cancelled", "by hand", [])


def test_a_webhook_with_another_secret_believes_nothing(
    serve: Callable[..., Service], cases: list[Results], hook: Webhook
) -> None:
    service = serve(ris=hook.peer(secret="another secret"))
    job_id = service.done(cases[0])
    until(lambda: service.states(job_id) == {"ris": "failed"})
    assert hook.told == []


def test_a_database_that_restarts_stops_no_courier(
    orthanc: OrthancSettings, cases: list[Results], node: Node, tmp_path: Path
) -> None:
    from postgres import running_postgres  # its other users have it as a plugin, which wants to be first

    with running_postgres() as server, node.up():
        settings = Settings(
            data_dir=tmp_path,
            database_url=server.new_database(),
            orthanc=orthanc,
            peers={"vna": node.peer()},
            routes=[],
        )
        service = Service(settings)
        service.couriers.start()
        try:
            all_sent(service, service.done(cases[0]))
            server.kill()
            with pytest.raises(Unavailable, match="database"):
                service.couriers.status()
            time.sleep(0.5)  # long enough for both threads to notice
            server.start()
            all_sent(service, service.done(cases[1]))
        finally:
            service.couriers.stop()
    assert node.uids == cases[0].uids + cases[1].uids


def test_a_folder_is_left_whole_and_nothing_in_it_is_written_over(
    serve: Callable[..., Service], cases: list[Results], tmp_path: Path
) -> None:
    folder, results = tmp_path / "not mounted yet", cases[0]
    service = serve(disk={"kind": "folder", "path": folder})
    job_id = service.done(results)
    until(lambda: "is not there" in (service.couriers.status()["disk"]["reason"]))
    study = folder / results.study_uid
    study.mkdir(parents=True)
    (study / f".{results.uids[0]}.part").write_bytes(b"half of it")  # as a crash leaves it
    all_sent(service, job_id)
    assert sorted(each.name for each in study.iterdir()) == sorted(f"{uid}.dcm" for uid in results.uids)

    written = (study / f"{results.uids[0]}.dcm").stat().st_mtime_ns
    again = service.done(results, 2)  # the same files once more
    all_sent(service, again)
    assert (study / f"{results.uids[0]}.dcm").stat().st_mtime_ns == written

    (study / f"{results.uids[1]}.dcm").write_bytes(b"something else")
    refused = service.done(results, 3)
    until(lambda: service.states(refused) == {"disk": "failed"})
    assert f"{results.uids[1]}: another file of this name is there" in service.reason(refused, "disk")
    assert (study / f"{results.uids[1]}.dcm").read_bytes() == b"something else"


@pytest.mark.parametrize(
    ("mode", "of_files"), [(0o700, 0o600), (0o750, 0o640), (0o2770, 0o640), (0o755, 0o644)]
)
def test_who_may_read_the_folder_may_read_what_is_put_there(
    serve: Callable[..., Service], cases: list[Results], folder: Path, mode: int, of_files: int
) -> None:
    """Under the umask that the supervisor gives to its children."""
    folder.chmod(mode)
    before = os.umask(0o077)
    try:
        service = serve(disk={"kind": "folder", "path": folder})
        all_sent(service, service.done(cases[0]))
    finally:
        os.umask(before)
    (study,) = folder.iterdir()
    assert study.stat().st_mode & 0o7777 == mode
    files = list(study.iterdir())
    assert len(files) == len(cases[0].uids)
    assert {each.stat().st_mode & 0o7777 for each in files} == {of_files}


def test_a_destination_that_peers_no_longer_names_keeps_what_waits_for_it(
    serve: Callable[..., Service], cases: list[Results], node: Node
) -> None:
    service = serve(vna=node.peer())
    spec = replace(service.spec(cases[0]), destinations=("former",))  # as its route was then
    job_id = service.done(cases[0], spec=spec)
    until(lambda: service.states(job_id) == {"former": "waiting"})
    status = service.couriers.status()
    assert (status["former"]["waiting"], status["vna"]["waiting"]) == (1, 0)
    assert "peers has no 'former'" in status["former"]["reason"]
