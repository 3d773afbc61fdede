"""The images that a report is about, and earlier ones it compares with: Image Library (PS3.16, TID 1600)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from highdicom.sr import (
    CodeContentItem,
    CodedConcept,
    ContainerContentItem,
    ContentItem,
    ContentSequence,
    DateContentItem,
    NumContentItem,
    RelationshipTypeValues,
    TextContentItem,
    UIDRefContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as ItemSequence

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Code
from isocenter_operators.dicom.header import coded, has_sound, referenced
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.errors import UnreadableInput

__all__ = ["add_entries", "image_library"]

_CONTEXT = RelationshipTypeValues.HAS_ACQ_CONTEXT
# TID 1601 asks for no purpose, but highdicom reads no report with an item that has none.
_SOURCE = Code("260753009", "SCT", "Source")
_PIXELS = CodedConcept("{pixels}", "UCUM", "pixels")
_MILLIMETER = CodedConcept("mm", "UCUM", "millimeter")
_COSINE = CodedConcept("{-1:1}", "UCUM", "{-1:1}")
_TESLA = CodedConcept("T", "UCUM", "Tesla")
_MODALITIES = {  # CID 33 Modality
    "CR": "Computed Radiography",
    "CT": "Computed Tomography",
    "DX": "Digital Radiography",
    "MG": "Mammography",
    "MR": "Magnetic Resonance",
    "NM": "Nuclear Medicine",
    "PT": "Positron emission tomography",
    "RF": "Radiofluoroscopy",
    "RG": "Radiographic imaging",
    "US": "Ultrasound",
    "XA": "X-Ray Angiography",
}
_ACQUISITION_TYPES = {  # CID 10013 CT Acquisition Type
    "SEQUENCED": Code("113804", "DCM", "Sequenced Acquisition"),
    "SPIRAL": Code("116152004", "SCT", "Spiral Acquisition"),
    "CONSTANT_ANGLE": Code("113805", "DCM", "Constant Angle Acquisition"),
    "STATIONARY": Code("113806", "DCM", "Stationary Acquisition"),
    "FREE": Code("113807", "DCM", "Free Acquisition"),
    "CONE_BEAM": Code("702569007", "SCT", "Cone Beam Acquisition"),
}
_RECONSTRUCTIONS = {  # CID 10033 CT Reconstruction Algorithm
    "FILTER_BACK_PROJ": Code("113962", "DCM", "Filtered Back Projection"),
    "ITERATIVE": Code("113963", "DCM", "Iterative Reconstruction"),
}
_ORIENTATION = tuple(
    (str(110904 + place), f"Image Orientation (Patient) {axis}")
    for place, axis in enumerate(("Row X", "Row Y", "Row Z", "Column X", "Column Y", "Column Z"))
)


def image_library(frames: Sequence[Frame], priors: Sequence[Dataset] = ()) -> ContainerContentItem:
    """One Image Library Group for each series, with what its images have in common (TID 1602 to 1606).

    frames: the images that the report is about.
    priors: instances of earlier studies that they were compared with.

    The entries are not among it: highdicom copies and searches whatever it is given several times, which takes seconds
    for the images of one scan. `add_entries` writes them into the report that it has made.
    """
    library = _container("111028", "Image Library")
    for series, _ in _series(frames, priors):
        group = _container("126200", "Image Library Group")
        group.ContentSequence.extend(_descriptors(series[0]))
        library.ContentSequence.append(group)
    return library


def add_entries(report: Dataset, frames: Sequence[Frame], priors: Sequence[Dataset] = ()) -> None:
    """Write the entries of its image library (TID 1601) into a report that has the groups `image_library` made.

    The parameters are those of `image_library`; of a multi-frame instance an entry names the frames, those of priors
    are named as such.
    """
    (library,) = [item for item in report.ContentSequence if _concept(item) == "111028"]
    for group, (series, purpose) in zip(library.ContentSequence, _series(frames, priors), strict=True):
        concept = coded(purpose)
        entries = [_entry(reference, concept) for reference in referenced(series)]
        group["ContentSequence"].value = ItemSequence([*group.ContentSequence, *entries])


def _series(frames: Sequence[Frame], priors: Sequence[Dataset]) -> Iterator[tuple[list[Frame], Code]]:
    """The images of each series, and what they are to the report."""
    for images, purpose in ((frames, _SOURCE), ([Frame(instance) for instance in priors], codes.PRIOR)):
        for series in _by_series(images):
            yield series, purpose


def _concept(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeValue)


def _by_series(frames: Iterable[Frame]) -> Iterable[list[Frame]]:
    series: dict[str, list[Frame]] = {}
    for frame in frames:
        series.setdefault(frame.series_uid, []).append(frame)
    return series.values()


def _container(value: str, meaning: str) -> ContainerContentItem:
    container = ContainerContentItem(
        CodedConcept(value, "DCM", meaning), relationship_type=RelationshipTypeValues.CONTAINS
    )
    container.ContentSequence = ContentSequence()
    return container


def _entry(reference: Dataset, concept: Dataset) -> Dataset:
    """TID 1601: an IMAGE content item."""
    entry = Dataset()
    entry.RelationshipType = RelationshipTypeValues.CONTAINS.value
    entry.ValueType = "IMAGE"
    entry.ConceptNameCodeSequence = [Dataset(concept)]
    entry.ReferencedSOPSequence = [reference]
    return entry


def _descriptors(frame: Frame) -> Iterator[ContentItem]:
    """TID 1602, as far as the image tells and its values are sound; each of these is optional."""
    source = frame.instance
    modality = str(source.get("Modality", ""))
    if modality in _MODALITIES:
        yield _code("121139", "Modality", Code(modality, "DCM", _MODALITIES[modality]))
    if has_sound(source, "StudyDate"):
        yield DateContentItem(CodedConcept("111060", "DCM", "Study Date"), source.StudyDate, _CONTEXT)
    yield _uid("112002", "Series Instance UID", frame.series_uid)
    if has_sound(source, "FrameOfReferenceUID"):
        yield _uid("112227", "Frame of Reference UID", str(source.FrameOfReferenceUID))
    yield from _number(_value(frame, "Rows"), "110910", "Pixel Data Rows", _PIXELS)
    yield from _number(_value(frame, "Columns"), "110911", "Pixel Data Columns", _PIXELS)
    yield from _plane(frame)
    if modality == "CT":
        yield from _of_ct(frame)
    elif modality == "MR":
        yield from _of_mr(frame)


def _plane(frame: Frame) -> Iterator[ContentItem]:
    """TID 1604 (TID 1603, of projections): what differs from image to image stands in the images."""
    spacing = _many(_value(frame, "PixelSpacing") or _value(frame, "ImagerPixelSpacing"))
    if len(spacing) == 2:
        yield from _number(spacing[1], "111026", "Horizontal Pixel Spacing", _MILLIMETER)
        yield from _number(spacing[0], "111066", "Vertical Pixel Spacing", _MILLIMETER)
    yield from _number(_value(frame, "SliceThickness"), "112225", "Slice Thickness", _MILLIMETER)
    cosines = _many(_value(frame, "ImageOrientationPatient"))
    if len(cosines) == 6:
        for cosine, (value, meaning) in zip(cosines, _ORIENTATION, strict=True):
            yield from _number(cosine, value, meaning, _COSINE)


def _of_ct(frame: Frame) -> Iterator[ContentItem]:
    """TID 1605."""
    acquisition = _ACQUISITION_TYPES.get(str(_value(frame, "AcquisitionType")))
    if acquisition:
        yield _code("113820", "CT Acquisition Type", acquisition)
    reconstruction = _RECONSTRUCTIONS.get(str(_value(frame, "ReconstructionAlgorithm")))
    if reconstruction:
        yield _code("113961", "Reconstruction Algorithm", reconstruction)


def _of_mr(frame: Frame) -> Iterator[ContentItem]:
    """TID 1606."""
    if has_sound(frame.instance, "PulseSequenceName"):
        name = CodedConcept("128230", "DCM", "Pulse Sequence Name")
        yield TextContentItem(name, str(frame.instance.PulseSequenceName), _CONTEXT)
    strength_t = _value(frame, "MagneticFieldStrength")
    yield from _number(strength_t, "130542", "Magnetic field strength", _TESLA)


def _value(frame: Frame, keyword: str) -> Any:
    """None also where the header is damaged there: it is no reason to report nothing."""
    try:
        return frame.get(keyword)
    except UnreadableInput:
        return None


def _many(values: Any) -> list[Any]:
    if values is None:
        return []
    return list(values) if hasattr(values, "__iter__") and not isinstance(values, str) else [values]


def _number(value: Any, code: str, meaning: str, unit: CodedConcept) -> Iterator[ContentItem]:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return
    if math.isfinite(number):
        shown = int(number) if number.is_integer() else number
        yield NumContentItem(CodedConcept(code, "DCM", meaning), shown, unit, relationship_type=_CONTEXT)


def _code(value: str, meaning: str, code: Code) -> ContentItem:
    return CodeContentItem(CodedConcept(value, "DCM", meaning), _named(code), _CONTEXT)


def _uid(value: str, meaning: str, uid: str) -> ContentItem:
    return UIDRefContentItem(CodedConcept(value, "DCM", meaning), uid, _CONTEXT)


def _named(code: Code) -> CodedConcept:
    return CodedConcept(*code)
