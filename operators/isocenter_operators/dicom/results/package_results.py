"""What a MONAI Application Package wrote, made a result as any other: of this patient, with UIDs that follow from the
job, and with the package named in it.

A package makes up new UIDs each time that it runs. An archive that was sent its results twice, because something died
in between, would show two. So the UIDs of its objects and their series are replaced by those that the job's identity
gives, and every reference from one of its objects to another with them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from typing import Any

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from isocenter_operators.dicom.findings import Code
from isocenter_operators.dicom.header import coded
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.person_name import same_name
from isocenter_operators.errors import InvalidResult

__all__ = ["as_results"]

_OF_THE_RUN = ("DA", "TM", "DT")


def as_results(
    written: Sequence[tuple[str, Dataset]],
    sources: Mapping[str, Dataset],
    *,
    identity: JobIdentity,
    algorithm: Algorithm,
    digest: str,
    disclaimer: str,
) -> list[Dataset]:
    """The objects as they are stored.

    written: each with the name of its file. sources: the images that the package was given, by SOP Instance UID.
    digest: of its image, `sha256:...`.

    Raises InvalidResult for an object of another patient or study, or with the UID of an image that it was given.
    """
    for name, dataset in written:
        _refuse_strange(name, dataset, sources)
    ordered = [dataset for _, dataset in sorted(written, key=lambda each: _place(each[0], each[1], sources))]
    uids = _uids(ordered, identity)
    for dataset in ordered:
        _replace(dataset, uids)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        _name_maker(dataset, algorithm, digest, disclaimer)
    return ordered


def _refuse_strange(name: str, dataset: Dataset, sources: Mapping[str, Dataset]) -> None:
    uid = str(dataset.get("SOPInstanceUID", ""))
    if not uid or not dataset.get("SeriesInstanceUID"):
        raise InvalidResult(f"{name}: an object without a SOP or Series Instance UID")
    if uid in sources:
        raise InvalidResult(
            f"{name}: it is image {uid}, which the package was given: an archive would take it for that"
        )
    if str(dataset.SeriesInstanceUID) in {str(source.SeriesInstanceUID) for source in sources.values()}:
        raise InvalidResult(
            f"{name}: it says that it belongs to a series of images that the package was given"
        )
    studies = {str(source.StudyInstanceUID) for source in sources.values()}
    if str(dataset.get("StudyInstanceUID", "")) not in studies:
        raise InvalidResult(f"{name}: it is of another study than the images that the package was given")
    patients = {str(source.get("PatientID", "")) for source in sources.values()}
    if str(dataset.get("PatientID", "")) not in patients:
        raise InvalidResult(f"{name}: it has another Patient ID than the images that the package was given")
    named = {str(source.get("PatientName") or "") for source in sources.values()}
    if not any(same_name(dataset.get("PatientName"), each) for each in named):
        raise InvalidResult(
            f"{name}: it has another Patient's Name than the images that the package was given"
        )


def _place(name: str, dataset: Dataset, sources: Collection[str]) -> tuple[Any, ...]:
    """The same for the same object of another run, though its UIDs and perhaps its file's name are others."""
    content = sha256()
    _add_content(content, dataset, sources)
    return (
        str(dataset.get("SOPClassUID", "")),
        str(dataset.get("SeriesDescription", "")),
        _number(dataset.get("SeriesNumber")),
        _number(dataset.get("InstanceNumber")),
        content.digest(),
        name,
    )


def _add_content(content: Any, dataset: Dataset, sources: Collection[str]) -> None:
    """What it says, but for what each run makes anew: times, and UIDs that are none of the images'."""
    for element in dataset:
        value = element.value
        if element.VR in _OF_THE_RUN or (element.VR == "UI" and str(value) not in sources):
            continue
        content.update(f"{element.tag} ".encode())
        if element.VR == "SQ":
            for item in value:
                content.update(b"item ")
                _add_content(content, item, sources)
        else:
            content.update(value if isinstance(value, bytes) else str(value).encode("utf-8", "replace"))


def _number(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        return 0


def _uids(ordered: Sequence[Dataset], identity: JobIdentity) -> dict[str, str]:
    """By the UIDs that the package made up."""
    uids: dict[str, str] = {}
    series: dict[str, str] = {}
    for number, dataset in enumerate(ordered, start=1):
        own, of_series = str(dataset.SOPInstanceUID), str(dataset.SeriesInstanceUID)
        if own in uids:
            raise InvalidResult(f"two objects have the SOP Instance UID {own}")
        uids[own] = identity.uid(f"package.{number}")
        series.setdefault(of_series, identity.uid(f"package.series.{len(series) + 1}"))
    return {**uids, **series}


def _replace(dataset: Dataset, uids: Mapping[str, str]) -> None:
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                _replace(item, uids)
        elif element.VR == "UI" and element.value:
            if isinstance(element.value, MultiValue):
                element.value = [uids.get(str(each), str(each)) for each in element.value]
            else:
                element.value = uids.get(str(element.value), str(element.value))


def _name_maker(dataset: Dataset, algorithm: Algorithm, digest: str, disclaimer: str) -> None:
    """Contributing Equipment (PS3.3, C.12.1): the package, beside those that the object names already."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [coded(Code("109102", "DCM", "Processing Equipment"))]  # CID 7005
    item.Manufacturer = algorithm.manufacturer[:64]
    item.ManufacturerModelName = algorithm.name
    item.SoftwareVersions = algorithm.version[:64]
    item.DeviceUID = algorithm.device_uid
    item.ContributionDescription = f"MONAI Application Package, image {digest}. {disclaimer}"[:1024]
    dataset.ContributingEquipmentSequence = [*(dataset.get("ContributingEquipmentSequence") or ()), item]
