"""Numbers of each voxel as a DICOM Parametric Map (PS3.3, A.75): how probable, how salient, how uncertain.

highdicom makes the object, of one frame; the frames, their values and what they were derived from are written here, so
that each refers to its own source frame, multi-frame sources included.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from highdicom.content import VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from numpy.typing import NDArray
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as PydicomCode
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from isocenter_operators.dicom.codes import ANATOMICAL_STRUCTURE, ARTIFICIAL_INTELLIGENCE
from isocenter_operators.dicom.findings import Code, Segment
from isocenter_operators.dicom.header import DISCLAIMER, coded, has_sound, plane_of, referenced, stamp
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.multiframe import (
    EVEN,
    along_mm,
    fix_dimension_uid,
    is_even,
    pixel_measures,
)
from isocenter_operators.dicom.schemes import declare_schemes
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.series.placement import PLANE_TOLERANCE
from isocenter_operators.dicom.tracking import segment_tracking
from isocenter_operators.errors import GeometryError, InputError, InvalidResult

__all__ = [
    "CLASS_ACTIVATION",
    "GRADIENT_CLASS_ACTIVATION",
    "NO_UNITS",
    "PROBABILITY",
    "SALIENCY",
    "UNCERTAINTY",
    "parametric_map",
]

# CID 7180 Abstract Multi-dimensional Image Model Component Semantics; it has no code for how sure a model is.
PROBABILITY = Code("110854", "DCM", "Fractional Probabilistic Segmentation")
CLASS_ACTIVATION = Code("130402", "DCM", "Class activation")
GRADIENT_CLASS_ACTIVATION = Code("130403", "DCM", "Gradient-weighted class activation")
SALIENCY = Code("130404", "DCM", "Saliency")
UNCERTAINTY = Code("UNCERTAINTY", "99ISOCENTER", "Uncertainty of the model")
_LABELS = {PROBABILITY: "Probability", UNCERTAINTY: "Uncertainty"}
NO_UNITS = Code("1", "UCUM", "no units")  # CID 7181

# CID 9000 Physical Quantity Descriptors: what is said of a quantity. It may be extended, as here by the tracking.
_FINDING = Code("121071", "DCM", "Finding")
_LATERALITY = Code("272741003", "SCT", "Laterality")
_FINDING_SITE = Code("363698007", "SCT", "Finding Site")
_TRACKING_ID = Code("112039", "DCM", "Tracking Identifier")
_TRACKING_UID = Code("112040", "DCM", "Tracking Unique Identifier")
_PURPOSE = Code("121322", "DCM", "Source Image for Image Processing Operation")  # CID 7222

_PIXELS = {  # by the values' type: the attribute that holds them, its VR (PS3.3, C.7.6.3, C.7.6.24, C.7.6.25)
    "float32": ("FloatPixelData", "OF"),
    "float64": ("DoubleFloatPixelData", "OD"),
    "uint16": ("PixelData", "OW"),
}
_WIDENED = {"float16": "float32", "uint8": "uint16"}
_CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
# Body Part Examined of a map's usual sources to Anatomic Region (PS3.16, Annex L).
_REGIONS = {
    "ABDOMEN": ("818981001", "Abdomen"),
    "BRAIN": ("12738006", "Brain"),
    "CHEST": ("816094009", "Thorax"),
    "HEAD": ("69536005", "Head"),
    "HEART": ("80891009", "Heart"),
    "LIVER": ("10200004", "Liver"),
    "NECK": ("45048000", "Neck"),
    "PELVIS": ("816092008", "Pelvis"),
    "PROSTATE": ("41216001", "Prostate"),
    "SPINE": ("421060004", "Spine"),
}


def parametric_map(
    *,
    values: NDArray[Any],
    frames: Sequence[Frame],
    quantity: Code,
    algorithm: Algorithm,
    identity: JobIdentity,
    unit: Code = NO_UNITS,
    segment: Segment | None = None,
    label: str | None = None,
    value_range: tuple[float, float] | None = None,
    window: tuple[float, float] | None = None,
    slope: float = 1.0,
    intercept: float = 0.0,
    number: int = 1,
    derivation: Code = ARTIFICIAL_INTELLIGENCE,
    recognizable_features: bool = False,
    series_number: int = 9006,
    series_description: str | None = None,
    disclaimer: str = DISCLAIMER,
) -> Dataset:
    """A Parametric Map with a frame on each of the image planes.

    Parameters
    ----------
    values
        float32 or float64 (Z, Y, X), or uint16 or uint8 with `slope` and `intercept`. They are stored as they are, bit
        for bit; float16 and uint8 in the next wider type that the IOD has. float32 is what most readers know, dcmqi
        among them.
    frames
        The image planes that they lie on, in the order of Z; their pixels are not needed. Of single-frame or of
        multi-frame instances.
    quantity, unit
        What the values are (PS3.16, CID 7180, or a private code) and in which unit of UCUM (CID 7181).
    segment
        What they are about, where they are about one segment: the map then has its type, and its tracking identifier
        and UID, as SEG and SR have them.
    label
        The quantity in a word for people, by default its code's meaning.
    value_range
        The lowest and the highest real value that means something, such as 0 and 1; by default, those that occur.
    window
        The lowest and the highest real value that are shown apart, from black to white; by default, the range.
    slope, intercept
        From stored to real values (PS3.3, C.7.6.16.2.11): `stored * slope + intercept`.
    number
        Which of the job's maps this is, from 1: each is a series of its own.
    derivation
        How the values came about (CID 7203, which may be extended).
    recognizable_features
        Whether somebody could be recognised by the map, as by a face.

    Raises GeometryError where `values` does not have the shape of the frames or these are no planes of one volume,
    InputError for another type of values or a source without a frame of reference, InvalidResult for a value that is no
    number or outside `value_range`.
    """
    planes = _planes(frames)
    stored = _storable(values, planes)
    mapped = _mapped(stored, value_range, slope, intercept, planes[0].SeriesInstanceUID)
    label = label or _LABELS.get(quantity, quantity.meaning)
    about = f"{label} of {segment.label}" if segment else label
    description = (series_description or f"{algorithm.name}: {about}")[:64].strip()
    role = f"map.{number}"
    result = _one_frame(
        stored.dtype,
        planes,
        mapping=_mapping(mapped, (label, about), quantity, unit, (slope, intercept)),
        window=_window(_as_stored(window, slope, intercept) if window else mapped),
        algorithm=algorithm,
        identity=identity,
        role=role,
        series_number=series_number,
        description=description,
        content_label=re.sub("[^A-Z0-9]+", "_", label.upper())[:16].strip("_") or "MAP",
        recognizable_features=recognizable_features,
    )
    shared = result.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence = pixel_measures(frames)
    if segment is not None:
        definition = shared.RealWorldValueMappingSequence[0].QuantityDefinitionSequence
        definition.extend(_about_segment(segment, algorithm, identity))
    shared.FrameAnatomySequence = [_anatomy(frames[0], segment)]
    _put_frames(result, stored, frames, planes, _Derivation(derivation, f"{about}, by {algorithm.name}"))
    fix_dimension_uid(result, identity.uid(f"{role}.dimensions"))
    source = frames[0].instance
    if has_sound(source, "BodyPartExamined"):
        result.BodyPartExamined = source.BodyPartExamined
    result.ContentCreatorName = None  # type 2; highdicom leaves it out
    result.ImageComments = disclaimer
    declare_schemes(result)
    stamp(
        result,
        source=source,
        algorithm=algorithm,
        identity=identity,
        disclaimer=disclaimer,
        texts=[description, about, label],
    )
    return result


_ROUNDING = 1e-5  # of the range


@dataclass(frozen=True)
class _Derivation:
    code: Code
    description: str


def _planes(frames: Sequence[Frame]) -> list[Dataset]:
    """Each frame's identity and place; all of one series, size, orientation and frame of reference."""
    if not frames:
        raise GeometryError("there are no images that a parametric map could be about")
    planes = [plane_of(frame) for frame in frames]
    uid = planes[0].SeriesInstanceUID
    for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns"):
        if len({plane[keyword].value for plane in planes}) > 1:
            raise GeometryError(
                f"series {uid}: its images differ in {keyword}; a parametric map is about one volume",
                series_uid=uid,
            )
    for keyword in ("ImageOrientationPatient", "PixelSpacing"):
        numbers = np.array([plane[keyword].value for plane in planes], np.float64)
        if np.abs(numbers - numbers[0]).max() > PLANE_TOLERANCE:
            raise GeometryError(f"series {uid}: its images differ in {keyword}", series_uid=uid)
    return planes


def _storable(values: NDArray[Any], planes: Sequence[Dataset]) -> NDArray[Any]:
    expected = (len(planes), int(planes[0].Rows), int(planes[0].Columns))
    uid = planes[0].SeriesInstanceUID
    if values.shape != expected:
        raise GeometryError(
            f"series {uid}: the parametric map is {values.shape} (Z, Y, X), its source images are {expected}",
            series_uid=uid,
        )
    stored = values.astype(_WIDENED.get(values.dtype.name, values.dtype), copy=False)
    if stored.dtype.name not in _PIXELS:
        raise InputError(
            f"the parametric map holds {values.dtype}; float32, float64, uint16 or uint8 is expected (PS3.3, C.8.32.2)"
        )
    if stored.dtype.kind == "f" and not np.isfinite([stored.min(), stored.max()]).all():
        raise InvalidResult(
            f"series {uid}: the parametric map holds values that are no numbers", series_uid=uid
        )
    return stored


def _mapped(
    stored: NDArray[Any], value_range: tuple[float, float] | None, slope: float, intercept: float, uid: str
) -> tuple[float, float]:
    """The lowest and the highest stored value that stand for something."""
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise InputError(f"slope {slope:g} and intercept {intercept:g} make no values of the stored ones")
    lowest, highest = float(stored.min()), float(stored.max())
    if value_range is None:
        return lowest, highest
    low, high = _as_stored(value_range, slope, intercept)
    if stored.dtype.kind == "u":
        low, high = float(round(low)), float(round(high))
    # Values resampled in single precision end a little beyond: that much is rounding, and the ends say what there is.
    slack = _ROUNDING * (high - low) if stored.dtype.kind == "f" else 0.0
    if low - slack <= lowest and highest <= high + slack:
        return min(low, lowest), max(high, highest)
    if lowest < low or highest > high:
        raise InvalidResult(
            f"series {uid}: the parametric map holds values outside {value_range[0]:g}..{value_range[1]:g}",
            series_uid=uid,
        )
    return low, high


def _as_stored(real: tuple[float, float], slope: float, intercept: float) -> tuple[float, float]:
    ends = sorted((value - intercept) / slope for value in real)
    return ends[0], ends[1]


def _window(shown: tuple[float, float]) -> VOILUTTransformation:
    """From black to white between these values. Exact: the LINEAR function takes half a grey level off each end, which
    of fractions is all there is (PS3.3, C.11.2.1.3)."""
    low, high = shown
    return VOILUTTransformation(
        window_center=(low + high) / 2, window_width=(high - low) or 1.0, voi_lut_function="LINEAR_EXACT"
    )


def _mapping(
    mapped: tuple[float, float], words: tuple[str, str], quantity: Code, unit: Code, line: tuple[float, float]
) -> RealWorldValueMapping:
    """What the stored values stand for (PS3.3, C.7.6.16.2.11). words: in short, and what they are about."""
    return RealWorldValueMapping(
        lut_label=words[0][:16].strip(),
        lut_explanation=words[1][:64].strip(),
        unit=PydicomCode(*unit),
        value_range=mapped,
        slope=line[0],
        intercept=line[1],
        quantity_definition=PydicomCode(*quantity),
    )


def _about_segment(segment: Segment, algorithm: Algorithm, identity: JobIdentity) -> list[Dataset]:
    """What else describes a quantity that was found of a segment: of what, where, and how it is tracked."""
    tracking_id, tracking_uid = segment_tracking(segment, algorithm, identity)
    items = [_content(_FINDING, "CODE", ConceptCodeSequence=[coded(segment.type)])]
    if segment.laterality is not None:
        items.append(_content(_LATERALITY, "CODE", ConceptCodeSequence=[coded(segment.laterality)]))
    if segment.anatomic_region is not None:
        items.append(_content(_FINDING_SITE, "CODE", ConceptCodeSequence=[coded(segment.anatomic_region)]))
    items.append(_content(_TRACKING_ID, "TEXT", TextValue=tracking_id))
    items.append(_content(_TRACKING_UID, "UIDREF", UID=tracking_uid))
    return items


def _content(name: Code, value_type: str, **value: Any) -> Dataset:
    """A name and a value (PS3.3, 10.2)."""
    item = Dataset()
    item.ValueType = value_type
    item.ConceptNameCodeSequence = [coded(name)]
    for keyword, content in value.items():
        setattr(item, keyword, content)
    return item


def _one_frame(
    dtype: np.dtype[Any],
    planes: Sequence[Dataset],
    *,
    mapping: Dataset,
    window: VOILUTTransformation,
    algorithm: Algorithm,
    identity: JobIdentity,
    role: str,
    series_number: int,
    description: str,
    content_label: str,
    recognizable_features: bool,
) -> Dataset:
    """highdicom's object with a single frame, as a plain Dataset."""
    # Once an image was compressed with loss, all that is derived of it says so (PS3.3, C.8.32.2.1).
    plane = next((plane for plane in planes if plane.get("LossyImageCompression") == "01"), planes[0])
    if dtype.kind == "u":
        _integer_range(mapping)
    # highdicom looks for the functional groups of an enhanced image, which a plane has not.
    plane = Dataset(plane)
    plane.SOPClassUID = CTImageStorage
    made = ParametricMap(
        source_images=[plane],
        pixel_array=np.zeros((1, plane.Rows, plane.Columns), dtype),
        series_instance_uid=identity.uid(f"{role}.series"),
        series_number=series_number,
        sop_instance_uid=identity.uid(role),
        instance_number=1,
        manufacturer=algorithm.manufacturer,
        manufacturer_model_name=algorithm.name,
        software_versions=algorithm.version,
        device_serial_number=algorithm.device_uid,
        contains_recognizable_visual_features=recognizable_features,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[window],
        content_label=content_label,
        content_description=description,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=description,
    )
    result = Dataset(made)
    result.file_meta, result.preamble = made.file_meta, b"\0" * 128
    return result


def _integer_range(mapping: Dataset) -> None:
    for end in ("First", "Last"):
        value = mapping[f"DoubleFloatRealWorldValue{end}ValueMapped"].value
        del mapping[f"DoubleFloatRealWorldValue{end}ValueMapped"]
        mapping.add_new({"First": 0x00409216, "Last": 0x00409211}[end], "US", int(value))


def _put_frames(
    result: Dataset,
    stored: NDArray[Any],
    frames: Sequence[Frame],
    planes: Sequence[Dataset],
    derivation: _Derivation,
) -> None:
    """All frames along the normal of their planes, in which order dcmqi takes them to be, whatever their positions."""
    order = np.argsort(along_mm(frames), kind="stable").tolist()
    keyword, vr = _PIXELS[stored.dtype.name]
    little_endian = stored[order].astype(stored.dtype.newbyteorder("<"), copy=False)
    result[keyword] = DataElement(keyword, vr, little_endian.tobytes())
    result.NumberOfFrames = len(frames)
    result.PerFrameFunctionalGroupsSequence = [
        _groups(frames[z], planes[z], rank, derivation) for rank, z in enumerate(order, 1)
    ]
    result.pop("DimensionOrganizationType", None)
    if _is_grid(frames):
        result.DimensionOrganizationType = "3D"
    result.SourceImageSequence = referenced(frames)
    series = Dataset()
    series.SeriesInstanceUID = planes[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = referenced(frames)
    for item in series.ReferencedInstanceSequence:
        item.pop("ReferencedFrameNumber", None)  # the whole instance (PS3.3, C.12.2)
    result.ReferencedSeriesSequence = [series]


def _groups(frame: Frame, plane: Dataset, rank: int, derivation: _Derivation) -> Dataset:
    """What one frame is: where it lies, and which frame it was derived from (PS3.3, C.7.6.16.2)."""
    (image,) = referenced([frame])
    image.PurposeOfReferenceCodeSequence = [coded(_PURPOSE)]
    image.SpatialLocationsPreserved = "YES"
    derived = Dataset()
    derived.DerivationDescription = derivation.description
    derived.DerivationCodeSequence = [coded(derivation.code)]
    derived.SourceImageSequence = [image]
    content, position, groups = Dataset(), Dataset(), Dataset()
    content.DimensionIndexValues = [rank]
    position.ImagePositionPatient = plane.ImagePositionPatient
    groups.DerivationImageSequence = [derived]
    groups.FrameContentSequence = [content]
    groups.PlanePositionSequence = [position]
    return groups


def _is_grid(frames: Sequence[Frame]) -> bool:
    """Whether the planes are evenly spaced slices at right angles to their line (PS3.3, C.7.6.17.3)."""
    if len(frames) < 2:
        return False
    along = along_mm(frames)
    positions = np.array([frame.position_mm for frame in frames])
    steps_mm = np.diff(np.sort(along))
    off_mm = np.linalg.norm(positions - positions[0], axis=1) ** 2 - (along - along[0]) ** 2
    aside_mm = float(np.sqrt(off_mm.clip(0).max()))
    return is_even(steps_mm) and aside_mm <= EVEN * float(steps_mm.mean())


def _anatomy(frame: Frame, segment: Segment | None) -> Dataset:
    """Frame Anatomy (PS3.3, C.7.6.16.2.8), without which dcmqi reads no map: the source's region where it says one."""
    regions = frame.get("AnatomicRegionSequence")
    part = str(frame.instance.get("BodyPartExamined") or "")
    if regions:
        region = Code(*(str(regions[0].get(k) or "") for k in _CODE))
    elif part in _REGIONS:
        region = Code(_REGIONS[part][0], "SCT", _REGIONS[part][1])
    else:
        region = (segment.anatomic_region if segment else None) or ANATOMICAL_STRUCTURE
    anatomy = Dataset()
    anatomy.AnatomicRegionSequence = [coded(region if all(region) else ANATOMICAL_STRUCTURE)]
    laterality = frame.get("FrameLaterality") or frame.get("ImageLaterality")
    anatomy.FrameLaterality = laterality if regions and laterality in ("R", "L", "B") else "U"
    return anatomy
