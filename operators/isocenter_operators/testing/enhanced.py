"""A phantom as Enhanced CT or Enhanced MR Image Storage: multi-frame instances (PS3.3, A.38, A.36.2)."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import UID, EnhancedCTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from isocenter_operators.errors import InputError
from isocenter_operators.testing.phantom import Phantom
from isocenter_operators.testing.series import as_datasets

__all__ = ["as_enhanced"]

_INTERCEPT = -1024
_LARGEST_STORED = 65535
_WHEN = "20260105083000"
# What the instance keeps for itself of a classic one: patient, study, series, equipment, and the rows and columns.
_COPIED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "QualityControlSubject",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
    "StudyDescription",
    "SeriesNumber",
    "SeriesDate",
    "SeriesTime",
    "SeriesDescription",
    "ProtocolName",
    "BodyPartExamined",
    "PatientPosition",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
    "Manufacturer",
    "ManufacturerModelName",
    "DeviceSerialNumber",
    "SoftwareVersions",
    "ContentDate",
    "ContentTime",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BurnedInAnnotation",
    "LossyImageCompression",
)
_REGIONS = {  # PS3.16, Annex L
    "CHEST": ("43799004", "Thorax"),
    "HEAD": ("69536005", "Head"),
    "ABDOMEN": ("113345001", "Abdomen"),
}


def as_enhanced(
    phantom: Phantom,
    *,
    modality: Literal["CT", "MR"] = "CT",
    instances: int = 1,
    order: Sequence[int] | None = None,
    slopes: Sequence[float] = (1.0,),
    shared: bool = True,
    transfer_syntax: str = ExplicitVRLittleEndian,
    uid_seed: str = "",
    series_number: int = 1,
) -> list[Dataset]:
    """The phantom as `instances` multi-frame Datasets of one series, ready to be sent or saved (with `file_meta`).

    They hold the values and positions that `as_datasets` has, in the same study, in another series.

    Parameters
    ----------
    modality
        "MR": the same numbers as an MR, with a Rescale Intercept.
    order
        The indices of the array's Z in the order of the frames, over all instances; by default, as they are.
    slopes
        The Rescale Slope of each slice, taken in turn; the stored values are such that the values stay exact, which
        powers of two do.
    shared
        Orientation, pixel measures and, with one slope, the value transformation once for all frames; False: for
        each of them.
    transfer_syntax
        How the frames are encoded, each by itself: one that pydicom writes, such as RLE Lossless.
    uid_seed, series_number
        As of `as_datasets`.

    Raises InputError for an order that does not name each slice once, or a slope that no exact value has.
    """
    depth = phantom.hu.shape[0]
    indices = list(range(depth)) if order is None else list(order)
    if sorted(indices) != list(range(depth)) or not 1 <= instances <= depth:
        raise InputError(f"order and instances: each of {depth} slices has to be in one instance, once")
    classic = as_datasets(phantom, uid_seed=uid_seed, series_number=series_number)
    series = _Series(phantom, modality, tuple(slopes), shared, classic)
    parts = np.array_split(np.array(indices), instances)
    return [series.instance(number, part.tolist(), transfer_syntax) for number, part in enumerate(parts, 1)]


class _Series:
    """What the multi-frame instances of one series have in common, and how to make one of them."""

    def __init__(
        self,
        phantom: Phantom,
        modality: Literal["CT", "MR"],
        slopes: tuple[float, ...],
        shared: bool,
        classic: list[Dataset],
    ) -> None:
        self._phantom = phantom
        self._classic = classic
        self._modality = modality
        self._slopes = slopes
        self._shared = shared
        key = f"{self._classic[0].SeriesInstanceUID}/{modality}/{slopes}/{shared}"
        self._uid: Callable[[str], UID] = lambda role: UID(
            f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{key}/{role}').int}"
        )

    def instance(self, number: int, indices: list[int], transfer_syntax: str) -> Dataset:
        """One multi-frame instance with the slices of these indices as its frames, in this order."""
        dataset = Dataset()
        for keyword in _COPIED:
            setattr(dataset, keyword, self._classic[0][keyword].value)
        dataset.SOPClassUID = EnhancedCTImageStorage if self._modality == "CT" else EnhancedMRImageStorage
        dataset.SOPInstanceUID = self._uid(f"instance/{number}/{indices}")
        dataset.SeriesInstanceUID = self._uid("series")
        dataset.Modality, dataset.InstanceNumber = self._modality, number
        dataset.NumberOfFrames = len(indices)
        self._image(dataset)
        self._dimensions(dataset)
        dataset.SharedFunctionalGroupsSequence = [self._common()]
        dataset.PerFrameFunctionalGroupsSequence = [self._frame(index) for index in indices]
        dataset.PixelData = b"".join(self._stored(index) for index in indices)
        dataset["PixelData"].VR = "OW"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        if UID(transfer_syntax).is_compressed:
            dataset.compress(UID(transfer_syntax), generate_instance_uid=False)
        return dataset

    def _slope(self, index: int) -> float:
        return self._slopes[index % len(self._slopes)]

    def _stored(self, index: int) -> bytes:
        stored = (self._phantom.hu[index].astype(np.float64) - _INTERCEPT) / self._slope(index)
        if (stored != np.rint(stored)).any() or stored.min() < 0 or stored.max() > _LARGEST_STORED:
            raise InputError(
                f"slope {self._slope(index):g}: not every value of the phantom is a multiple of it"
            )
        encoded: bytes = stored.astype("<u2").tobytes()
        return encoded

    def _image(self, dataset: Dataset) -> None:
        """Enhanced CT Image and Enhanced MR Image (PS3.3, C.8.15.2, C.8.13.1), and what both need."""
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        dataset.PixelPresentation = "MONOCHROME"
        dataset.VolumetricProperties = "VOLUME"
        dataset.VolumeBasedCalculationTechnique = "NONE"
        dataset.AcquisitionNumber = 1
        dataset.AcquisitionDateTime, dataset.AcquisitionDuration = _WHEN, 10.0
        dataset.ContentQualification = "RESEARCH"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
        dataset.PixelRepresentation = 0
        dataset.PresentationLUTShape = "IDENTITY"
        dataset.AcquisitionContextSequence = []
        if self._modality == "MR":
            _put(
                dataset,
                ComplexImageComponent="MAGNITUDE",
                AcquisitionContrast="T1",
                ResonantNucleus="1H",
                KSpaceFiltering="NONE",
                MagneticFieldStrength=1.5,
                ApplicableSafetyStandardAgency="IEC",
                PulseSequenceName="PHANTOM",
                MRAcquisitionType="3D",
                EchoPulseSequence="GRADIENT",
                MultiPlanarExcitation="NO",
                PhaseContrast="NO",
                TimeOfFlightContrast="NO",
                SteadyStatePulseSequence="NONE",
                EchoPlanarPulseSequence="NO",
                SaturationRecovery="NO",
                SpectrallySelectedSuppression="NONE",
                OversamplingPhase="NONE",
                GeometryOfKSpaceTraversal="RECTILINEAR",
                RectilinearPhaseEncodeReordering="LINEAR",
                SegmentedKSpaceTraversal="SINGLE",
                CoverageOfKSpace="FULL",
                NumberOfKSpaceTrajectories=1,
            )

    def _dimensions(self, dataset: Dataset) -> None:
        """Multi-frame Dimension (PS3.3, C.7.6.17): the slices of one stack."""
        uid = self._uid("dimensions")
        dataset.DimensionOrganizationSequence = [_item(DimensionOrganizationUID=uid)]
        dataset.DimensionIndexSequence = [
            _item(
                DimensionOrganizationUID=uid,
                DimensionIndexPointer=Tag(keyword),
                FunctionalGroupPointer=Tag("FrameContentSequence"),
            )
            for keyword in ("StackID", "InStackPositionNumber")
        ]

    def _common(self) -> Dataset:
        """The functional groups that hold for all frames (PS3.3, C.7.6.16.2, C.8.15.3, C.8.13.5)."""
        code, meaning = _REGIONS[self._phantom.body_part]
        anatomy = _item(AnatomicRegionSequence=[_code(code, "SCT", meaning)], FrameLaterality="U")
        groups = _item(FrameAnatomySequence=[anatomy])
        groups.FrameVOILUTSequence = [_item(WindowCenter="-600", WindowWidth="1500")]
        frame_type = _item(
            FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
            PixelPresentation="MONOCHROME",
            VolumetricProperties="VOLUME",
            VolumeBasedCalculationTechnique="NONE",
        )
        if self._modality == "CT":
            groups.CTImageFrameTypeSequence = [frame_type]
            groups.IrradiationEventIdentificationSequence = [_item(IrradiationEventUID=self._uid("event"))]
            _put(groups, **_ct_groups(self._classic[0].PixelSpacing))
        else:
            _put(frame_type, ComplexImageComponent="MAGNITUDE", AcquisitionContrast="T1")
            groups.MRImageFrameTypeSequence = [frame_type]
            _put(groups, **_mr_groups())
        if self._shared:
            _put(groups, **self._plane())
            if len(self._slopes) == 1:
                _put(groups, **self._transformation(0))
        return groups

    def _frame(self, index: int) -> Dataset:
        classic = self._classic[index]
        content = _item(
            StackID="1",
            InStackPositionNumber=index + 1,
            DimensionIndexValues=[1, index + 1],
            FrameAcquisitionNumber=1,
            FrameAcquisitionDateTime=_WHEN,
            FrameReferenceDateTime=_WHEN,
            FrameAcquisitionDuration=10.0,
        )
        position = _item(ImagePositionPatient=classic.ImagePositionPatient)
        groups = _item(FrameContentSequence=[content], PlanePositionSequence=[position])
        if not self._shared:
            _put(groups, **self._plane())
        if not self._shared or len(self._slopes) > 1:
            _put(groups, **self._transformation(index))
        return groups

    def _plane(self) -> dict[str, Any]:
        classic = self._classic[0]
        measures = _item(PixelSpacing=classic.PixelSpacing, SliceThickness=classic.SliceThickness)
        orientation = _item(ImageOrientationPatient=classic.ImageOrientationPatient)
        return {"PixelMeasuresSequence": [measures], "PlaneOrientationSequence": [orientation]}

    def _transformation(self, index: int) -> dict[str, Any]:
        item = _item(
            RescaleIntercept=str(_INTERCEPT),
            RescaleSlope=format_number_as_ds(float(self._slope(index))),
            RescaleType="HU" if self._modality == "CT" else "US",
        )
        return {"PixelValueTransformationSequence": [item]}


def _ct_groups(pixel_spacing: Sequence[float]) -> dict[str, Any]:
    """The functional groups that an original CT has to have (PS3.3, Table A.38-2)."""
    centre_mm = [0.0, 0.0, 0.0]
    return {
        "CTAcquisitionTypeSequence": [
            _item(AcquisitionType="SPIRAL", ConstantVolumeFlag="NO", FluoroscopyFlag="NO")
        ],
        "CTAcquisitionDetailsSequence": [
            _item(
                RotationDirection="CW",
                RevolutionTime=0.5,
                SingleCollimationWidth=0.6,
                TotalCollimationWidth=38.4,
                TableHeight=0.0,
                GantryDetectorTilt=0.0,
                DataCollectionDiameter=500.0,
            )
        ],
        "CTTableDynamicsSequence": [_item(TableSpeed=50.0, TableFeedPerRotation=25.0, SpiralPitchFactor=1.0)],
        "CTPositionSequence": [
            _item(
                TablePosition=0.0,
                ReconstructionTargetCenterPatient=centre_mm,
                DataCollectionCenterPatient=centre_mm,
            )
        ],
        "CTGeometrySequence": [
            _item(DistanceSourceToDetector=1000.0, DistanceSourceToDataCollectionCenter=550.0)
        ],
        "CTReconstructionSequence": [
            _item(
                ReconstructionAlgorithm="FILTER_BACK_PROJ",
                ConvolutionKernel="STANDARD",
                ConvolutionKernelGroup="BODY",
                ReconstructionDiameter=350.0,
                ReconstructionPixelSpacing=pixel_spacing,
                ReconstructionAngle=360.0,
                ImageFilter="NONE",
            )
        ],
        "CTExposureSequence": [
            _item(
                ExposureTimeInms=500.0,
                XRayTubeCurrentInmA=200.0,
                ExposureInmAs=100.0,
                ExposureModulationType="NONE",
                CTDIvol=7.0,
                CTDIPhantomTypeCodeSequence=[_code("113691", "DCM", "IEC Body Dosimetry Phantom")],
            )
        ],
        "CTXRayDetailsSequence": [
            _item(KVP="120", FocalSpots=["1.2"], FilterType="FLAT", FilterMaterial="ALUMINUM")
        ],
    }


def _mr_groups() -> dict[str, Any]:
    """The functional groups that an original MR has to have (PS3.3, Table A.36-2)."""
    return {
        "MRTimingAndRelatedParametersSequence": [
            _item(
                RepetitionTime="10",
                FlipAngle="15",
                EchoTrainLength=1,
                RFEchoTrainLength=0,
                GradientEchoTrainLength=1,
                GradientOutputType="DB_DT",
                GradientOutput=50.0,
                SpecificAbsorptionRateSequence=[
                    _item(SpecificAbsorptionRateDefinition="IEC_WHOLE_BODY", SpecificAbsorptionRateValue=0.1)
                ],
                OperatingModeSequence=[
                    _item(OperatingModeType=kind, OperatingMode="IEC_NORMAL")
                    for kind in ("STATIC FIELD", "RF", "GRADIENT")
                ],
            )
        ],
        "MRFOVGeometrySequence": [
            _item(
                InPlanePhaseEncodingDirection="ROW",
                MRAcquisitionFrequencyEncodingSteps=256,
                MRAcquisitionPhaseEncodingStepsInPlane=256,
                MRAcquisitionPhaseEncodingStepsOutOfPlane=32,
                PercentSampling="100",
                PercentPhaseFieldOfView="100",
            )
        ],
        "MREchoSequence": [_item(EffectiveEchoTime=4.0)],
        "MRModifierSequence": [
            _item(
                InversionRecovery="NO",
                FlowCompensation="NONE",
                Spoiling="RF",
                T2Preparation="NO",
                SpectrallySelectedExcitation="NONE",
                SpatialPresaturation="NONE",
                PartialFourier="NO",
                ParallelAcquisition="NO",
            )
        ],
        "MRImagingModifierSequence": [
            _item(
                MagnetizationTransfer="NONE",
                BloodSignalNulling="NO",
                Tagging="NONE",
                TransmitterFrequency=63.87,
                PixelBandwidth="200",
            )
        ],
        "MRReceiveCoilSequence": [
            _item(
                ReceiveCoilName="BODY",
                ReceiveCoilManufacturerName="Isocenter",
                ReceiveCoilType="BODY",
                QuadratureReceiveCoil="YES",
            )
        ],
        "MRTransmitCoilSequence": [
            _item(TransmitCoilName="BODY", TransmitCoilManufacturerName="Isocenter", TransmitCoilType="BODY")
        ],
        "MRAveragesSequence": [_item(NumberOfAverages="1")],
    }


def _item(**attributes: Any) -> Dataset:
    return _put(Dataset(), **attributes)


def _put(dataset: Dataset, **attributes: Any) -> Dataset:
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)
