"""Priors in a DICOM node: C-_FIND, then C-GET or C-MOVE (PS3.4, C), in the Study Root model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from pynetdicom import build_context, sop_class
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from isocenter.peer import DICOMPeer
from isocenter.priors.inbox import Inbox
from isocenter.priors.patience import Waiting
from isocenter.priors.patient import Attributes, Patient
from isocenter.priors.transport import associated, listening, watched
from isocenter.rules import attributes_of
from isocenter_operators.errors import ArchiveUnavailable, InputError

__all__ = ["DICOMNode"]

_OF_STUDY = (
    "PatientID", "IssuerOfPatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "StudyTime",
    "NumberOfStudyRelatedInstances", "SOPClassesInStudy",
)  # fmt: skip
_OF_SERIES = (
    "SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "BodyPartExamined", "Laterality",
    "NumberOfSeriesRelatedInstances",
)  # fmt: skip
_FIND = sop_class.StudyRootQueryRetrieveInformationModelFind
_GET = sop_class.StudyRootQueryRetrieveInformationModelGet
_MOVE = sop_class.StudyRootQueryRetrieveInformationModelMove
_CONTEXTS = 127  # of one association, beside that of C-GET (PS3.8, 9.3.2.2)
# PS3.4, C.4.2.1.5: all done, some failed, all failed; those that failed are counted by who looks at what arrived.
_ENDED = (0x0000, 0xB000, 0xA702)
_UNCOMPRESSED = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
# What is offered to a node that does not tell what a study holds: 20 classes in 6 ways.
_COMMON = (
    sop_class.CTImageStorage,
    sop_class.EnhancedCTImageStorage,
    sop_class.MRImageStorage,
    sop_class.EnhancedMRImageStorage,
    sop_class.ComputedRadiographyImageStorage,
    sop_class.DigitalXRayImageStorageForPresentation,
    sop_class.DigitalMammographyXRayImageStorageForPresentation,
    sop_class.BreastTomosynthesisImageStorage,
    sop_class.UltrasoundImageStorage,
    sop_class.UltrasoundMultiFrameImageStorage,
    sop_class.XRayAngiographicImageStorage,
    sop_class.XRayRadiofluoroscopicImageStorage,
    sop_class.PositronEmissionTomographyImageStorage,
    sop_class.NuclearMedicineImageStorage,
    sop_class.SecondaryCaptureImageStorage,
    sop_class.SegmentationStorage,
    sop_class.ComprehensiveSRStorage,
    sop_class.EnhancedSRStorage,
    sop_class.RTStructureSetStorage,
    sop_class.RTDoseStorage,
)
_COMPRESSED = (JPEGLosslessSV1, JPEG2000Lossless, JPEGLSLossless, JPEGBaseline8Bit, RLELossless)


class DICOMNode:
    """One node. Every call raises ArchiveUnavailable when it is away, InputError when it refuses what is asked."""

    def __init__(self, name: str, peer: DICOMPeer, aet: str, waiting: Waiting) -> None:
        self.name = name  # as a note names it
        self._peer = peer
        self._aet = aet
        self._waiting = waiting
        self._sop_classes: dict[str, list[str]] = {}  # by study, where the node tells

    def studies(self, patient: Patient, oldest: date | None, newest: date) -> list[Attributes]:
        """The studies with this patient's ID, of these days. Whose they really are is for the caller to see."""
        asked = _query("STUDY", _OF_STUDY)
        asked.SpecificCharacterSet = "ISO_IR 192" if not patient.id.isascii() else ""
        asked.PatientID = patient.id
        asked.IssuerOfPatientID = ""  # matching on it would lose every study that does not name it
        asked.StudyDate = f"{oldest:%Y%m%d}-{newest:%Y%m%d}" if oldest else f"-{newest:%Y%m%d}"
        found = self._find(asked)
        for study in found:
            told = str(study.get("SOPClassesInStudy", ""))
            self._sop_classes[str(study.get("StudyInstanceUID"))] = [
                each for each in told.split("\\") if each
            ]
        return found

    def series(self, study_uid: str) -> list[Attributes]:
        """The series of a study."""
        asked = _query("SERIES", _OF_SERIES)
        asked.StudyInstanceUID = study_uid
        return self._find(asked)

    def retrieve(self, study_uid: str, series_uid: str, folder: Path) -> int:
        """Bring the series' instances into the folder, as they are sent; returns how many the node says there are."""
        asked = Dataset()
        asked.QueryRetrieveLevel = "SERIES"
        asked.StudyInstanceUID = study_uid
        asked.SeriesInstanceUID = series_uid
        inbox = Inbox(folder, study_uid, series_uid)
        retrieve = self._peer.retrieve
        if retrieve.method == "get":
            contexts = [build_context(_GET), *_storage_contexts(self._sop_classes.get(study_uid) or [])]
            with associated(self._peer, self._aet, contexts, self._waiting, inbox) as association:
                told = self._told(association, inbox, association.send_c_get(asked, _GET))
        else:
            with (
                listening(self._peer, retrieve, inbox, self._waiting),
                associated(
                    self._peer, self._aet, [build_context(_MOVE)], self._waiting, inbox
                ) as association,
            ):
                told = self._told(association, inbox, association.send_c_move(asked, retrieve.aet, _MOVE))
        inbox.refuse_full()
        return told

    def _find(self, asked: Dataset) -> list[Attributes]:
        found: list[Attributes] = []
        with associated(self._peer, self._aet, [build_context(_FIND)], self._waiting) as association:
            for status, answer in association.send_c_find(asked, _FIND):
                if "Status" not in status:
                    raise ArchiveUnavailable(f"{self.name} stopped answering in the middle of a search")
                if status.Status in (0xFF00, 0xFF01):  # PS3.4, C.4.1.1.4
                    if answer is None:
                        raise InputError(f"{self.name} gave an answer to C-FIND that can not be read")
                    found.append(attributes_of(answer))
                elif status.Status != 0:
                    self._refuse("C-FIND", status.Status)
        return found

    def _told(
        self, association: Association, inbox: Inbox, responses: Iterator[tuple[Dataset, Dataset | None]]
    ) -> int:
        """How many sub-operations there were, done or failed (PS3.4, C.4.2.1 and C.4.3.1)."""
        with watched(association, inbox, self._waiting):
            for status, _ in responses:
                if "Status" not in status:
                    raise ArchiveUnavailable(f"{self.name} stopped sending in the middle of a series")
                inbox.beat()
                if status.Status == 0xFF00:
                    continue
                if status.Status not in _ENDED:
                    self._refuse(f"C-{self._peer.retrieve.method.upper()}", status.Status)
                return sum(
                    int(status.get(f"NumberOf{kind}Suboperations") or 0)
                    for kind in ("Completed", "Failed", "Warning")
                )
        return 0

    def _refuse(self, service: str, status: int) -> None:
        said = f"{self.name} refused {service} with status 0x{status:04X}"
        if 0xA700 <= status <= 0xA7FF:
            raise ArchiveUnavailable(f"{said}: it is out of resources")
        if status == 0xA801:  # PS3.4, C.4.2.1.5
            raise InputError(f"{said}: it does not know {self._peer.retrieve.aet}, where it is to send to")
        raise InputError(said)


def _query(level: str, keywords: Sequence[str]) -> Dataset:
    asked = Dataset()
    asked.QueryRetrieveLevel = level
    for keyword in keywords:
        setattr(asked, keyword, None if keyword.startswith("NumberOf") else "")
    return asked


def _storage_contexts(sop_classes: Sequence[str]) -> list[PresentationContext]:
    """What may arrive by C-GET, each transfer syntax by itself, so that nothing must be transcoded to fit."""
    classes = list(sop_classes) or list(_COMMON)
    contexts = [build_context(uid, _UNCOMPRESSED) for uid in classes]
    contexts += [build_context(uid, syntax) for syntax in _COMPRESSED for uid in classes]
    return contexts[:_CONTEXTS]
