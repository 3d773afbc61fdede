"""One slice of a series: a single-frame instance, or one frame of a multi-frame one.

An enhanced multi-frame instance (PS3.3, C.7.6.16) tells of its frames in functional groups, each either once for all
frames or for each of them; a single-frame instance tells the same in attributes of its own. A `Frame` answers for both
by the attribute's keyword, so that nothing that comes after has to know which kind it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from isocenter_operators.dicom.value import converted, named, whole_number
from isocenter_operators.errors import GeometryError

__all__ = ["Frame", "frames_of", "instances_of"]

# The functional group macro in which a multi-frame instance keeps an attribute (PS3.3, C.7.6.16.2, C.8.13, C.8.15).
_MACROS = {
    "ImagePositionPatient": ("PlanePositionSequence",),
    "ImageOrientationPatient": ("PlaneOrientationSequence",),
    "PixelSpacing": ("PixelMeasuresSequence",),
    "SliceThickness": ("PixelMeasuresSequence",),
    "SpacingBetweenSlices": ("PixelMeasuresSequence",),
    "RescaleSlope": ("PixelValueTransformationSequence",),
    "RescaleIntercept": ("PixelValueTransformationSequence",),
    "RescaleType": ("PixelValueTransformationSequence",),
    "FrameType": ("CTImageFrameTypeSequence", "MRImageFrameTypeSequence", "PETFrameTypeSequence"),
    "StackID": ("FrameContentSequence",),
    "InStackPositionNumber": ("FrameContentSequence",),
    "TemporalPositionIndex": ("FrameContentSequence",),
    "FrameAcquisitionNumber": ("FrameContentSequence",),
    "FrameAcquisitionDateTime": ("FrameContentSequence",),
    "FrameReferenceDateTime": ("FrameContentSequence",),
    "NominalCardiacTriggerDelayTime": ("CardiacSynchronizationSequence",),
    "EffectiveEchoTime": ("MREchoSequence",),
    "DiffusionBValue": ("MRDiffusionSequence",),
    "AnatomicRegionSequence": ("FrameAnatomySequence",),
    "FrameLaterality": ("FrameAnatomySequence",),
    "ContrastBolusAgentAdministered": ("ContrastBolusUsageSequence",),
    "ContrastBolusAgentPhase": ("ContrastBolusUsageSequence",),
    "ReferencedSegmentNumber": ("SegmentIdentificationSequence",),
    "RealWorldValueSlope": ("RealWorldValueMappingSequence",),
    "RealWorldValueIntercept": ("RealWorldValueMappingSequence",),
    "ConvolutionKernel": ("CTReconstructionSequence",),
    "ReconstructionAlgorithm": ("CTReconstructionSequence",),
    "AcquisitionType": ("CTAcquisitionTypeSequence",),
    "WindowCenter": ("FrameVOILUTSequence",),
    "WindowWidth": ("FrameVOILUTSequence",),
    "VOILUTFunction": ("FrameVOILUTSequence",),
}
# Where a converted legacy instance keeps what no macro has (C.7.6.16.2.25, C.7.6.16.2.26).
_UNASSIGNED = ("UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence")
_GROUPS = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"


@dataclass(frozen=True, eq=False)
class Frame:
    """One image plane.

    `number`: which frame of a multi-frame instance, from 1 (Referenced Frame Number); None of a single-frame instance.
    """

    instance: Dataset
    number: int | None = None

    def get(self, keyword: str) -> Any:
        """The attribute's value for this frame: from its own functional group, the shared one, or the instance.

        None where it is absent or empty. Raises UnreadableInput where it can not be read.
        """
        for group in self._groups():
            for macro in _MACROS.get(keyword, _UNASSIGNED):
                items = converted(group, macro, self.name)
                if items:
                    value = converted(items[0], keyword, self.name)
                    if value is not None:
                        return value
        return converted(self.instance, keyword, self.name)

    def _groups(self) -> Iterator[Dataset]:
        if self.number is None:
            return
        for keyword in _GROUPS:
            items = converted(self.instance, keyword, self.name)
            place = self.number - 1 if keyword == _GROUPS[0] else 0
            if items and place < len(items):
                yield items[place]

    @property
    def name(self) -> str:
        """The frame as messages name it."""
        return named(self.instance) + ("" if self.number is None else f", frame {self.number}")

    @property
    def series_uid(self) -> str:
        return str(self.instance.SeriesInstanceUID)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return int(self.instance.Rows), int(self.instance.Columns)

    @property
    def position_mm(self) -> NDArray[np.float64]:
        """Image Position (Patient): the centre of the first voxel, in LPS (3,)."""
        return np.array(self.get("ImagePositionPatient"), np.float64)

    @property
    def directions(self) -> NDArray[np.float64]:
        """Image Orientation (Patient): unit vectors along a row and along a column, in LPS (2, 3)."""
        return np.array(self.get("ImageOrientationPatient"), np.float64).reshape(2, 3)

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """Pixel Spacing: between the centres of rows, and of columns."""
        row_mm, column_mm = (float(value) for value in self.get("PixelSpacing"))
        return row_mm, column_mm


def frames_of(instances: Iterable[Dataset]) -> list[Frame]:
    """Every frame of the instances, in the order in which they come.

    Raises UnreadableInput where an instance does not say how many it has, GeometryError where a multi-frame instance
    does not describe each of its frames.
    """
    frames: list[Frame] = []
    for instance in instances:
        count = whole_number(instance, "NumberOfFrames", named(instance), 1, bits=31)
        described = converted(instance, _GROUPS[0], named(instance))
        if count == 1 and not described:
            frames.append(Frame(instance))
            continue
        if not described or len(described) != count:
            raise GeometryError(
                f"{named(instance)}: {count} frames, of which {len(described or ())} are described; where each lies "
                "in the patient is not known (PS3.3, C.7.6.16)",
                series_uid=str(instance.SeriesInstanceUID),
            )
        frames.extend(Frame(instance, number) for number in range(1, count + 1))
    return frames


def instances_of(frames: Sequence[Frame]) -> list[Dataset]:
    """The instances that the frames are of, each once, in the order in which they are met."""
    return list({id(frame.instance): frame.instance for frame in frames}.values())
