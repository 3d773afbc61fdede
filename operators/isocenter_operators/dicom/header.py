"""What every result takes over from its source images, and what it says about its maker.

Real headers are not always valid. The patient and the study are copied as they are, because an archive merges by them;
an attribute that would make the result invalid is left out, or left empty where it has to be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from pydicom import charset, config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence
from pydicom.tag import BaseTag
from pydicom.uid import UID
from pydicom.valuerep import validate_value

from isocenter_operators.dicom.findings import Code
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.unicode import in_unicode
from isocenter_operators.errors import InputError, UnreadableInput

if TYPE_CHECKING:
    from highdicom import SOPClass  # which takes seconds to import

__all__ = [
    "DISCLAIMER",
    "PATIENT_AND_STUDY",
    "UNPAIRED",
    "coded",
    "has_sound",
    "plane_of",
    "referenced",
    "restamp",
    "stamp",
]

DISCLAIMER = "Research use only, not for clinical diagnosis"

# Body parts of PS3.16, Annex L, that are not paired: of others Laterality is type 2C, of these it must not be there.
UNPAIRED = frozenset({"ABDOMEN", "BRAIN", "CHEST", "HEAD", "HEART", "LIVER", "NECK", "PELVIS", "SPINE"})

# Patient, General Study, Patient Study (PS3.3, C.7.1.1, C.7.2.1, C.7.2.2). The archive's keys come as they are.
_KEYS = ("PatientName", "PatientID", "StudyInstanceUID")
_TYPE_2 = (
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "ReferringPhysicianName",
)
# What highdicom wants to copy from whatever it is given; `stamp` writes the true values.
PATIENT_AND_STUDY = (*_KEYS[:2], *_TYPE_2)
_OPTIONAL = (
    "IssuerOfPatientID",
    "TypeOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDsSequence",
    "OtherPatientNames",
    "PatientBirthTime",
    "QualityControlSubject",
    "PatientComments",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "IssuerOfAccessionNumberSequence",
    "StudyDescription",
    "ProcedureCodeSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
)
# Required together, of an animal (C.7.1.1): all of them, empty or not, or none.
_ANIMAL = (
    "PatientSpeciesDescription",
    "PatientBreedDescription",
    "PatientBreedCodeSequence",
    "BreedRegistrationSequence",
    "ResponsiblePerson",
    "ResponsibleOrganization",
    "PatientSexNeutered",
)
_TRIAL = (  # Clinical Trial Subject (C.7.1.3): the first two are its type 1, the next three its type 2
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialProtocolName",
    "ClinicalTrialSiteID",
    "ClinicalTrialSiteName",
    "ClinicalTrialSubjectID",
    "ClinicalTrialSubjectReadingID",
)
_OWN_DATES = (  # when a result was made
    ("InstanceCreationDate", "InstanceCreationTime"),
    ("ContentDate", "ContentTime"),
    ("SeriesDate", "SeriesTime"),
    ("DateOfSecondaryCapture", "TimeOfSecondaryCapture"),
    ("PresentationCreationDate", "PresentationCreationTime"),
    ("StructureSetDate", "StructureSetTime"),
)
_ENUMERATED = {
    "PatientSex": {"M", "F", "O"},
    "PatientIdentityRemoved": {"YES", "NO"},
    "QualityControlSubject": {"YES", "NO"},
    "PatientSexNeutered": {"ALTERED", "UNALTERED"},
}
_TEXT_LIMITS = {"SH": 16, "LO": 64, "PN": 194, "ST": 1024, "LT": 10240}  # characters (PS3.5, 6.2)
_ONE_VALUE = {"ST", "LT", "UT", "UR"}


_REFERENCED_CLASS, _REFERENCED_INSTANCE = map(
    BaseTag, (0x00081150, 0x00081155)
)  # Referenced SOP Class UID, Referenced SOP Instance UID


# Latin 1 has a letter for nearly every byte: undeclared texts keep theirs, and are shown as most systems showed them.
_ANY_BYTE = "ISO_IR 100"


def coded(code: Code) -> Dataset:
    """One item of a Code Sequence (PS3.3, 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def plane_of(frame: Frame) -> Dataset:
    """A frame's identity and plane alone, each value valid: what a derived object needs to know of it.

    It has the form of a single-frame image, whichever the frame is of. Raises InputError where the series has no Frame
    of Reference UID.
    """
    source, series_uid = frame.instance, frame.series_uid
    if not source.get("FrameOfReferenceUID"):
        raise InputError(
            f"series {series_uid} has no Frame of Reference UID, so a segmentation can not say where it lies; "
            "send the original images",
            series_uid=series_uid,
        )
    plane = Dataset()
    for keyword in (
        "SOPClassUID",
        "SOPInstanceUID",
        "StudyInstanceUID",
        "SeriesInstanceUID",
        "FrameOfReferenceUID",
    ):
        setattr(plane, keyword, str(source[keyword].value))
    plane.Modality = str(source.get("Modality", "OT"))
    plane.Rows, plane.Columns = int(source.Rows), int(source.Columns)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        setattr(plane, keyword, _decimals(frame.get(keyword)))
    plane.SliceThickness = _thickness_mm(frame)
    plane.PositionReferenceIndicator = _text(source, "PositionReferenceIndicator")
    for keyword in PATIENT_AND_STUDY:
        setattr(plane, keyword, None)
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if has_sound(source, keyword):
            setattr(plane, keyword, source[keyword].value)
    return plane


def _thickness_mm(frame: Frame) -> float | None:
    try:
        thickness_mm = float(frame.get("SliceThickness") or 0)
    except (TypeError, ValueError, UnreadableInput):
        return None
    return thickness_mm if thickness_mm > 0 else None


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """One item of a sequence that refers to an instance (PS3.3, Table 10-11)."""
    return Dataset(
        {
            tag: DataElement(tag, "UI", UID(uid), already_converted=True)
            for tag, uid in ((_REFERENCED_CLASS, sop_class_uid), (_REFERENCED_INSTANCE, sop_instance_uid))
        }
    )


def referenced(frames: Iterable[Frame]) -> list[Dataset]:
    """One item per instance, as the Image SOP Instance Reference Macro has it (PS3.3, Table 10-3).

    Of a multi-frame instance it names the frames, unless they are all that it has.
    """
    items: dict[str, Dataset] = {}
    numbers: dict[str, list[int]] = {}
    for frame in frames:
        uid = str(frame.get("SOPInstanceUID"))
        if uid not in items:
            items[uid] = _reference(str(frame.get("SOPClassUID")), uid)
        if frame.number is not None:
            numbers.setdefault(uid, []).append(frame.number)
            if len(numbers[uid]) < int(frame.instance.NumberOfFrames):
                items[uid].ReferencedFrameNumber = numbers[uid]
            elif "ReferencedFrameNumber" in items[uid]:
                del items[uid].ReferencedFrameNumber
    return list(items.values())


def stamp(
    result: SOPClass,
    *,
    source: Dataset,
    algorithm: Algorithm,
    identity: JobIdentity,
    disclaimer: str,
    texts: Iterable[str] = (),
) -> None:
    """Write patient, study, equipment, dates and character set into a result.

    `texts`: all that the result says in words of its own; where the source's character set can not hold them, the
    result is in UTF-8.
    """
    for keyword, value in _patient_and_study(source):
        _put(result, keyword, value)
    _stamp_character_set(result, source, [*texts, disclaimer, algorithm.name, algorithm.manufacturer])
    _stamp_dates(result, source, identity.created)
    _stamp_equipment(result, source, algorithm, disclaimer)
    result.ContentQualification = "RESEARCH"  # PS3.3, C.8.13.2.1.1


def restamp(result: Dataset, source: Dataset) -> None:
    """Write what `stamp` takes over from its source into a result that was stamped with less of it.

    The result's own dates, which are this machine's where `stamp` knew no other zone, become those of the source's.
    """
    for keyword in (*_KEYS, *_TYPE_2, *_OPTIONAL, *_ANIMAL, *_TRIAL):
        result.pop(keyword, None)
    for keyword, value in _patient_and_study(source):
        _put(result, keyword, value)
    if _undeclared(source):
        if not result.get("SpecificCharacterSet"):
            result.SpecificCharacterSet = _ANY_BYTE
    elif result.get("SpecificCharacterSet") != source.get("SpecificCharacterSet"):
        in_unicode(result)
    if has_sound(source, "TimezoneOffsetFromUTC") and "TimezoneOffsetFromUTC" not in result:
        _move_dates(result, _zone(source))
        result.TimezoneOffsetFromUTC = source.TimezoneOffsetFromUTC
    others = [each for each in result.get("ContributingEquipmentSequence", ()) if not _has_acquired(each)]
    if len(others) < len(result.get("ContributingEquipmentSequence", ())):
        result.ContributingEquipmentSequence = [*_acquisition(source), *others]


def has_sound(source: Dataset, keyword: str) -> bool:
    """Whether the attribute has a value, and every value is one that its VR allows (PS3.5, 6.2)."""
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in source:
        return False
    return _sound(source, source.get_item(tag), keyword)


def _patient_and_study(source: Dataset) -> Iterable[tuple[str, Any]]:
    for keyword in _KEYS:
        yield keyword, source[keyword].value if keyword in source else None
    for keyword in _TYPE_2:
        yield keyword, source[keyword].value if has_sound(source, keyword) else None
    for keyword in _optional(source):
        yield keyword, _copied(source[keyword].value)
    if has_sound(source, _ANIMAL[0]):
        for keyword in _ANIMAL:
            yield keyword, _copied(source[keyword].value) if has_sound(source, keyword) else None
    if all(has_sound(source, keyword) for keyword in _TRIAL[:2]):
        for keyword in _TRIAL:
            if has_sound(source, keyword):
                yield keyword, source[keyword].value
            elif keyword in _TRIAL[:5]:
                yield keyword, None


def _optional(source: Dataset) -> list[str]:
    kept = [keyword for keyword in _OPTIONAL if has_sound(source, keyword)]
    how = {"DeidentificationMethod", "DeidentificationMethodCodeSequence"}
    if source.get("PatientIdentityRemoved") == "YES" and not how & set(kept):
        kept.remove("PatientIdentityRemoved")  # type 1C: "YES" has to say how
    return kept


def _sound(source: Dataset, element: DataElement | RawDataElement, keyword: str = "") -> bool:
    vr = element.VR if element.VR not in (None, "UN") else _vr_of(element)
    if vr == "SQ":
        items = source[element.tag].value
        return bool(items) and all(_sound_item(item) for item in items)
    values = _values(element, vr)
    if not any(values):
        return False
    if keyword in _ENUMERATED and values[0] not in {term.encode() for term in _ENUMERATED[keyword]}:
        return False
    if vr in _TEXT_LIMITS:
        return all(_fits(value, vr, source) for value in values)
    try:
        for value in values:
            validate_value(vr, value, config.RAISE)
    except ValueError:
        return False
    return True


def _sound_item(item: Dataset) -> bool:
    return len(item) > 0 and all(_sound(item, item.get_item(tag)) for tag in item.keys())  # noqa: SIM118


def _vr_of(element: DataElement | RawDataElement) -> str:
    try:
        return dictionary_VR(element.tag)
    except KeyError:
        return "UN"


def _values(element: DataElement | RawDataElement, vr: str) -> list[bytes]:
    """The values as stored, without padding; before pydicom has looked at them, so that nothing is warned about."""
    value = element.value
    if value is None:
        return []
    if isinstance(value, bytes):
        values = [value] if vr in _ONE_VALUE else value.split(b"\\")
    else:
        many = value if isinstance(value, (list, tuple)) or hasattr(value, "__iter__") else [value]
        values = [str(one).encode() for one in ([value] if isinstance(value, str) else many)]
    return [one.strip(b" \0") for one in values]


def _fits(value: bytes, vr: str, source: Dataset) -> bool:
    if vr in ("SH", "LO") and any(byte < 0x20 and byte != 0x1B for byte in value):
        return False
    if len(value) <= _TEXT_LIMITS[vr]:
        return True
    encodings = charset.convert_encodings(source.get("SpecificCharacterSet", ""))
    return len(charset.decode_bytes(value, encodings, set())) <= _TEXT_LIMITS[vr]


def _text(source: Dataset, keyword: str) -> str:
    return str(source[keyword].value) if has_sound(source, keyword) else ""


def _decimals(values: Sequence[Any]) -> list[str]:
    """Decimal Strings of at most 16 characters, as they were where they fit."""
    texts = [str(value).strip() for value in values]
    return [text if len(text) <= 16 else _shortest(float(text)) for text in texts]


def _shortest(value: float) -> str:
    digits = 16
    while len(text := f"{value:.{digits}g}") > 16:
        digits -= 1
    return text


def _copied(value: Any) -> Any:
    """A copy whose text is decoded, so that it can be written in another character set."""
    if not isinstance(value, ItemSequence):
        return value
    items = []
    for item in value:
        copy = Dataset()
        for element in item:
            copy.add_new(element.tag, element.VR, _copied(element.value))
        items.append(copy)
    return items


def _put(result: Dataset, keyword: str, value: Any) -> None:
    setattr(result, keyword, [] if value is None and dictionary_VR(keyword) == "SQ" else value)


def _stamp_character_set(result: Dataset, source: Dataset, texts: Sequence[str]) -> None:
    declared = source.get("SpecificCharacterSet") or ""
    terms = [declared] if isinstance(declared, str) else list(declared)
    if _undeclared(source):
        terms = [_ANY_BYTE]
    if not _can_hold(terms, texts):
        terms = ["ISO_IR 192"]
    if terms == [""]:
        result.pop("SpecificCharacterSet", None)
    else:
        result.SpecificCharacterSet = terms[0] if len(terms) == 1 else terms


def _undeclared(source: Dataset) -> bool:
    """Whether the source says of no character set, and has letters that need one, as many scanners leave it."""
    return not source.get("SpecificCharacterSet") and not _can_hold([""], list(_words(source)))


def _words(source: Dataset) -> Iterator[str]:
    for _, value in _patient_and_study(source):
        yield from _texts_in(value)


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, list) and value and isinstance(value[0], Dataset):
        for item in value:
            for element in item:
                yield from _texts_in(element.value)
    elif value is not None:
        yield str(value)


def _can_hold(terms: Sequence[str], texts: Sequence[str]) -> bool:
    if any(term and term not in charset.python_encoding for term in terms):
        return False
    encodings = charset.convert_encodings(list(terms))
    # Without a declared set only the default repertoire is allowed (PS3.5, 6.1.2.1); pydicom would say Latin 1.
    first = "ascii" if not terms[0] else encodings[0]
    try:
        for text in texts:
            text.encode(first)
    except UnicodeEncodeError:
        return False
    return True


def _stamp_dates(result: Dataset, source: Dataset, created: datetime) -> None:
    if created.tzinfo is not None:
        created = created.astimezone(_zone(source))
    date, time = created.strftime("%Y%m%d"), created.strftime("%H%M%S.%f")
    for what in ("InstanceCreation", "Content", "Series"):
        setattr(result, f"{what}Date", date)
        setattr(result, f"{what}Time", time)
    if has_sound(source, "TimezoneOffsetFromUTC"):
        result.TimezoneOffsetFromUTC = source.TimezoneOffsetFromUTC


def _zone(source: Dataset) -> timezone | None:
    """The source's time zone; None, which is this machine's, where the source does not say."""
    offset = _text(source, "TimezoneOffsetFromUTC")
    if len(offset) != 5 or not offset[1:].isdigit():
        return None
    minutes = int(offset[1:3]) * 60 + int(offset[3:])
    return timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes))


def _move_dates(result: Dataset, zone: timezone | None) -> None:
    """From this machine's time zone to another one."""
    for date, time in _OWN_DATES:
        told = f"{result.get(date, '')}{result.get(time, '')}"
        for form in ("%Y%m%d%H%M%S.%f", "%Y%m%d%H%M%S"):
            try:
                moved = datetime.strptime(told, form).astimezone(zone)
            except ValueError:
                continue
            setattr(result, date, moved.strftime("%Y%m%d"))
            setattr(result, time, moved.strftime("%H%M%S.%f"))
            break


def _stamp_equipment(result: Dataset, source: Dataset, algorithm: Algorithm, disclaimer: str) -> None:
    """Enhanced General Equipment (C.7.5.2) and Contributing Equipment (C.12.1): who made this, of whose images."""
    result.Manufacturer = algorithm.manufacturer
    result.ManufacturerModelName = algorithm.name
    result.SoftwareVersions = [algorithm.version, *(f"{n} {v}" for n, v in sorted(algorithm.models.items()))]
    result.DeviceSerialNumber = algorithm.device_uid
    result.DeviceUID = algorithm.device_uid
    made_by = _contributor(algorithm)
    made_by.ContributionDescription = disclaimer
    models = [_model(each) for each in algorithm.model_algorithms]
    result.ContributingEquipmentSequence = [*_acquisition(source), made_by, *models]


def _contributor(algorithm: Algorithm) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [coded(Code("109102", "DCM", "Processing Equipment"))]  # CID 7005
    item.Manufacturer = algorithm.manufacturer
    item.ManufacturerModelName = algorithm.name
    item.SoftwareVersions = algorithm.version
    item.DeviceUID = algorithm.device_uid
    return item


def _model(model: Algorithm) -> Dataset:
    item = _contributor(model)
    if model.name in model.weights:
        item.ContributionDescription = f"Weights with SHA-256 {model.weights[model.name]}"
    return item


def _has_acquired(contributor: Dataset) -> bool:
    purposes = contributor.get("PurposeOfReferenceCodeSequence") or [Dataset()]
    return bool(purposes[0].get("CodeValue") == "109101")


def _acquisition(source: Dataset) -> list[Dataset]:
    if not has_sound(source, "Manufacturer"):
        return []
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [coded(Code("109101", "DCM", "Acquisition Equipment"))]
    for keyword in ("Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceSerialNumber"):
        if has_sound(source, keyword):
            setattr(item, keyword, source[keyword].value)
    return [item]
