"""Images without the patient's identity for processing, and the results of it with the identity again.

After PS3.15, Annex E, Basic Application Level Confidentiality Profile, by a list of what is kept: the pixels and what
describes them, where they lie, how they were acquired. All else goes: private attributes, overlays, references to other
objects, and every text that a person may have typed. UIDs are replaced by keyed hashes of them, the same for the same
key, so that what belongs together stays together; only who has the key and the originals can tell which is which.

Pixels are not changed. Images with text burned into them are refused, and so are those of kinds that often have some,
where they do not say that they have none. A head's surface can still be recognised: the option that cleans it is not
claimed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue

from isocenter_operators.dicom.findings import Code
from isocenter_operators.dicom.header import coded, restamp
from isocenter_operators.dicom.retained import REPLACED_UIDS, RETAINED, RETAINED_BY_OPTION, Kept
from isocenter_operators.dicom.value import named
from isocenter_operators.errors import InputError, InvalidResult

__all__ = ["Deidentification", "Pseudonyms", "sources_with_identity", "with_identity", "without_identity"]

_PROFILE = Code("113100", "DCM", "Basic Application Confidentiality Profile")
_OPTIONS: Mapping[Kept, Code] = {  # CID 7050
    "dates": Code("113106", "DCM", "Retain Longitudinal Temporal Information Full Dates Option"),
    "patient_characteristics": Code("113108", "DCM", "Retain Patient Characteristics Option"),
}

# Of type 2, so there and empty where nothing is kept (PS3.15, E.1-1: Z).
_EMPTIED = (
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
# Free text whose meaning is needed: only that is kept, in a word of ours.
_NOTHING_GIVEN = re.compile(r"NO|NONE|N|0|N/?A|WITHOUT.*|NO (IV )?CONTRAST")
_ROUTES = (
    ("IV", re.compile(r"\bI\.?V\b|INTRA ?VEN|VEIN|VENOUS")),
    ("ORAL", re.compile(r"\bORAL|\bPO\b|RECT|ENTER")),
)

# Kinds of images that often have text burned in; of these Burned In Annotation has to say that there is none.
_OFTEN_ANNOTATED = (
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture, every kind
    "1.2.840.10008.5.1.4.1.1.6.1",  # Ultrasound
    "1.2.840.10008.5.1.4.1.1.6.2",  # Enhanced Ultrasound Volume
    "1.2.840.10008.5.1.4.1.1.3.1",  # Ultrasound, multi-frame
    "1.2.840.10008.5.1.4.1.1.77.1",  # Visible light: endoscopy, photographs
)
_FRAMES = 0x52009229  # from here on an image tells of its frames and their pixels, at length
_TEXTS = {"LO", "SH", "ST", "LT", "UC", "UT"}
_NUMBERS = {"DS": float, "IS": int}
_OURS = re.compile(r"2\.25\.[0-9]+")


@dataclass(frozen=True)
class Deidentification:
    """How a run is de-identified. `key`: the site's secret, from which the pseudonyms are made.

    keep: options of the profile (PS3.15, E.3): "dates" is Retain Longitudinal Temporal Information with Full Dates,
    "patient_characteristics" is sex, age, size and weight.
    """

    key: bytes = field(repr=False)
    keep: frozenset[Kept] = frozenset()


class Pseudonyms:
    """One run's identities: what was hidden from its graph, and how it is found again."""

    def __init__(self, how: Deidentification) -> None:
        self._how = how
        kept = RETAINED.union(REPLACED_UIDS, *(RETAINED_BY_OPTION[option] for option in how.keep))
        self._kept = {_tag(keyword): keyword for keyword in kept}
        self._real: dict[str, str] = {}  # UIDs by their pseudonyms
        self._headers: dict[str, Dataset] = {}  # of each instance, by what stands in for its Study ID
        self._of_study: dict[str, Dataset] = {}  # of any instance, by Study Instance UID

    def uid(self, real: str) -> str:
        """The UID that stands in for this one."""
        pseudonym = f"2.25.{UUID(bytes=self._hash('UID', real)[:16], version=5).int}"  # PS3.5, B.2
        self._real[pseudonym] = real
        return pseudonym

    def concealed(self, instance: Dataset) -> Dataset:
        """The instance without identity. The pixel data is the same object.

        Raises InputError where text is, or may be, burned into the pixels.
        """
        _refuse_annotated(instance)
        concealed = self._without_identity(instance)
        for keyword in _EMPTIED:
            if keyword not in concealed:
                setattr(concealed, keyword, None)
        concealed.PatientID = f"DEID-{self._hash('PatientID', str(instance.get('PatientID', ''))).hex()[:16]}"
        # The one attribute of the study that results take over as it is: by it they name the instance again.
        # Copies of one instance may be in several studies.
        instance_of_study = f"{instance.StudyInstanceUID}\n{instance.SOPInstanceUID}"
        concealed.StudyID = self._hash("StudyID", instance_of_study).hex()[:16]
        self._declare(concealed)
        concealed.file_meta = FileMetaDataset()
        concealed.file_meta.TransferSyntaxUID = instance.file_meta.TransferSyntaxUID
        concealed.file_meta.MediaStorageSOPClassUID = concealed.SOPClassUID
        concealed.file_meta.MediaStorageSOPInstanceUID = concealed.SOPInstanceUID
        header = instance[:_FRAMES]
        self._headers[concealed.StudyID] = header
        self._of_study.setdefault(str(instance.StudyInstanceUID), header)
        return concealed

    def revealed(self, result: Dataset) -> Dataset:
        """The result with the identity of what it was made from: patient, study, and every UID in it. `result` stays.

        Raises InvalidResult where it is of no study that was concealed.
        """
        revealed = Dataset()
        self._add_revealed(result, revealed)
        if hasattr(result, "file_meta"):
            revealed.file_meta = FileMetaDataset()
            self._add_revealed(result.file_meta, revealed.file_meta)
        header = self._headers.get(str(result.get("StudyID"))) or self._of_study.get(
            str(revealed.get("StudyInstanceUID"))
        )
        if header is None:
            raise InvalidResult(
                f"{result.get('SOPInstanceUID', 'a result')} is of no study that was de-identified: whose it is can "
                "not be told"
            )
        revealed.pop("LongitudinalTemporalInformationModified", None)
        restamp(revealed, header)
        return revealed

    def told(self, text: str) -> str:
        """A text for whoever looks after the service, with the UIDs that this one knows."""
        return _OURS.sub(lambda found: self._real.get(found[0], found[0]), text)

    def _hash(self, what: str, real: str) -> bytes:
        """Another one where more is kept: what is made of other images has to have other UIDs."""
        return hmac.digest(
            self._how.key, "\n".join([what, real, *sorted(self._how.keep)]).encode(), hashlib.sha256
        )

    def _without_identity(self, dataset: Dataset) -> Dataset:
        kept = Dataset()
        for element in self._elements(dataset):
            kept[element.tag] = element
        return kept

    def _elements(self, dataset: Dataset) -> Iterator[DataElement]:
        for tag in dataset.keys():  # noqa: SIM118 - iterating the dataset itself would stop at a damaged element
            keyword = self._kept.get(int(tag))
            if keyword is None:
                continue
            element = _sound(dataset, keyword)
            if element is None:
                continue
            value = self._value(keyword, element)
            kept = DataElement(element.tag, element.VR, value, validation_mode=config.IGNORE)
            kept.is_undefined_length = element.is_undefined_length
            yield kept

    def _value(self, keyword: str, element: DataElement) -> Any:
        if element.VR == "SQ":
            return [self._without_identity(item) for item in element.value]
        if keyword in REPLACED_UIDS:
            return self.uid(str(element.value)) if element.value else element.value
        if keyword == "ContrastBolusAgent":
            return _agent(str(element.value or ""))
        if keyword == "ContrastBolusRoute":
            return _route(str(element.value or ""))
        return element.value

    def _declare(self, concealed: Dataset) -> None:
        """SOP Common and Patient: what was done (PS3.3, C.7.1.1; PS3.15, E.1.1)."""
        options = [_OPTIONS[option] for option in sorted(self._how.keep)]
        concealed.PatientIdentityRemoved = "YES"
        concealed.DeidentificationMethod = "Isocenter, for processing"
        concealed.DeidentificationMethodCodeSequence = [coded(code) for code in (_PROFILE, *options)]
        concealed.LongitudinalTemporalInformationModified = (
            "UNMODIFIED" if "dates" in self._how.keep else "REMOVED"
        )

    def _add_revealed(self, dataset: Dataset, revealed: Dataset) -> None:
        for element in dataset:
            value = self._value_revealed(element)
            changed = DataElement(element.tag, element.VR, value, validation_mode=config.IGNORE)
            changed.is_undefined_length = element.is_undefined_length
            revealed[element.tag] = changed

    def _value_revealed(self, element: DataElement) -> Any:
        if element.VR == "SQ":
            return [self._item_revealed(item) for item in element.value]
        if element.VR == "UI" and element.value:
            return _each(element.value, lambda uid: self._real.get(uid, uid))
        if element.VR in _TEXTS and element.value and "2.25." in str(element.value):
            return _each(element.value, self.told)
        return element.value

    def _item_revealed(self, item: Dataset) -> Dataset:
        revealed = Dataset()
        self._add_revealed(item, revealed)
        return revealed


def without_identity(instances: Sequence[Dataset], pseudonyms: Pseudonyms | None) -> Sequence[Dataset]:
    """The instances under pseudonyms, where there are some. Raises InputError as `concealed` does."""
    return instances if pseudonyms is None else [pseudonyms.concealed(each) for each in instances]


def with_identity(
    batches: Iterable[Sequence[Dataset]], pseudonyms: Pseudonyms | None
) -> Iterable[Sequence[Dataset]]:
    """The results with what was hidden under pseudonyms, where there were some. Raises InvalidResult."""
    if pseudonyms is None:
        return batches
    return [[pseudonyms.revealed(each) for each in batch] for batch in batches]


def sources_with_identity(
    sources: Mapping[str, Dataset], pseudonyms: Pseudonyms | None
) -> Mapping[str, Dataset]:
    """The images that results are about, by the SOP Instance UIDs that the results with their identity refer to."""
    if pseudonyms is None:
        return sources
    revealed = [pseudonyms.revealed(each) for each in sources.values()]
    return {str(each.SOPInstanceUID): each for each in revealed}


def _each(value: Any, change: Callable[[str], str]) -> Any:
    return [change(str(one)) for one in value] if isinstance(value, MultiValue) else change(str(value))


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is no keyword of PS3.6")
    return tag


def _refuse_annotated(instance: Dataset) -> None:
    said = str(instance.get("BurnedInAnnotation") or "")
    sop_class = str(instance.SOPClassUID)
    often = any(sop_class == each or sop_class.startswith(f"{each}.") for each in _OFTEN_ANNOTATED)
    if said == "YES":
        reason = "says that text is burned into its pixels"
    elif often and said != "NO":
        reason = "is of a kind that often has text burned into its pixels, and does not say that it has none"
    else:
        return
    raise InputError(
        f"{named(instance)}: {reason} (Burned In Annotation), so it can not be de-identified; a route without "
        "`deidentify` would process it",
        series_uid=str(instance.SeriesInstanceUID),
    )


def _sound(dataset: Dataset, keyword: str) -> DataElement | None:
    """The element; None where it is not what its VR promises: in a damaged file it may be another attribute's value."""
    try:
        element = dataset[keyword]
        numeric = _NUMBERS.get(element.VR)
        if numeric is not None:
            for value in _values(element.value):
                numeric(value)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - it is as if it were not there; what needs it will say that it is missing
        return None
    return element if element.VR in _vrs(keyword) else None


def _values(value: Any) -> Iterable[Any]:
    if value is None or value == "":
        return ()
    return value if isinstance(value, MultiValue | list) else (value,)


def _vrs(keyword: str) -> set[str]:
    """(PS3.6): several where the pixels decide."""
    vrs = set(dictionary_VR(keyword).split(" or "))
    return vrs | {"OB", "OW"} if "OW" in vrs else vrs


def _agent(said: str) -> str:
    return "NONE" if _NOTHING_GIVEN.fullmatch(said.strip().upper()) else "CONTRAST" if said.strip() else ""


def _route(said: str) -> str:
    return next((word for word, pattern in _ROUTES if pattern.search(said.upper())), "")
