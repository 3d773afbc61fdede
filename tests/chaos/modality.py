"""What scanners do: small CT studies, sent in many ways, again and again until the archive has every image."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Literal

import httpx
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian
from pynetdicom import AE

from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.errors import IsocenterError
from isocenter_operators.testing import Phantom, as_datasets

__all__ = ["KINDS", "LATE_KINDS", "Analysed", "Archive", "Kind", "Study", "study"]

Kind = Literal[
    "plain",
    "stow",
    "shuffled",
    "twice",
    "late",
    "late series",
    "pair",
    "deleted",
    "stat",
    "urgent",
    "batch",
    "poison",
]
KINDS: tuple[Kind, ...] = (
    "late", "late series", "deleted", "plain", "stow", "shuffled", "twice", "pair", "stat", "urgent", "batch", "poison",
)  # fmt: skip
LATE_KINDS: frozenset[Kind] = frozenset({"late", "late series", "deleted"})  # sent in two parts

# Pixels. Orthanc does not notice that a file of less than 4 KB, its stream's buffer, finds no room on a full disk: it
# acknowledges the image and keeps an empty file. No service can mend that, so images here are larger, as real ones are.
_SIDE = 72
_PAUSE_S = 0.5  # before an archive that did not take an image is asked again
_SEND_WITHIN_S = 300.0
_HASTY = {"late": 1, "late series": 2, "deleted": 3}  # which of four of a kind
_ANALYSED_WITHIN_S = 180.0


@dataclass(frozen=True)
class Study:
    """One study: how it is sent, and its series, each a list of images in the order of Z."""

    kind: Kind
    series: tuple[tuple[Dataset, ...], ...]
    hasty: bool = False  # what comes later does not wait until the study has been analysed

    @property
    def uid(self) -> str:
        return str(self.series[0][0].StudyInstanceUID)

    @property
    def images(self) -> list[Dataset]:
        return [image for each in self.series for image in each]

    @property
    def expected(self) -> set[tuple[str, frozenset[str]]]:
        """What has to be in the archive in the end: an application, and the images that its results are made from."""
        sets = [frozenset(str(image.SOPInstanceUID) for image in each) for each in self.series]
        wanted = {("plain", each) for each in sets} | {("modelled", sets[0])}
        if self.kind in ("pair", "late series"):
            wanted.add(("pair", frozenset().union(*sets)))
        return wanted


def study(kind: Kind, number: int, rng: random.Random, run: str) -> Study:
    """The study of this number. Every third one is of the same patient as the one before."""
    how_many = 2 if kind in ("pair", "late series") else 1
    described = {"late series": "pair"}.get(kind, kind)
    series = []
    for series_number in range(1, how_many + 1):
        images = as_datasets(
            _ball(rng.randint(6, 20), f"{run}/{number}"),
            uid_seed=f"{run}/{number}",
            series_number=series_number,
        )
        for image in images:
            image.PatientID = f"CHAOS-{number - (number % 3 == 2)}"
            image.PatientName = f"Chaos^{number - (number % 3 == 2)}"
            image.StudyDescription = f"{described} study"
        series.append(tuple(images))
    return Study(kind, tuple(series), hasty=(number // len(KINDS)) % 4 == _HASTY.get(kind))


def _ball(slices: int, key: str) -> Phantom:
    """A ball of 40 HU in air; each slice shows some of both."""
    z, y, x = np.ogrid[:slices, :_SIDE, :_SIDE]
    middle = _SIDE / 2
    ball = (x - middle) ** 2 + (y - middle) ** 2 + (z - slices / 2) ** 2 / slices < (_SIDE / 3) ** 2
    hu = np.where(ball, 40, -1000).astype(np.int16)
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    return Phantom(hu, affine, "CHEST", digest=f"ball/{key}")


@dataclass(frozen=True)
class Analysed:
    """A study that had results of this application, by this job, before the rest of it was sent."""

    study: Study
    application: str
    job_id: str


@dataclass
class Archive:
    """The archive as scanners see it. What it does not take is sent again."""

    url: str
    dicom_port: int
    done: Callable[
        [str, str], str | None
    ]  # the job that is done of a study (its UID) and an application, if any is
    refused: int = 0  # sendings that had to be repeated
    sent: set[str] = field(default_factory=set)  # SOP Instance UIDs that were acknowledged
    analysed: list[Analysed] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)  # nothing is tried again

    def send(self, study: Study, rng: random.Random) -> None:
        """Send the study in the way of its kind. Returns when the archive has acknowledged every image."""
        images = study.images
        match study.kind:
            case "stow":
                self._stow(images)
            case "shuffled":
                rng.shuffle(images)
                half = len(images) // 2
                with ThreadPoolExecutor(2) as two:
                    for each in [two.submit(self._store, part) for part in (images[:half], images[half:])]:
                        each.result()
            case "twice":
                self._store(images)
                time.sleep(rng.uniform(0, 3))
                self._store(images)
            case "late":
                held_back = rng.randint(1, 3)
                self._store(images[:-held_back])
                self._wait_for_results(study, "plain")
                self._store(images[-held_back:])
            case "late series":
                self._store(study.series[0])
                self._wait_for_results(study, "pair")
                self._store(study.series[1])
            case "deleted":
                self._store(images)
                self._wait_for_results(study, "plain")
                self._delete_series(str(images[0].SeriesInstanceUID))
                time.sleep(rng.uniform(0, 2))
                self._store(images)
            case _:
                self._store(images)

    def _wait_for_results(self, study: Study, application: str) -> None:
        """Mostly until it has been analysed; of a hasty study, until the middle of that."""
        give_up = time.monotonic() + (1.5 if study.hasty else _ANALYSED_WITHIN_S)
        while time.monotonic() < give_up and not self.over.is_set():
            job_id = self.done(study.uid, application)
            if job_id is not None:
                self.analysed.append(Analysed(study, application, job_id))
                return
            time.sleep(0.3)

    def _store(self, images: Sequence[Dataset]) -> None:
        """C-STORE, on a new association after each trouble."""
        left = list(images)
        give_up = time.monotonic() + _SEND_WITHIN_S
        while left:
            entity = AE(ae_title="SCANNER")
            entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = (
                entity.network_timeout
            ) = 10
            entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
            association = entity.associate("127.0.0.1", self.dicom_port)
            try:
                while left and association.is_established:
                    status = association.send_c_store(left[0])
                    if "Status" not in status or status.Status != 0:
                        break
                    self.sent.add(str(left.pop(0).SOPInstanceUID))
            except RuntimeError:
                pass  # the association ended a moment ago
            finally:
                if association.is_established:
                    association.release()
            if left:
                self._refused(give_up)

    def _stow(self, images: Sequence[Dataset]) -> None:
        give_up = time.monotonic() + _SEND_WITHIN_S
        while True:
            try:
                with DICOMwebClient(f"{self.url}/dicom-web", timeout_s=10) as client:
                    client.store(images)
            except IsocenterError:
                self._refused(give_up)
            else:
                self.sent.update(str(image.SOPInstanceUID) for image in images)
                return

    def _delete_series(self, series_uid: str) -> None:
        give_up = time.monotonic() + _SEND_WITHIN_S
        while True:
            try:
                found = httpx.post(
                    f"{self.url}/tools/lookup", content=series_uid, timeout=10, trust_env=False
                )
                for each in found.raise_for_status().json():
                    if each["Type"] == "Series":
                        deleted = httpx.delete(f"{self.url}{each['Path']}", timeout=10, trust_env=False)
                        assert deleted.status_code in (200, 404), deleted.text
            except httpx.HTTPError:
                self._refused(give_up)
            else:
                return

    def _refused(self, give_up: float) -> None:
        """Before it is tried again."""
        self.refused += 1
        assert not self.over.is_set(), "the run is over"
        assert time.monotonic() < give_up, "the archive does not take images any more"
        time.sleep(_PAUSE_S)
