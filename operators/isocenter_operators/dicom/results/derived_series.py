"""Images made of images, denoised or synthetic, as a CT or MR series of its own (PS3.3, A.3, A.4).

Each slice lies where its source lies and refers to it. What was true of the acquisition and still is comes along; what
the new pixels make untrue does not. Nothing in the header lets a reader take the series for an acquired one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)
from pydicom.valuerep import format_number_as_ds

from isocenter_operators.dicom.codes import ARTIFICIAL_INTELLIGENCE
from isocenter_operators.dicom.findings import Code
from isocenter_operators.dicom.header import (
    DISCLAIMER,
    UNPAIRED,
    coded,
    has_sound,
    plane_of,
    referenced,
    stamp,
)
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.schemes import declare_schemes
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.errors import GeometryError, InputError, InvalidResult

__all__ = ["DerivedModality", "SeriesKind", "derived_series"]

SeriesKind = Literal["processed", "synthetic"]
DerivedModality = Literal["CT", "MR"]

_PURPOSE = Code("121322", "DCM", "Source Image for Image Processing Operation")  # CID 7202
_SOP_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage}
_MODALITIES: dict[str, DerivedModality] = {
    CTImageStorage: "CT",
    EnhancedCTImageStorage: "CT",
    LegacyConvertedEnhancedCTImageStorage: "CT",
    MRImageStorage: "MR",
    EnhancedMRImageStorage: "MR",
    LegacyConvertedEnhancedMRImageStorage: "MR",
}
# Of the patient on the table, which new pixels do not change (C.7.3.1, C.7.4.1, C.7.6.1, C.7.6.2).
_PLACE = (
    "BodyPartExamined",
    "Laterality",
    "ImageLaterality",
    "PatientPosition",
    "PatientOrientation",
    "ProtocolName",
    "SliceLocation",
    "AcquisitionDate",
    "AcquisitionTime",
    "AcquisitionNumber",
    "BurnedInAnnotation",
    "RecognizableVisualFeatures",
)
_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
# Contrast/Bolus (C.7.6.4): the agent is its type 2.
_CONTRAST = (
    "ContrastBolusAgent",
    "ContrastBolusRoute",
    "ContrastBolusVolume",
    "ContrastBolusStartTime",
    "ContrastBolusStopTime",
    "ContrastBolusTotalDose",
    "ContrastFlowRate",
    "ContrastFlowDuration",
    "ContrastBolusIngredient",
    "ContrastBolusIngredientConcentration",
)
# Of the acquisition (CT Image, C.8.2.1; MR Image, C.8.3.1), which holds of processed pixels and not of invented ones.
_ACQUISITION = {
    "CT": (
        "ScanOptions",
        "KVP",
        "DataCollectionDiameter",
        "ReconstructionDiameter",
        "DistanceSourceToDetector",
        "DistanceSourceToPatient",
        "GantryDetectorTilt",
        "TableHeight",
        "RotationDirection",
        "ExposureTime",
        "XRayTubeCurrent",
        "Exposure",
        "FilterType",
        "GeneratorPower",
        "FocalSpots",
        "ConvolutionKernel",
        "SpiralPitchFactor",
        "ExposureModulationType",
        *_CONTRAST,
    ),
    "MR": (
        "ScanningSequence",
        "SequenceVariant",
        "ScanOptions",
        "MRAcquisitionType",
        "SequenceName",
        "AngioFlag",
        "RepetitionTime",
        "EchoTime",
        "InversionTime",
        "NumberOfAverages",
        "ImagingFrequency",
        "ImagedNucleus",
        "EchoNumbers",
        "MagneticFieldStrength",
        "SpacingBetweenSlices",
        "NumberOfPhaseEncodingSteps",
        "EchoTrainLength",
        "PercentSampling",
        "PercentPhaseFieldOfView",
        "PixelBandwidth",
        "TriggerTime",
        "NominalInterval",
        "ReceiveCoilName",
        "TransmitCoilName",
        "AcquisitionMatrix",
        "InPlanePhaseEncodingDirection",
        "FlipAngle",
        "VariableFlipAngleFlag",
        "TemporalPositionIdentifier",
        "NumberOfTemporalPositions",
        "DiffusionBValue",
        *_CONTRAST,
    ),
}
_EMPTY = {  # type 2: there, if with no value
    "CT": ("KVP", "AcquisitionNumber"),
    "MR": (
        "ScanOptions",
        "MRAcquisitionType",
        "RepetitionTime",
        "EchoTime",
        "EchoTrainLength",
        "AcquisitionNumber",
    ),
}
_UNKNOWN = {"ScanningSequence": "RM", "SequenceVariant": "NONE"}  # type 1 of MR; RM is its "research mode"
_PERCENTILES = (1.0, 99.0)  # of the values, between which a window is where the source has none


def derived_series(
    *,
    voxels: NDArray[Any],
    frames: Sequence[Frame],
    what: str,
    algorithm: Algorithm,
    identity: JobIdentity,
    kind: SeriesKind = "processed",
    modality: DerivedModality | None = None,
    step: float | None = None,
    padding: float | None = None,
    window: tuple[float, float] | None = None,
    derivation: Code | None = None,
    number: int = 1,
    series_number: int = 9010,
    series_description: str | None = None,
    disclaimer: str = DISCLAIMER,
) -> list[Dataset]:
    """One single-frame image for each image plane, in their order.

    Parameters
    ----------
    voxels
        Whole numbers, or floats with `step`, (Z, Y, X): Hounsfield units of a CT. Stored with a rescale that gives them
        back exactly.
    frames
        The image planes that they lie on, in the order of Z. Of a multi-frame instance too; its acquisition, which is
        described in other words, is then left to the source.
    what
        What the series is, in a word or two for a reader: "Denoised", "Synthetic CT".
    kind
        "processed": the acquired values, made better; what was true of the acquisition stays. "synthetic": values that
        nobody measured; nothing of the acquisition is said but where and when it was.
    modality
        "CT" or "MR"; by default the source's, which has to be one of them.
    step
        Of floats, the difference between neighbouring values that is kept; they are rounded to it.
    padding
        The value that stands for no image (Pixel Padding Value), if one does.
    window
        Window centre and width; by default the source's, and of a synthetic image what its values span.
    derivation
        How it was made (PS3.16, CID 7203), beside that it was made by artificial intelligence.
    number
        Which of the job's derived series this is, from 1.

    Raises GeometryError where `voxels` does not have the shape of the frames, InputError for another type of values,
    floats without a step, or a source that is neither CT nor MR, InvalidResult where values do not fit 16 bits.
    """
    _refuse_wrong_shape(voxels, frames)
    modality = modality or _modality_of(frames[0])
    whole = _whole(voxels, step, frames[0].series_uid)
    pixels = _pixels(whole, step or 1.0, padding, frames[0].series_uid)
    windows = [window] if window else _windows_of(frames[0]) if kind == "processed" else []
    about = _About(
        what,
        kind,
        modality,
        pixels,
        windows or [_span(voxels)],
        [*([derivation] if derivation else []), ARTIFICIAL_INTELLIGENCE],
        algorithm,
        identity,
        f"derived.{number}",
        series_number,
        series_description or _described(what, frames[0]),
        disclaimer,
    )
    return [_image(whole[z], frame, z, about) for z, frame in enumerate(frames)]


@dataclass(frozen=True)
class _Pixels:
    """How whole numbers of `step` are stored in 16 bits."""

    signed: bool
    offset: int  # what is taken from each before it is stored
    step: float
    padding: int | None  # stored

    @property
    def intercept(self) -> float:
        return self.offset * self.step


@dataclass(frozen=True)
class _About:
    """What the images of one series have in common."""

    what: str
    kind: SeriesKind
    modality: DerivedModality
    pixels: _Pixels
    windows: Sequence[tuple[float, float]]
    derivations: Sequence[Code]
    algorithm: Algorithm
    identity: JobIdentity
    role: str  # of its UIDs
    series_number: int
    description: str
    disclaimer: str


def _refuse_wrong_shape(voxels: NDArray[Any], frames: Sequence[Frame]) -> None:
    if not frames:
        raise GeometryError("there are no images that a series could be derived from")
    expected = (len(frames), *frames[0].shape)
    if voxels.shape != expected or any(frame.shape != frames[0].shape for frame in frames):
        uid = frames[0].series_uid
        raise GeometryError(
            f"series {uid}: the derived voxels are {voxels.shape} (Z, Y, X), its source images are {expected}",
            series_uid=uid,
        )


def _modality_of(frame: Frame) -> DerivedModality:
    modality = _MODALITIES.get(frame.instance.SOPClassUID)
    if modality is None:
        raise InputError(
            f"series {frame.series_uid} is neither CT nor MR, so an image derived of it has to be told which it is",
            series_uid=frame.series_uid,
        )
    return modality


def _whole(voxels: NDArray[Any], step: float | None, uid: str) -> NDArray[Any]:
    """The values in whole steps (Z, Y, X)."""
    if voxels.dtype.kind in "iu" and step is None:
        return voxels
    if voxels.dtype.kind not in "iuf" or (step is not None and not (np.isfinite(step) and step > 0)):
        raise InputError(f"the derived voxels are {voxels.dtype} in steps of {step}; numbers are expected")
    if not np.isfinite([voxels.min(), voxels.max()]).all():
        raise InvalidResult(
            f"series {uid}: the derived voxels hold values that are no numbers", series_uid=uid
        )
    whole: NDArray[Any] = np.rint(voxels.astype(np.float64) / (step or 1.0))
    if step is None and (whole != voxels).any():
        raise InputError(
            "the derived voxels are no whole numbers: say by `step` how finely they are to be kept; 16 bits hold 65536 "
            "steps"
        )
    return whole


def _pixels(whole: NDArray[Any], step: float, padding: float | None, uid: str) -> _Pixels:
    lowest, highest = int(whole.min()), int(whole.max())
    empty = None if padding is None else round(padding / step)
    if empty is not None:
        lowest, highest = min(lowest, empty), max(highest, empty)
    if lowest >= -32768 and highest <= 32767:
        return _Pixels(True, 0, step, empty)
    if highest - lowest <= 65535:
        return _Pixels(False, lowest, step, None if empty is None else empty - lowest)
    raise InvalidResult(
        f"series {uid}: the derived voxels span {highest - lowest + 1} steps; 16 bits hold 65536",
        series_uid=uid,
    )


def _windows_of(frame: Frame) -> list[tuple[float, float]]:
    """The source's windows: centre and width of each. None where they are no numbers that can be."""
    pairs = zip(*(np.atleast_1d(frame.get(k) or []) for k in ("WindowCenter", "WindowWidth")), strict=False)
    try:
        windows = [(float(centre), float(width)) for centre, width in pairs]
    except (TypeError, ValueError):
        return []
    return windows if all(np.isfinite(centre) and width >= 1 for centre, width in windows) else []


def _span(voxels: NDArray[Any]) -> tuple[float, float]:
    low, high = (float(value) for value in np.percentile(voxels[:, ::4, ::4], _PERCENTILES))
    return float(f"{(low + high) / 2:.4g}"), max(float(f"{high - low:.4g}"), 1.0)


def _described(what: str, frame: Frame) -> str:
    source = frame.instance
    of = f": {source.SeriesDescription}" if has_sound(source, "SeriesDescription") else ""
    return f"{what} (AI){of}"[:64].strip()


def _image(whole: NDArray[Any], frame: Frame, z: int, about: _About) -> Dataset:
    image = Dataset()
    image.SOPClassUID = _SOP_CLASSES[about.modality]
    image.SOPInstanceUID = about.identity.uid(f"{about.role}.{z + 1}")
    image.SeriesInstanceUID = about.identity.uid(f"{about.role}.series")
    image.Modality, image.SeriesNumber, image.InstanceNumber = about.modality, about.series_number, z + 1
    image.SeriesDescription = about.description[:64]
    _copy_what_holds(image, frame, about)
    _place(image, plane_of(frame))
    _say_how_made(image, frame, about)
    _write_pixels(image, whole, about)
    image.ImageComments = about.disclaimer
    declare_schemes(image)
    stamp(
        image,
        source=frame.instance,
        algorithm=about.algorithm,
        identity=about.identity,
        disclaimer=about.disclaimer,
        texts=[about.description, about.what],
    )
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return image


def _copy_what_holds(image: Dataset, frame: Frame, about: _About) -> None:
    source = frame.instance
    same = about.kind == "processed" and source.SOPClassUID == _SOP_CLASSES[about.modality]
    held = [*_PLACE, *_LOSSY, *(_ACQUISITION[about.modality] if same else ())]
    for keyword in held:
        if has_sound(source, keyword):
            setattr(image, keyword, source[keyword].value)
    empty = list(_EMPTY[about.modality])
    if any(keyword in image for keyword in _CONTRAST):
        empty.append("ContrastBolusAgent")
    if image.get("BodyPartExamined") not in UNPAIRED and "ImageLaterality" not in image:
        empty.append("Laterality")
    for keyword in empty:
        if keyword not in image:
            setattr(image, keyword, None)
    if about.modality == "MR":
        for keyword, value in _UNKNOWN.items():
            if keyword not in image:
                setattr(image, keyword, value)


def _place(image: Dataset, plane: Dataset) -> None:
    """Frame of Reference and Image Plane (C.7.4.1, C.7.6.2)."""
    for keyword in (
        "FrameOfReferenceUID",
        "PositionReferenceIndicator",
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
        "Rows",
        "Columns",
    ):
        setattr(image, keyword, plane[keyword].value)


def _say_how_made(image: Dataset, frame: Frame, about: _About) -> None:
    """General Image and General Reference (C.7.6.1, C.12.4): derived, from what, by whom."""
    usual = {"CT": "AXIAL", "MR": "OTHER"}[about.modality]
    kinds: Any = np.atleast_1d(frame.instance.ImageType) if has_sound(frame.instance, "ImageType") else []
    same = about.kind == "processed" and frame.instance.SOPClassUID == image.SOPClassUID
    image.ImageType = ["DERIVED", "SECONDARY", str(kinds[2]) if same and len(kinds) > 2 else usual]
    image.DerivationDescription = (
        f"{about.what}: made by artificial intelligence ({about.algorithm.name} {about.algorithm.version})"
        f"{', not acquired' if about.kind == 'synthetic' else ''}"
    )[:1024]
    image.DerivationCodeSequence = [coded(code) for code in about.derivations]
    (source,) = referenced([frame])
    source.PurposeOfReferenceCodeSequence = [coded(_PURPOSE)]
    source.SpatialLocationsPreserved = "YES"
    image.SourceImageSequence = [source]
    series = Dataset()
    series.SeriesInstanceUID = frame.series_uid
    series.ReferencedInstanceSequence = referenced([frame])
    series.ReferencedInstanceSequence[0].pop("ReferencedFrameNumber", None)
    image.ReferencedSeriesSequence = [series]


def _write_pixels(image: Dataset, whole: NDArray[Any], about: _About) -> None:
    """Image Pixel, the rescale and the window (C.7.6.3, C.11.1, C.11.2)."""
    pixels = about.pixels
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.PixelRepresentation = int(pixels.signed)
    if pixels.padding is not None:
        image.add_new("PixelPaddingValue", "SS" if pixels.signed else "US", pixels.padding)
    if about.modality == "CT" or (pixels.step, pixels.offset) != (1.0, 0):
        image.RescaleSlope = format_number_as_ds(float(pixels.step))
        image.RescaleIntercept = format_number_as_ds(float(pixels.intercept))
        image.RescaleType = "HU" if about.modality == "CT" else "US"
    image.WindowCenter = [format_number_as_ds(centre) for centre, _ in about.windows]
    image.WindowWidth = [format_number_as_ds(width) for _, width in about.windows]
    stored = (whole.astype(np.int64) - pixels.offset).astype("<i2" if pixels.signed else "<u2")
    image.PixelData = stored.tobytes()
    image["PixelData"].VR = "OW"
