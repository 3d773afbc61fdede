"""A label map, masks or fractions as a DICOM Segmentation (PS3.3, A.51) on the grid of its source images.

highdicom makes the object, of one frame; our own modules make the frames and what describes each of them, because a
whole-body segmentation has thousands. The test of this module holds both against what highdicom writes by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentDescription
from highdicom.spatial import get_volume_positions
from numpy.typing import NDArray
from pydicom import charset
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as PydicomCode
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    RLELossless,
)

from isocenter_operators.dicom.codes import ARTIFICIAL_INTELLIGENCE
from isocenter_operators.dicom.findings import Code, Segment
from isocenter_operators.dicom.header import DISCLAIMER, coded, has_sound, plane_of, referenced, stamp
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.multiframe import (
    along_mm,
    fix_dimension_uid,
    pixel_measures,
)
from isocenter_operators.dicom.results.profile import SegmentationKind
from isocenter_operators.dicom.results.seg_groups import per_frame_groups
from isocenter_operators.dicom.results.seg_pixels import (
    SegFrames,
    fractional_frames,
    label_frames,
    mask_frames,
)
from isocenter_operators.dicom.schemes import declare_schemes
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.series.placement import PLANE_TOLERANCE, SAME_PLACE_MM
from isocenter_operators.dicom.tracking import segment_tracking
from isocenter_operators.errors import GeometryError, InputError, InvalidResult

__all__ = ["FractionalKind", "fractional_segmentation", "segmentation"]

FractionalKind = Literal["PROBABILITY", "OCCUPANCY"]  # Segmentation Fractional Type (0062,0010)

_MOST_SEGMENTS = 65535  # Segment Number is an unsigned 16-bit number
_ROUNDING = 1e-5  # of fractions resampled in single precision; it vanishes in the steps they are stored in


def segmentation(
    *,
    labels: NDArray[Any],
    frames: Sequence[Frame],
    segments: Sequence[Segment],
    algorithm: Algorithm,
    identity: JobIdentity,
    kind: SegmentationKind = "BINARY",
    transfer_syntax_uid: str = ExplicitVRLittleEndian,
    algorithm_family: Code = ARTIFICIAL_INTELLIGENCE,
    series_number: int = 9001,
    series_description: str | None = None,
    disclaimer: str = DISCLAIMER,
) -> Dataset:
    """A BINARY or LABELMAP Segmentation with the non-empty frames only, each of them placed by its own attributes.

    A segment that is described and has no voxel stays described, as PS3.3, C.8.20.2.3 allows: it was looked for, and
    other results refer to it.

    Parameters
    ----------
    labels
        uint8 or uint16 (Z, Y, X): 0 for background, else a segment's number. Or bool (segments, Z, Y, X): a mask of
        each segment in their order; only these may overlap, and then only as BINARY.
    frames
        The image planes that it lies on, in the order of Z; their pixels are not needed. Of single-frame or of
        multi-frame instances.
    segments
        What each number stands for, in order from 1.
    kind
        "LABELMAP" is Label Map Segmentation Storage, which not every archive knows. Its background, the pixels of
        value 0, is described as a segment of its own and named in Pixel Padding Value (PS3.3, C.8.20.2.3).
    transfer_syntax_uid
        Explicit VR Little Endian; the deflated one; or, of a LABELMAP, RLE Lossless.
    algorithm_family
        The kind of algorithm (PS3.16, CID 7162).

    Raises GeometryError where `labels` does not have the shape of the sources or these are not planes of one volume,
    InputError where the sources have no frame of reference, InvalidResult where nothing is segmented, a number has no
    segment, or the segments can not be written as this kind.
    """
    if kind not in get_args(SegmentationKind):
        raise InputError(f"a segmentation is not written as {kind!r}, but as BINARY or LABELMAP")
    _refuse_wrong_syntax(kind, transfer_syntax_uid)
    _refuse_no_volume(frames)
    _refuse_wrong_labels(labels, frames, len(segments))
    _refuse_wrong_numbers(segments, frames[0].series_uid)
    if labels.ndim == 3:
        _refuse_undescribed(labels, len(segments), frames[0].series_uid)
    order = _order(frames)
    if kind == "BINARY":
        written = mask_frames(labels, order)
    else:
        written = label_frames(
            labels, order, highest=len(segments), compressed=transfer_syntax_uid == RLELossless
        )
    description = series_description or f"{algorithm.name} segmentation"
    about = _About(
        frames, order, segments, algorithm, identity, algorithm_family, series_number, description, "seg",
        disclaimer,
    )  # fmt: skip
    return _object(written, about, kind, transfer_syntax_uid=transfer_syntax_uid)


def fractional_segmentation(
    *,
    fractions: NDArray[np.float32] | NDArray[np.uint8],
    frames: Sequence[Frame],
    segments: Sequence[Segment],
    algorithm: Algorithm,
    identity: JobIdentity,
    kind: FractionalKind = "PROBABILITY",
    maximum_fractional_value: int = 255,
    transfer_syntax_uid: str = ExplicitVRLittleEndian,
    algorithm_family: Code = ARTIFICIAL_INTELLIGENCE,
    series_number: int = 9012,
    series_description: str | None = None,
    disclaimer: str = DISCLAIMER,
) -> Dataset:
    """A FRACTIONAL Segmentation: of each voxel how likely it belongs to a segment, or how much of it does.

    Parameters
    ----------
    fractions
        float32 (segments, Z, Y, X) in 0..1; or uint8, which are the stored values, 0..`maximum_fractional_value`.
    kind
        What they mean (PS3.3, C.8.20.2.3).
    maximum_fractional_value
        The stored value that stands for 1, in 1..255; fractions are rounded to its steps.
    transfer_syntax_uid
        Explicit VR Little Endian, the deflated one, or RLE Lossless.

    The others are as for `segmentation`, and so are the errors; InvalidResult also for a fraction outside 0..1.
    """
    if kind not in get_args(FractionalKind):
        raise InputError(f"fractions are not {kind!r}, but PROBABILITY or OCCUPANCY")
    _refuse_wrong_syntax("FRACTIONAL", transfer_syntax_uid)
    _refuse_no_volume(frames)
    _refuse_wrong_shape(fractions, frames, len(segments))
    _refuse_wrong_numbers(segments, frames[0].series_uid)
    _refuse_wrong_fractions(fractions, maximum_fractional_value, frames[0].series_uid)
    order = _order(frames)
    written = fractional_frames(
        fractions, order, maximum=maximum_fractional_value, compressed=transfer_syntax_uid == RLELossless
    )
    description = series_description or f"{algorithm.name} {kind.lower()}"
    about = _About(
        frames, order, segments, algorithm, identity, algorithm_family, series_number, description,
        "seg.fractional", disclaimer,
    )  # fmt: skip
    return _object(
        written,
        about,
        "FRACTIONAL",
        transfer_syntax_uid=transfer_syntax_uid,
        fractional_type=kind,
        maximum=maximum_fractional_value,
    )


@dataclass(frozen=True)
class _About:
    """What a Segmentation says besides its frames. `order`: the planes' indices as their frames are written."""

    frames: Sequence[Frame]
    order: Sequence[int]
    segments: Sequence[Segment]
    algorithm: Algorithm
    identity: JobIdentity
    algorithm_family: Code
    series_number: int
    description: str
    role: str  # of its UIDs
    disclaimer: str


def _object(
    written: SegFrames,
    about: _About,
    kind: str,
    *,
    transfer_syntax_uid: str,
    fractional_type: str = "PROBABILITY",
    maximum: int = 255,
) -> Dataset:
    if not written.entries:
        uid = about.frames[0].series_uid
        raise InvalidResult(f"series {uid}: the label map is empty, nothing was segmented", series_uid=uid)
    result = _one_frame(about, kind, fractional_type, maximum)
    result.SourceImageSequence = referenced(about.frames)
    result.ReferencedSeriesSequence = [_series(about)]
    result.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = pixel_measures(about.frames)
    result.SegmentsOverlap = written.overlap
    fix_dimension_uid(result, about.identity.uid(f"{about.role}.dimensions"))
    source = about.frames[0].instance
    if has_sound(source, "BodyPartExamined"):
        result.BodyPartExamined = source.BodyPartExamined
    result.ContentCreatorName = None  # type 2; highdicom leaves it out
    result.ImageComments = about.disclaimer
    del result.PerFrameFunctionalGroupsSequence
    declare_schemes(result)
    stamp(
        result,
        source=source,
        algorithm=about.algorithm,
        identity=about.identity,
        disclaimer=about.disclaimer,
        texts=[about.description, *(segment.label for segment in about.segments)],
    )
    return _with_frames(result, written, about, transfer_syntax_uid)


def _one_frame(about: _About, kind: str, fractional_type: str, maximum: int) -> Segmentation:
    """highdicom's object with a single frame, whose pixels stand for those to come."""
    # Once an image was compressed with loss, all that is derived of it says so (PS3.3, C.8.20.2.2).
    lossy = [frame for frame in about.frames if frame.instance.get("LossyImageCompression") == "01"]
    plane = plane_of((lossy or about.frames)[0])
    # By its class highdicom would take the plane of a multi-frame image for such an image. References are set later.
    plane.SOPClassUID = CTImageStorage
    pixels = np.zeros((1, plane.Rows, plane.Columns), np.uint8)
    pixels[0, 0, 0] = 1
    return Segmentation(
        source_images=[plane],
        pixel_array=pixels,
        segmentation_type=kind,
        segment_descriptions=[
            _description(segment, about.algorithm, about.algorithm_family, about.identity)
            for segment in about.segments
        ],
        series_instance_uid=about.identity.uid(f"{about.role}.series"),
        series_number=about.series_number,
        sop_instance_uid=about.identity.uid(about.role),
        instance_number=1,
        manufacturer=about.algorithm.manufacturer,
        manufacturer_model_name=about.algorithm.name,
        software_versions=about.algorithm.version,
        device_serial_number=about.algorithm.device_uid,
        fractional_type=fractional_type,
        max_fractional_value=maximum,
        content_label="SEGMENTATION",
        content_description=about.description[:64],
        series_description=about.description[:64],
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )


def _with_frames(made: Segmentation, written: SegFrames, about: _About, transfer_syntax_uid: str) -> Dataset:
    """The same object as a plain Dataset, since highdicom's has looked at its frames already, with these frames."""
    result = Dataset(made)
    result.file_meta = made.file_meta
    result.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    result.preamble = b"\0" * 128
    there = {z for _, z in written.entries}
    ranks = {z: rank for rank, z in enumerate((z for z in about.order if z in there), start=1)}
    several = any(number for number, _ in written.entries) and len(about.segments) > 1
    result.pop("DimensionOrganizationType", None)
    if not several and _volumetric(about, ranks):
        result.DimensionOrganizationType = "3D"
    result.NumberOfFrames = len(written.entries)
    vr = "OB" if result.BitsAllocated <= 8 or result.file_meta.TransferSyntaxUID.is_encapsulated else "OW"
    result["PixelData"] = DataElement("PixelData", vr, written.pixel_data)
    result["PixelData"].is_undefined_length = result.file_meta.TransferSyntaxUID.is_encapsulated
    if "PixelPaddingValue" in result:
        result["PixelPaddingValue"].VR = "US"
    # Now that everything else is in its final form, pydicom may write the encoded groups as they are.
    groups = per_frame_groups(written.entries, about.frames, ranks, segments_differ=several)
    result[groups.tag] = groups
    character_set = result.get("SpecificCharacterSet")
    encoding = charset.convert_encodings(character_set) if character_set else charset.default_encoding
    result.set_original_encoding(False, True, encoding)
    return result


def _volumetric(about: _About, ranks: dict[int, int]) -> bool:
    """Whether the frames are neighbouring slices at right angles to their line (PS3.3, C.7.6.17.3)."""
    if len(ranks) < 2 or max(ranks) - min(ranks) >= len(ranks):
        return False
    positions_mm = [about.frames[z].position_mm for z in ranks]
    spacing_mm, _ = get_volume_positions(positions_mm, about.frames[0].directions.ravel())
    return spacing_mm is not None and spacing_mm > 0


def _series(about: _About) -> Dataset:
    """The source series in the Common Instance Reference module: each instance once, whole (PS3.3, C.12.2)."""
    item = Dataset()
    item.SeriesInstanceUID = about.frames[0].series_uid
    item.ReferencedInstanceSequence = []
    for reference in referenced(about.frames):
        reference.pop("ReferencedFrameNumber", None)
        item.ReferencedInstanceSequence.append(reference)
    return item


def _order(frames: Sequence[Frame]) -> list[int]:
    """The planes' indices as highdicom writes them: against the normal, so that columns, rows and planes turn right."""
    order: list[int] = np.argsort(-along_mm(frames), kind="stable").tolist()
    return order


def _refuse_no_volume(frames: Sequence[Frame]) -> None:
    """All of one size, orientation and frame of reference, and no two in one place."""
    if not frames:
        raise GeometryError("there are no images that a segmentation could be about")
    uid = frames[0].series_uid
    for what, values in (
        ("SeriesInstanceUID", {frame.series_uid for frame in frames}),
        ("FrameOfReferenceUID", {str(frame.instance.get("FrameOfReferenceUID", "")) for frame in frames}),
        ("Rows and Columns", {frame.shape for frame in frames}),
    ):
        if len(values) > 1:
            raise GeometryError(
                f"series {uid}: its images differ in {what}; a segmentation is about one volume",
                series_uid=uid,
            )
    orientations = np.array([frame.directions for frame in frames])
    if np.abs(orientations - orientations[0]).max() > PLANE_TOLERANCE:
        raise GeometryError(f"series {uid}: its images differ in ImageOrientationPatient", series_uid=uid)
    if np.diff(np.sort(along_mm(frames))).min(initial=np.inf) < SAME_PLACE_MM:
        raise GeometryError(f"series {uid}: two of its images lie in the same place", series_uid=uid)


def _refuse_wrong_syntax(kind: str, transfer_syntax_uid: str) -> None:
    allowed = [ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
    allowed += [] if kind == "BINARY" else [RLELossless]
    if transfer_syntax_uid not in allowed:
        names = ", ".join(one.name for one in allowed)
        raise InputError(f"a {kind} segmentation is written in one of {names}; not in {transfer_syntax_uid}")


def _refuse_wrong_labels(labels: NDArray[Any], frames: Sequence[Frame], segments: int) -> None:
    masks = labels.ndim == 4
    allowed = (np.bool_,) if masks else (np.uint8, np.uint16)
    _refuse_wrong_shape(labels, frames, segments if masks else None)
    if labels.dtype not in allowed:
        what = "masks hold" if masks else "label map holds"
        names = " or ".join(np.dtype(one).name for one in allowed)
        raise InputError(f"the {what} {labels.dtype}; {names} is expected")


def _refuse_wrong_shape(array: NDArray[Any], frames: Sequence[Frame], segments: int | None) -> None:
    expected: tuple[int, ...] = (len(frames), *frames[0].shape)
    axes = "(Z, Y, X)"
    if segments is not None:
        expected, axes = (segments, *expected), "(segments, Z, Y, X)"
    if array.shape != expected:
        uid = frames[0].series_uid
        raise GeometryError(
            f"series {uid}: the label map is {array.shape}, its source images are {expected} {axes}",
            series_uid=uid,
        )


def _refuse_wrong_numbers(segments: Sequence[Segment], series_uid: str) -> None:
    numbers = [segment.number for segment in segments]
    if not numbers or numbers != list(range(1, len(numbers) + 1)) or len(numbers) > _MOST_SEGMENTS:
        shown = str(numbers[:10])[1:-1] + (" ..." if len(numbers) > 10 else "") or "not at all"
        raise InvalidResult(
            f"segments are numbered {shown}; they must be 1, 2, 3 ... (PS3.3, C.8.20.2.4)",
            series_uid=series_uid,
        )


def _refuse_undescribed(labels: NDArray[Any], segments: int, series_uid: str) -> None:
    highest = int(labels.max(initial=0))
    if highest > segments:
        raise InvalidResult(
            f"series {series_uid}: the label map holds {highest}, but only {segments} segments are described",
            series_uid=series_uid,
        )


def _refuse_wrong_fractions(fractions: NDArray[Any], maximum: int, series_uid: str) -> None:
    if not 1 <= maximum <= 255:
        raise InputError(f"the maximum fractional value is {maximum}; it may be 1 to 255")
    if fractions.dtype not in (np.float32, np.uint8):
        raise InputError(f"the fractions are {fractions.dtype}; float32 or uint8 is expected")
    most = 1.0 if fractions.dtype == np.float32 else maximum
    slack = _ROUNDING if fractions.dtype == np.float32 else 0.0
    for number, segment in enumerate(fractions, start=1):
        # NaN is neither, so it is refused too.
        if not (float(segment.min()) >= -slack and float(segment.max()) <= most + slack):
            raise InvalidResult(
                f"series {series_uid}: segment {number} has fractions outside 0..{most:g}",
                series_uid=series_uid,
            )


def _description(
    segment: Segment, algorithm: Algorithm, family: Code, identity: JobIdentity
) -> SegmentDescription:
    tracking_id, tracking_uid = segment_tracking(segment, algorithm, identity)
    description = SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.label,
        segmented_property_category=PydicomCode(*segment.category),
        segmented_property_type=PydicomCode(*segment.type),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=algorithm.name,
            family=PydicomCode(*family),
            version=algorithm.version,
            source=algorithm.manufacturer,
            parameters=dict(sorted(algorithm.models.items())) or None,
        ),
        tracking_uid=tracking_uid,
        tracking_id=tracking_id,
        display_color=CIELabColor.from_rgb(*segment.display_rgb),
        anatomic_regions=[PydicomCode(*segment.anatomic_region)] if segment.anatomic_region else None,
    )
    if segment.laterality is not None:
        modifier = [coded(segment.laterality)]  # CID 244
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = modifier
    return description
