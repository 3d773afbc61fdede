"""A label map as an RT Structure Set (PS3.3, A.19): the outlines of its segments on the planes of its source images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from highdicom import AlgorithmIdentificationSequence, SOPClass
from numpy.typing import NDArray
from pydicom.charset import default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as PydicomCode
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from isocenter_operators.dicom.codes import ANATOMICAL_STRUCTURE, ARTIFICIAL_INTELLIGENCE
from isocenter_operators.dicom.findings import Code, Segment
from isocenter_operators.dicom.header import DISCLAIMER, coded, plane_of, referenced, stamp
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.contour import in_patient, outlines
from isocenter_operators.dicom.schemes import declare_schemes
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.tracking import segment_tracking
from isocenter_operators.errors import GeometryError, InputError, InvalidResult

__all__ = ["structure_set"]

_STUDY = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management: what C.8.8.5.4 asks for as the study's class
_CONTOUR_DATA = Tag("ContourData")
_LO, _SH = 64, 16  # characters (PS3.5, 6.2)
_MOST_POINTS = 20_000_000  # some 600 MB of text
_LARGEST_MM = (
    1e8  # with its sign and four decimals a Decimal String of 14 characters, of the 16 that it may have
)


def structure_set(
    *,
    labels: NDArray[Any],
    frames: Sequence[Frame],
    segments: Sequence[Segment],
    algorithm: Algorithm,
    identity: JobIdentity,
    algorithm_family: Code = ARTIFICIAL_INTELLIGENCE,
    series_number: int = 9007,
    series_description: str | None = None,
    disclaimer: str = DISCLAIMER,
) -> SOPClass:
    """An RT Structure Set with one region of interest for each segment that has a voxel, numbered as the segment.

    Each region is CLOSED_PLANAR contours along the edges of its voxels, holes joined by a keyhole (see `contour`); to
    fill them on the images' grid gives the label map back. No contour is simplified. Coordinates are written to 0.0001
    mm. Nobody has approved it, and it says so (Approval Status, C.8.8.16).

    It is written in Implicit VR Little Endian: an element of Contour Data may be longer than the 64 KB that Explicit VR
    has room for (C.8.8.6, note).

    A name of more than 64 characters does not fit into ROI Name: it is shortened visibly, and ROI Description has it in
    full. The tracking identifiers are those of the segmentation; as the IOD has no place for them, they make this a
    Standard Extended SOP Class (PS3.2, 3.11.1).

    Parameters
    ----------
    labels
        uint8 or uint16 (Z, Y, X): 0 for background, else a segment's number. Or bool (segments, Z, Y, X): a mask of
        each segment in their order; these may overlap.
    frames
        The image planes that it lies on, in the order of Z; their pixels are not needed. Each may lie and be turned as
        it likes: every contour is placed by its own.
    segments
        What each number stands for, in order from 1.
    algorithm_family
        The kind of algorithm (PS3.16, CID 7162).

    Raises GeometryError where `labels` does not have the shape of the frames, InputError where the sources have no
    frame of reference, InvalidResult where nothing is segmented, a number has no segment, or the outlines are too many
    to be of any use.
    """
    plane = plane_of(frames[0])
    _refuse_wrong_labels(labels, frames, segments)
    contours = _contours(labels, frames, segments)
    present = [segment for segment in segments if contours[segment.number]]
    if not present:
        uid = plane.SeriesInstanceUID
        raise InvalidResult(
            f"series {uid}: the label map is empty, there is nothing to outline", series_uid=uid
        )
    description = series_description or f"{algorithm.name} structure set"
    result = SOPClass(
        study_instance_uid=plane.StudyInstanceUID,
        series_instance_uid=identity.uid("rtstruct.series"),
        series_number=series_number,
        sop_instance_uid=identity.uid("rtstruct"),
        sop_class_uid=RTStructureSetStorage,
        instance_number=1,
        modality="RTSTRUCT",
        manufacturer=algorithm.manufacturer,
        transfer_syntax_uid=ImplicitVRLittleEndian,
        series_description=description[:_LO],
    )
    _describe(result, plane, algorithm, description, disclaimer)
    result.ReferencedFrameOfReferenceSequence = [_frame_of_reference(frames, plane)]
    result.StructureSetROISequence = [
        _roi(segment, plane, algorithm, algorithm_family, identity) for segment in present
    ]
    result.ROIContourSequence = [_roi_contour(segment, contours[segment.number]) for segment in present]
    result.RTROIObservationsSequence = [_observation(segment) for segment in present]
    result.ApprovalStatus = "UNAPPROVED"
    declare_schemes(result)
    stamp(
        result,
        source=frames[0].instance,
        algorithm=algorithm,
        identity=identity,
        disclaimer=disclaimer,
        texts=[description, *(segment.label for segment in present)],
    )
    result.StructureSetDate, result.StructureSetTime = result.SeriesDate, result.SeriesTime
    for keyword in ("ContentDate", "ContentTime", "ContentQualification"):  # of images and of reports on them
        del result[keyword]
    return result


def _describe(
    result: Dataset, plane: Dataset, algorithm: Algorithm, description: str, disclaimer: str
) -> None:
    """Frame of Reference, and what the structure set is called (PS3.3, C.7.4.1 and C.8.8.5)."""
    result.OperatorsName = None  # type 2
    result.FrameOfReferenceUID = plane.FrameOfReferenceUID
    result.PositionReferenceIndicator = plane.PositionReferenceIndicator
    result.StructureSetLabel = algorithm.name if len(algorithm.name) <= _SH else "AUTOMATIC"
    result.StructureSetName = description[:_LO]
    result.StructureSetDescription = f"{algorithm.name} {algorithm.version}. {disclaimer}."


def _refuse_wrong_labels(labels: NDArray[Any], frames: Sequence[Frame], segments: Sequence[Segment]) -> None:
    uid = frames[0].series_uid
    numbers = [segment.number for segment in segments]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise InvalidResult("segments must be numbered 1, 2, 3 ...", series_uid=uid)
    masks = labels.ndim == 4
    if labels.dtype not in ((np.bool_,) if masks else (np.uint8, np.uint16)):
        raise InputError(
            f"the label map holds {labels.dtype}; uint8 or uint16 (Z, Y, X) or bool (segments, Z, Y, X) is expected"
        )
    expected: tuple[int, ...] = (len(frames), *frames[0].shape)
    if masks:
        expected = (len(segments), *expected)
    if labels.shape != expected or any(frame.shape != frames[0].shape for frame in frames):
        raise GeometryError(
            f"series {uid}: the label map is {labels.shape}, its source images are {expected}", series_uid=uid
        )
    highest = 0 if masks else int(labels.max(initial=0))
    if highest > len(segments):
        raise InvalidResult(
            f"series {uid}: the label map holds {highest}, but only {len(segments)} segments are described",
            series_uid=uid,
        )


def _contours(
    labels: NDArray[Any], frames: Sequence[Frame], segments: Sequence[Segment]
) -> dict[int, list[Dataset]]:
    """Of each segment's number its contours, plane by plane."""
    contours: dict[int, list[Dataset]] = {segment.number: [] for segment in segments}
    points = 0
    for index, frame in enumerate(frames):
        found = list(_polygons(labels, index))
        if not found:
            continue
        lengths = [len(polygon) for _, polygon in found]
        points += sum(lengths)
        _refuse_many(points, frame)
        placed = _written_mm(in_patient(np.concatenate([polygon for _, polygon in found]), frame), frame)
        (image,) = referenced([frame])
        for (number, _), mm in zip(found, np.split(placed, np.cumsum(lengths[:-1])), strict=True):
            contours[number].append(_contour(mm, image, len(contours[number]) + 1))
    return contours


def _polygons(labels: NDArray[Any], index: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
    planes = [labels[index]] if labels.ndim == 3 else labels[:, index]
    for first, plane in enumerate(planes):
        for value, polygons in outlines(plane).items():
            for polygon in polygons:
                yield first + value, polygon


def _refuse_many(points: int, frame: Frame) -> None:
    if points > _MOST_POINTS:
        raise InvalidResult(
            f"series {frame.series_uid}: the outlines have more than {_MOST_POINTS} points, more than readers of "
            "structure sets bear; write a segmentation instead",
            series_uid=frame.series_uid,
        )


def _written_mm(points_mm: NDArray[np.float64], frame: Frame) -> NDArray[np.float64]:
    if np.abs(points_mm).max() > _LARGEST_MM:
        raise GeometryError(
            f"{frame.name}: lies more than {_LARGEST_MM:g} mm from the origin, which can not be written",
            series_uid=frame.series_uid,
        )
    rounded: NDArray[np.float64] = np.round(points_mm, 4) + 0.0  # so that there is no -0
    return rounded


def _contour(points_mm: NDArray[np.float64], image: Dataset, number: int) -> Dataset:
    if (points_mm[0, :2] == points_mm[-1, :2]).all():
        # plastimatch takes a last point with the first one's x and y for its repetition, whatever its z, and drops it.
        points_mm = np.roll(points_mm, -1, axis=0)
    own = Dataset()  # pydicom's own copies share their elements
    for element in image:
        own.add_new(element.tag, element.VR, element.value)
    item = Dataset()
    item.ContourNumber = number
    item.ContourImageSequence = [own]
    item.ContourGeometricType = "CLOSED_PLANAR"
    item.NumberOfContourPoints = len(points_mm)
    text = ("\\%.4f" * points_mm.size)[1:] % tuple(points_mm.ravel().tolist())
    # As it will stand in the file: millions of numbers are not turned into objects that become text again.
    value = (text + " " * (len(text) % 2)).encode()
    item[_CONTOUR_DATA] = RawDataElement(_CONTOUR_DATA, "DS", len(value), value, 0, True, True)
    item.set_original_encoding(True, True, default_encoding)
    return item


def _frame_of_reference(frames: Sequence[Frame], plane: Dataset) -> Dataset:
    """Every image that the label map lies on, with or without a contour (C.8.8.5)."""
    series = Dataset()
    series.SeriesInstanceUID = plane.SeriesInstanceUID
    series.ContourImageSequence = referenced(frames)
    study = Dataset()
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = _STUDY, plane.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    item = Dataset()
    item.FrameOfReferenceUID = plane.FrameOfReferenceUID
    item.RTReferencedStudySequence = [study]
    return item


def _roi(
    segment: Segment, plane: Dataset, algorithm: Algorithm, family: Code, identity: JobIdentity
) -> Dataset:
    item = Dataset()
    item.ROINumber = segment.number
    item.ReferencedFrameOfReferenceUID = plane.FrameOfReferenceUID
    item.ROIName = _roi_name(segment)
    if item.ROIName != segment.label:
        item.ROIDescription = segment.label
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    item.ROIGenerationDescription = f"{algorithm.name} {algorithm.version}"[:_LO]
    item.ROIDerivationAlgorithmIdentificationSequence = AlgorithmIdentificationSequence(
        name=algorithm.name,
        family=PydicomCode(*family),
        version=algorithm.version,
        source=algorithm.manufacturer,
        parameters=dict(sorted(algorithm.models.items())) or None,
    )
    item.TrackingID, item.TrackingUID = segment_tracking(segment, algorithm, identity)
    return item


def _roi_name(segment: Segment) -> str:
    name = segment.label.replace("\\", "/")  # which would part it into two values
    end = f"... ({segment.number})"  # two long names may begin alike
    return name if len(name) <= _LO else name[: _LO - len(end)] + end


def _roi_contour(segment: Segment, contours: list[Dataset]) -> Dataset:
    item = Dataset()
    item.ReferencedROINumber = segment.number
    item.ROIDisplayColor = list(segment.display_rgb)
    item.ContourSequence = contours
    return item


def _observation(segment: Segment) -> Dataset:
    """What the region is (C.8.8.8). Only an anatomical structure is called an organ; what else it may mean to whoever
    plans a treatment, a person has to say."""
    item = Dataset()
    item.ObservationNumber = segment.number
    item.ReferencedROINumber = segment.number
    if segment.anatomic_region is not None:
        item.AnatomicRegionSequence = [coded(segment.anatomic_region)]
    item.SegmentedPropertyCategoryCodeSequence = [coded(segment.category)]
    kind = coded(segment.type)
    if segment.laterality is not None:
        kind.SegmentedPropertyTypeModifierCodeSequence = [coded(segment.laterality)]  # CID 244
    item.RTROIIdentificationCodeSequence = [kind]
    item.RTROIInterpretedType = "ORGAN" if segment.category == ANATOMICAL_STRUCTURE else None
    item.ROIInterpreter = None
    return item
