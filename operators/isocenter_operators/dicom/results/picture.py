"""The result as pictures (Secondary Capture, PS3.3, A.8.1): what a reader sees whose viewer shows no SR numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom import CoordinateSystemNames, PhotometricInterpretationValues
from highdicom.sc import SCImage
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from isocenter_operators.dicom.findings import Code, Findings, Segment
from isocenter_operators.dicom.header import DISCLAIMER, UNPAIRED, coded, has_sound, referenced, stamp
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.drawing import drawn
from isocenter_operators.dicom.results.plane import Section, View, largest_sections
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.series.geometry import Volume
from isocenter_operators.errors import GeometryError, InvalidResult

__all__ = ["overlay_pictures"]

_SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")  # CID 7202
_VIEWS: tuple[View, View] = ("coronal", "axial")


def overlay_pictures(
    *,
    volume: Volume,
    labels: NDArray[np.uint8],
    segments: Sequence[Segment],
    findings: Findings,
    algorithm: Algorithm,
    identity: JobIdentity,
    series_number: int = 9003,
    series_description: str | None = None,
    disclaimer: str = DISCLAIMER,
    sections: Sequence[Section] = (),
) -> list[SCImage]:
    """Pictures, RGB, 1024 by 1024 pixels, of one series: of these sections; by default a coronal and an axial one, each
    with the largest segmented area.

    Each shows the segments' outlines, the numbers with their units, the notes, and who made it. Nothing in them
    identifies the patient.

    `labels`: uint8 (Z, Y, X), on the volume's grid. Raises GeometryError where it is not, InvalidResult where it is
    empty.
    """
    series_uid = str(volume.frames[0].series_uid)
    if labels.shape != volume.voxels.shape:
        raise GeometryError(
            f"series {series_uid}: the label map is {labels.shape}, the volume {volume.voxels.shape} (Z, Y, X)",
            series_uid=series_uid,
        )
    if not labels.any():
        raise InvalidResult(
            f"series {series_uid}: the label map is empty, there is nothing to show", series_uid=series_uid
        )
    description = (series_description or f"{algorithm.name} pictures")[:64]
    source_images = _source_images(volume.frames)
    pictures = []
    for number, section in enumerate(sections or largest_sections(labels, volume.affine, _VIEWS), 1):
        pixels = drawn(
            section=section,
            volume=volume,
            labels=labels,
            segments=segments,
            findings=findings,
            algorithm=algorithm,
            disclaimer=disclaimer,
        )
        picture = _capture(
            pixels=pixels,
            section=section,
            number=number,
            source=volume.sources[0],
            source_images=source_images,
            identity=identity,
            series_number=series_number,
            description=description,
        )
        picture.ImageComments = disclaimer
        stamp(
            picture,
            source=volume.sources[0],
            algorithm=algorithm,
            identity=identity,
            disclaimer=disclaimer,
            texts=[description],
        )
        picture.DateOfSecondaryCapture, picture.TimeOfSecondaryCapture = (
            picture.ContentDate,
            picture.ContentTime,
        )
        pictures.append(picture)
    return pictures


def _capture(
    *,
    pixels: NDArray[np.uint8],
    section: Section,
    number: int,
    source: Dataset,
    source_images: Sequence[Dataset],
    identity: JobIdentity,
    series_number: int,
    description: str,
) -> SCImage:
    picture = SCImage(
        pixel_array=pixels,
        photometric_interpretation=PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=CoordinateSystemNames.PATIENT,
        study_instance_uid=str(source.StudyInstanceUID),
        series_instance_uid=identity.uid("picture.series"),
        series_number=series_number,
        sop_instance_uid=identity.uid(f"picture.{number}"),
        instance_number=number,
        manufacturer="",
        patient_orientation=section.patient_orientation,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=description,
    )
    picture.ConversionType = "WSD"
    # C.7.6.1.1.1 asks whether the burned-in text identifies the patient and the date, not whether there is text.
    picture.BurnedInAnnotation = "NO"
    picture.RecognizableVisualFeatures = "NO"
    picture.DerivationDescription = (
        f"{section.view} section with outlines of the segments and a table of measurements"
    )
    picture.SourceImageSequence = source_images
    # Of a paired organ, and where no body part is known, Laterality is type 2C; elsewhere it must not be there.
    if has_sound(source, "BodyPartExamined") and source.BodyPartExamined in UNPAIRED:
        picture.BodyPartExamined = source.BodyPartExamined
    else:
        picture.Laterality = None
    return picture


def _source_images(frames: Sequence[Frame]) -> list[Dataset]:
    purpose = coded(_SOURCE_IMAGE)
    images = referenced(frames)
    for image in images:
        image.PurposeOfReferenceCodeSequence = [Dataset(purpose)]
    return images
