"""A note that results are superseded: a Key Object Selection Document (PS3.3, A.35.4) that rejects them.

Archives and viewers that follow IHE Radiology's Imaging Object Change Management stop showing what it rejects; for all
others it is a document in the study that says so in plain words.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import datetime

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset

from isocenter_operators.dicom.header import DISCLAIMER, PATIENT_AND_STUDY, stamp
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.observer import device_observer
from isocenter_operators.errors import InvalidResult

__all__ = ["rejection_identity", "rejection_note", "without_equipment"]

# CID 7011 Rejected for Quality Reasons has reasons for a Document Title Modifier (113011), such as a detector's
# artifacts or a failure; none of them is true of a result that was right for the images there were. TID 2010 asks
# for none, so the title stands alone and the text says why.
_TITLE = CodedConcept("113001", "DCM", "Rejected for Quality Reasons")  # CID 7010
_SERIES_NUMBER = 9900
_DOCUMENTS = (
    "1.2.840.10008.5.1.4.1.1.88.",
    "1.2.840.10008.5.1.4.1.1.104.",
    "1.2.840.10008.5.1.4.1.1.481.3",
    "1.2.840.10008.5.1.4.1.1.11.",
)  # SR; encapsulated; structure sets; presentation states: without pixels
_REFERENCE = ("sop_class_uid", "sop_instance_uid", "series_uid", "study_uid")
_FUNCTIONAL_GROUPS = 0x52009229  # from here on an image tells of its frames, at length
_EQUIPMENT = ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceSerialNumber")


def rejection_identity(old_job: str, new_job: str, created: datetime) -> JobIdentity:
    """What the note's UIDs derive from: the job whose results it rejects, and the one that replaces them.

    Its UIDs are `uid("ko")` and `uid("ko.series")`.
    """
    digest = hashlib.sha256(f"rejection\n{old_job}\n{new_job}".encode()).hexdigest()
    return JobIdentity(digest, created)


def rejection_note(
    *,
    rejected: Sequence[Mapping[str, str]],
    header: Dataset,
    application: str,
    old_job: str,
    new_job: str,
    algorithm: Algorithm,
    created: datetime,
    replaced: bool = True,
    text: str = "",
) -> KeyObjectSelectionDocument:
    """The note that `rejected` are superseded: the same bytes for the same arguments.

    rejected: per instance its `sop_class_uid`, `sop_instance_uid`, `series_uid` and `study_uid`.
    header: one of them, or another object of the study, whose patient and study the note takes over.
    algorithm: who says so; `application` is whose results they are.
    replaced: False when the newer job found its images to be none for the application, so that it has no results.
    text: what is said of it, where something else than results is rejected.

    Raises InvalidResult where there is nothing to reject, or not of the header's study alone.
    """
    references = [_reference(each) for each in rejected]
    if not references:
        raise InvalidResult("a rejection note has to reject something")
    if {each.StudyInstanceUID for each in references} != {header.StudyInstanceUID}:
        raise InvalidResult(
            f"a rejection note is for one study; {header.StudyInstanceUID} is not the only one"
        )
    for keyword in PATIENT_AND_STUDY:
        setattr(references[0], keyword, None)
    identity = rejection_identity(old_job, new_job, created)
    text = text or _text(application, old_job, new_job, replaced)
    description = f"Superseded: {application}"[:64]
    note = KeyObjectSelectionDocument(
        evidence=references,
        content=KeyObjectSelection(
            document_title=_TITLE,
            referenced_objects=references,
            observer_device_context=device_observer(algorithm),
            description=text,
        ),
        series_instance_uid=identity.uid("ko.series"),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=identity.uid("ko"),
        instance_number=1,
        manufacturer=algorithm.manufacturer,
        series_description=description,
    )
    stamp(
        note,
        source=without_equipment(header),
        algorithm=algorithm,
        identity=identity,
        disclaimer=DISCLAIMER,
        texts=[text, description],
    )
    del note.ContentQualification  # of images and reports; this IOD has none
    return note


def _text(application: str, old_job: str, new_job: str, replaced: bool) -> str:
    superseded = f"Superseded, do not use: results of {application}, job {old_job[:12]}."
    if replaced:
        return (
            f"{superseded} Newer results of {application}, on a newer set of images, replace them: "
            f"job {new_job[:12]}."
        )
    return (
        f"{superseded} {application} has looked at a newer set of images since, and is not applicable to it "
        f"(job {new_job[:12]}), so no results replace these."
    )


def _reference(instance: Mapping[str, str]) -> Dataset:
    """As much of an instance as a reference to it needs."""
    missing = [name for name in _REFERENCE if not instance.get(name)]
    if missing:
        raise InvalidResult(f"a result without {missing[0]} can not be rejected")
    reference = Dataset()
    reference.SOPClassUID = instance["sop_class_uid"]
    reference.SOPInstanceUID = instance["sop_instance_uid"]
    reference.SeriesInstanceUID = instance["series_uid"]
    reference.StudyInstanceUID = instance["study_uid"]
    if not instance["sop_class_uid"].startswith(_DOCUMENTS):
        reference.Rows = reference.Columns = 1  # by which highdicom knows an image
    return reference


def without_equipment(header: Dataset) -> Dataset:
    """The header without who made it: no scanner, and no application, has contributed to the note."""
    without = header[:_FUNCTIONAL_GROUPS]
    for keyword in _EQUIPMENT:
        if keyword in without:
            del without[keyword]
    return without
