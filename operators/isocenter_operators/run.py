"""What one run of an application is given, what it notes down, and what it answers."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from isocenter_operators.dicom.findings import Findings
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.dicomweb.credentials import Credentials
from isocenter_operators.form import AS_SOURCE, ResultForm
from isocenter_operators.inference.client import InferenceClient

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from isocenter_operators.dicom.deidentify import Deidentification
    from isocenter_operators.inference.endpoint import Endpoint

__all__ = ["GROUP_KEYS", "Archive", "Folder", "Outcome", "Record", "Run", "StoredInstance"]

# What a group of an outcome says besides its measurements; one whose name is among these stands below "measurements".
GROUP_KEYS = frozenset({"label", "notes", "box", "measurements"})


@dataclass(frozen=True)
class Folder:
    """A folder of DICOM files, as a source; as a sink, where results are written."""

    path: Path


@dataclass(frozen=True)
class Archive:
    """A DICOMweb archive. As a source it names the study and the series to read; as a sink, only where to store."""

    dicomweb_url: str
    study_uid: str = ""
    series_uids: tuple[str, ...] = ()  # empty: every series of the study
    credentials: Credentials | None = None
    tls: ssl.SSLContext | None = None  # for https; None: the authorities that everybody believes


@dataclass(frozen=True)
class StoredInstance:
    """One result as it was stored."""

    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    study_uid: str
    modality: str
    path: Path | None = None  # where it lies, when the sink is a folder


@dataclass(frozen=True)
class Run:
    """One run: where the images come from, where results go, who infers."""

    source: Folder | Archive
    sink: Folder | Archive
    triton_url: str | Endpoint = "127.0.0.1:8001"  # host:port of the gRPC endpoint
    inference: InferenceClient | None = None  # an open client to use instead of connecting to triton_url
    created: datetime = field(default_factory=lambda: datetime.now(UTC))  # dates the results
    deadline_s: float = 300.0  # for each call of a model
    rejected: Path | None = None  # where results that fail their check are kept
    # The instances this run is for: a source that finds another set refuses. None: whatever is there.
    sop_instance_uids: frozenset[str] | None = None
    form: ResultForm = AS_SOURCE  # in which results are written
    deidentification: Deidentification | None = (
        None  # of all that the graph sees; None: it sees who the patient is
    )
    priority: int = 0  # in the inference server's queue: 1 is served first, 0 is the server's default
    priors: tuple[Folder | Archive, ...] = ()  # earlier studies of the same patient, newest first
    notes: tuple[str, ...] = ()  # what a person should know of how this run came about
    # Which versions of the application and its models this is, and their weights, where whoever asks for it knows.
    algorithm: Algorithm | None = None
    predecessors: tuple[StoredInstance, ...] = ()  # earlier results that those of this run replace
    # Called as each step begins; raises Cancelled when nobody wants the result any more.
    checkpoint: Callable[[], None] | None = None
    # Called with everything that is about to be stored, once; raises Cancelled.
    before_store: Callable[[Sequence[StoredInstance]], None] | None = None
    # Called with the same once the archive has answered, or may yet do what it was asked.
    after_store: Callable[[Sequence[StoredInstance]], None] | None = None

    @classmethod
    def from_environment(cls, *, deadline_s: float = 300.0) -> Run:
        """The environment of a MONAI Application Package: HOLOSCAN_INPUT_PATH and its kin."""
        env = os.environ
        return cls(
            source=Folder(Path(env.get("HOLOSCAN_INPUT_PATH", "input"))),
            sink=Folder(Path(env.get("HOLOSCAN_OUTPUT_PATH", "output"))),
            triton_url=env.get("TRITON_SERVER_NETLOC", "127.0.0.1:8001"),
            deadline_s=deadline_s,
        )

    def without_identity(self) -> Run:
        """What a graph may know of a run that is de-identified: nothing that leads to the images or the results."""
        return replace(
            self,
            source=Folder(Path()),
            sink=Folder(Path()),
            deidentification=None,
            sop_instance_uids=None,
            priors=(),
            notes=(),
            predecessors=(),
            before_store=None,
            after_store=None,
        )


@dataclass(frozen=True)
class Outcome:
    """How a run ended. A run that fails raises an IsocenterError instead."""

    status: Literal["done", "not_applicable"]
    reason: str  # why not applicable; "" when done
    groups: tuple[
        Mapping[str, Any], ...
    ]  # per region: {"label": ..., "notes": [...], measurement name: value}; see `GROUP_KEYS` for names that are taken,
    # and `Application.execute` for a box's
    notes: tuple[str, ...]
    results: tuple[StoredInstance, ...]
    seconds: Mapping[str, float]  # where the time went: {"fetch": 0.5, ...}


class Record:
    """What the operators of one run note down: findings, stored results, and where the time went.

    notes: what a person should know of the run that is no finding in the patient, so stands in no result.
    algorithm, predecessors: as in the `Run`, for those who ask models and write results.
    priors: the headers of the earlier images that were read.
    sources: the images that results were written about, by their SOP Instance UID.
    instances: all that the run is for, where it was told; results' UIDs follow from them, used or not.
    """

    def __init__(
        self,
        checkpoint: Callable[[], None] | None = None,
        notes: Sequence[str] = (),
        *,
        algorithm: Algorithm | None = None,
        predecessors: Sequence[StoredInstance] = (),
        instances: Iterable[str] | None = None,
    ) -> None:
        self._checkpoint = checkpoint
        self.findings = Findings(groups=())
        self.notes: list[str] = list(notes)
        self.algorithm = algorithm
        self.predecessors = tuple(predecessors)
        self.instances = None if instances is None else frozenset(instances)
        self.priors: list[Dataset] = []
        self.sources: dict[str, Dataset] = {}
        self.results: list[StoredInstance] = []
        self.seconds: dict[str, float] = {}

    def version_of(self, model: str) -> str:
        """The version of `model` that this run is to use; "" where that is not said."""
        return "" if self.algorithm is None else self.algorithm.models.get(model, "")

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add the time spent inside to the step of this name. Raises Cancelled before it begins."""
        if self._checkpoint is not None:
            self._checkpoint()
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
