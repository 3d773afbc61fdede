"""Results of the kinds that Isocenter writes, as others write them: highdicom, and by hand after the standard."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

_MAKER = {
    "manufacturer": "Somebody",
    "manufacturer_model_name": "Something",
    "software_versions": "1",
    "device_serial_number": "1",
}


def label_map(sources: Sequence[Dataset], labels: NDArray[np.uint8]) -> Dataset:
    """A LABELMAP segmentation with the numbers 1 and 2, compressed with RLE."""
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=labels,
        segmentation_type="LABELMAP",
        segment_descriptions=[_segment(number) for number in (1, 2)],
        series_instance_uid="1.2.3.1",
        series_number=1,
        sop_instance_uid="1.2.3.1.1",
        instance_number=1,
        transfer_syntax_uid="1.2.840.10008.1.2.5",
        **_MAKER,
    )


def _segment(number: int) -> hd.seg.SegmentDescription:
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"segment {number}",
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=codes.SCT.Lung,
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            "a", codes.DCM.ArtificialIntelligence, "1"
        ),
        tracking_uid=f"1.2.3.9.{number}",
        tracking_id=f"thing {number}",
    )


def parametric_map(sources: Sequence[Dataset], values: NDArray[np.float32]) -> Dataset:
    return hd.pm.ParametricMap(
        source_images=sources,
        pixel_array=values,
        series_instance_uid="1.2.3.2",
        series_number=2,
        sop_instance_uid="1.2.3.2.1",
        instance_number=1,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[
            hd.pm.RealWorldValueMapping(
                lut_label="1",
                lut_explanation="probability",
                unit=codes.UCUM.NoUnits,
                value_range=(0.0, 1.0),
                slope=1,
                intercept=0,
                quantity_definition=codes.DCM.ProbabilityOfCancer,
            )
        ],
        voi_lut_transformations=[hd.VOILUTTransformation(0.5, 1)],
        content_label="PROBABILITY",
        derivation=codes.cid7203.Smoothing,
        **_MAKER,
    )


def presentation_state(image: Dataset) -> Dataset:
    """A circle and a word on one image."""
    layer = hd.pr.GraphicLayer("LAYER1", 1)
    circle = hd.pr.GraphicObject("CIRCLE", np.array([[5.0, 5.0], [9.0, 5.0]]), "PIXEL")
    word = hd.pr.TextObject("there", "PIXEL", anchor_point=(5, 5))
    annotation = hd.pr.GraphicAnnotation([image], layer, graphic_objects=[circle], text_objects=[word])
    return hd.pr.GrayscaleSoftcopyPresentationState(
        referenced_images=[image],
        series_instance_uid="1.2.3.3",
        series_number=3,
        sop_instance_uid="1.2.3.3.1",
        instance_number=1,
        content_label="FINDINGS",
        graphic_annotations=[annotation],
        graphic_layers=[layer],
        concept_name=codes.DCM.PresentationState,
        **_MAKER,
    )


def key_objects(images: Sequence[Dataset]) -> Dataset:
    content = hd.ko.KeyObjectSelection(codes.DCM.OfInterest, images)
    return hd.ko.KeyObjectSelectionDocument(
        images,
        content,
        series_instance_uid="1.2.3.4",
        series_number=4,
        sop_instance_uid="1.2.3.4.1",
        instance_number=1,
        manufacturer="Somebody",
    )


def structure_set(images: Sequence[Dataset]) -> Dataset:
    """One closed contour on the first image (PS3.3, A.19)."""
    first = images[0]
    result = _begun(first, "1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", "1.2.3.5")
    result.StructureSetLabel, result.StructureSetDate, result.StructureSetTime = "LUNGS", "20261122", "1030"
    listed = [_reference(image) for image in images]
    series = Dataset()
    series.SeriesInstanceUID, series.ContourImageSequence = first.SeriesInstanceUID, listed
    study = Dataset()
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID, study.RTReferencedSeriesSequence = first.StudyInstanceUID, [series]
    frame = Dataset()
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = first.FrameOfReferenceUID, [study]
    result.ReferencedFrameOfReferenceSequence = [frame]
    roi = Dataset()
    roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = 1, "Right lung", "AUTOMATIC"
    roi.ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
    result.StructureSetROISequence = [roi]
    x, y, z = (float(value) for value in first.ImagePositionPatient)
    contour = Dataset()
    contour.ContourImageSequence = [_reference(first)]
    contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 4
    contour.ContourData = [x, y, z, x + 9, y, z, x + 9, y + 9, z, x, y + 9, z]
    contours = Dataset()
    contours.ReferencedROINumber, contours.ROIDisplayColor, contours.ContourSequence = (
        1,
        [255, 0, 0],
        [contour],
    )
    result.ROIContourSequence = [contours]
    observation = Dataset()
    observation.ObservationNumber, observation.ReferencedROINumber = 1, 1
    observation.RTROIInterpretedType, observation.ROIInterpreter = "ORGAN", ""
    result.RTROIObservationsSequence = [observation]
    return result


def encapsulated_pdf(image: Dataset) -> Dataset:
    """PS3.3, A.45.1."""
    result = _begun(image, "1.2.840.10008.5.1.4.1.1.104.1", "DOC", "1.2.3.6")
    result.ContentDate, result.ContentTime = "20261122", "1030"
    result.BurnedInAnnotation, result.DocumentTitle, result.ConceptNameCodeSequence = "YES", "Report", []
    result.MIMETypeOfEncapsulatedDocument = "application/pdf"
    result.EncapsulatedDocument = b"%PDF-1.4\n" + b" " * 80 + b"\n%%EOF\n"
    result.EncapsulatedDocumentLength = 96
    return result


def basic_text(image: Dataset) -> Dataset:
    """A sentence that was inferred from an image, in a Basic Text SR (PS3.3, A.35.1)."""
    result = _begun(image, "1.2.840.10008.5.1.4.1.1.88.11", "SR", "1.2.3.7")
    result.CompletionFlag, result.VerificationFlag = "COMPLETE", "UNVERIFIED"
    result.ValueType, result.ContinuityOfContent = "CONTAINER", "SEPARATE"
    result.ConceptNameCodeSequence = [_code("18748-4", "LN", "Diagnostic imaging report")]
    picture = Dataset()
    picture.RelationshipType, picture.ValueType = "INFERRED FROM", "IMAGE"
    picture.ReferencedSOPSequence = [_reference(image)]
    sentence = Dataset()
    sentence.RelationshipType, sentence.ValueType, sentence.TextValue = (
        "CONTAINS",
        "TEXT",
        "Nothing was found.",
    )
    sentence.ConceptNameCodeSequence = [_code("121071", "DCM", "Finding")]
    sentence.ContentSequence = [picture]
    result.ContentSequence = [sentence]
    series = Dataset()
    series.SeriesInstanceUID, series.ReferencedSOPSequence = image.SeriesInstanceUID, [_reference(image)]
    study = Dataset()
    study.StudyInstanceUID, study.ReferencedSeriesSequence = image.StudyInstanceUID, [series]
    result.CurrentRequestedProcedureEvidenceSequence = [study]
    return result


def _begun(image: Dataset, sop_class: str, modality: str, series: str) -> Dataset:
    """Patient, study, series and instance."""
    result = Dataset()
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result.file_meta.MediaStorageSOPClassUID = sop_class
    result.file_meta.MediaStorageSOPInstanceUID = f"{series}.1"
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex"):
        setattr(result, keyword, image.get(keyword, ""))
    for keyword in ("StudyInstanceUID", "StudyDate", "StudyTime", "AccessionNumber"):
        setattr(result, keyword, image.get(keyword, ""))
    result.SOPClassUID, result.SOPInstanceUID = sop_class, f"{series}.1"
    result.Modality, result.SeriesInstanceUID = modality, series
    return result


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
