"""A label map as a DICOM Segmentation (PS3.3, A.51) on the grid of its source images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom import AlgorithmIdentificationSequence, PixelMeasuresSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code as PydicomCode
from pydicom.uid import ExplicitVRLittleEndian

from isocenter_operators.dicom.codes import ARTIFICIAL_INTELLIGENCE
from isocenter_operators.dicom.findings import Code, Segment
from isocenter_operators.dicom.frame import Frame
from isocenter_operators.dicom.header import DISCLAIMER, coded, has_sound, plane_of, stamp
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.schemes import declare_schemes
from isocenter_operators.dicom.tracking import segment_tracking
from isocenter_operators.errors import GeometryError, InputError, InvalidResult

__all__ = ["segmentation"]


def segmentation(
    *,
    labels: NDArray[np.uint8],
    frames: Sequence[Frame],
    segments: Sequence[Segment],
    algorithm: Algorithm,
    identity: JobIdentity,
    algorithm_family: Code = ARTIFICIAL_INTELLIGENCE,
    series_number: int = 9001,
    series_description: str | None = None,
    disclaimer: str = DISCLAIMER,
) -> Segmentation:
    """A BINARY Segmentation with the non-empty frames only.

    Parameters
    ----------
    labels
        uint8 (Z, Y, X): 0 for background, else a segment's number.
    frames
        The image planes that it lies on, in the order of Z; their pixels are not needed.
    segments
        What each number stands for, in order from 1.
    algorithm_family
        The kind of algorithm (PS3.16, CID 7162).

    Raises GeometryError where `labels` does not have the shape of the sources, InputError where the sources have no
    frame of reference, InvalidResult where nothing is segmented or a number has no segment.
    """
    planes = [plane_of(frame) for frame in frames]
    _refuse_wrong_shape(labels, planes)
    _refuse_wrong_numbers(labels, segments, planes[0].SeriesInstanceUID)
    description = series_description or f"{algorithm.name} segmentation"
    result = Segmentation(
        source_images=planes,
        pixel_array=labels,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _description(segment, algorithm, algorithm_family, identity) for segment in segments
        ],
        series_instance_uid=identity.uid("seg.series"),
        series_number=series_number,
        sop_instance_uid=identity.uid("seg"),
        instance_number=1,
        manufacturer=algorithm.manufacturer,
        manufacturer_model_name=algorithm.name,
        software_versions=algorithm.version,
        device_serial_number=algorithm.device_uid,
        content_label="SEGMENTATION",
        content_description=description[:64],
        series_description=description[:64],
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    # highdicom takes the first image's own measures, which may lack the thickness and the distance.
    result.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = _pixel_measures(planes)
    _fix_dimension_uid(result, identity)
    if has_sound(frames[0].instance, "BodyPartExamined"):
        result.BodyPartExamined = frames[0].instance.BodyPartExamined
    result.ContentCreatorName = None  # type 2; highdicom leaves it out
    result.ImageComments = disclaimer
    declare_schemes(result)
    stamp(
        result,
        source=frames[0].instance,
        algorithm=algorithm,
        identity=identity,
        disclaimer=disclaimer,
        texts=[description, *(segment.label for segment in segments)],
    )
    return result


def _refuse_wrong_shape(labels: NDArray[np.uint8], planes: Sequence[Dataset]) -> None:
    expected = (len(planes), int(planes[0].Rows), int(planes[0].Columns))
    if labels.shape != expected:
        raise GeometryError(
            f"series {planes[0].SeriesInstanceUID}: the label map is {labels.shape} (Z, Y, X), its source images are "
            f"{expected}",
            series_uid=planes[0].SeriesInstanceUID,
        )
    if labels.dtype != np.uint8:
        raise InputError(f"the label map holds {labels.dtype}; uint8 is expected")


def _refuse_wrong_numbers(labels: NDArray[np.uint8], segments: Sequence[Segment], series_uid: str) -> None:
    numbers = [segment.number for segment in segments]
    if numbers != list(range(1, len(numbers) + 1)):
        raise InvalidResult(
            f"segments are numbered {numbers}; they must be 1, 2, 3 ... (PS3.3, C.8.20.2.4)",
            series_uid=series_uid,
        )
    highest = int(labels.max(initial=0))
    if highest == 0:
        raise InvalidResult(
            f"series {series_uid}: the label map is empty, nothing was segmented", series_uid=series_uid
        )
    if highest > len(numbers):
        raise InvalidResult(
            f"series {series_uid}: the label map holds {highest}, but only {len(numbers)} segments are described",
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


def _pixel_measures(planes: Sequence[Dataset]) -> PixelMeasuresSequence:
    """In-plane spacing, and the distance between slices along their normal (PS3.3, C.7.6.16.2.1)."""
    cosines = np.array(planes[0].ImageOrientationPatient, np.float64)
    normal = np.cross(cosines[:3], cosines[3:])
    first, last = (np.array(plane.ImagePositionPatient, np.float64) for plane in (planes[0], planes[-1]))
    distance_mm = abs(float(normal @ (last - first))) / max(len(planes) - 1, 1)
    row_mm, column_mm = (float(value) for value in planes[0].PixelSpacing)
    return PixelMeasuresSequence(
        pixel_spacing=(row_mm, column_mm),
        slice_thickness=float(planes[0].SliceThickness or distance_mm),
        spacing_between_slices=round(distance_mm, 6) or None,
    )


def _fix_dimension_uid(result: Segmentation, identity: JobIdentity) -> None:
    """highdicom draws this UID at random; the same job has to give the same bytes."""
    uid = identity.uid("seg.dimensions")
    result.DimensionOrganizationSequence[0].DimensionOrganizationUID = uid
    for index in result.DimensionIndexSequence:
        index.DimensionOrganizationUID = uid
