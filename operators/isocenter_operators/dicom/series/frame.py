"""One slice of a series: a single-frame instance, or one frame of a multi-frame one.

An enhanced multi-frame instance (PS3.3, C.7.6.16) tells of its frames in functional groups, each either once for all
frames or for each of them; a single-frame instance tells the same in attributes of its own. A `Frame` answers for both
by the attribute's keyword, so that nothing that comes after has to know which kind it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from isocenter_operators.dicom.series.part10 import tag_of
from isocenter_operators.dicom.value import converted, named, whole, whole_number
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


_SHORT_BYTES = 256
_NOT_ASKED = object()


@dataclass(frozen=True, eq=False)
class Frame:
    """One image plane. What it was asked once it answers again, whatever becomes of the instance.

    `number`: which frame of a multi-frame instance, from 1 (Referenced Frame Number); None of a single-frame instance.
    `shared`: what the values of frames of one series were converted to, by their bytes.
    """

    instance: Dataset
    number: int | None = None
    shared: dict[Any, Any] = field(default_factory=dict, repr=False)
    _values: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def get(self, keyword: str) -> Any:
        """The attribute's value for this frame: from its own functional group, the shared one, or the instance.

        None where it is absent or empty. Raises UnreadableInput where it can not be read.
        """
        value = self._values.get(keyword, _NOT_ASKED)
        if value is _NOT_ASKED:
            value = self._values[keyword] = self._read(keyword)
        return value

    def whole_number(self, keyword: str, default: int | None = None, *, bits: int = 16) -> int:
        """As `value.whole_number`, of this frame."""
        return whole(self.get(keyword), keyword, self, default, bits=bits)

    def _read(self, keyword: str) -> Any:
        for group in self._groups:
            for macro in _MACROS.get(keyword, _UNASSIGNED):
                items = converted(group, macro, self)
                if items:
                    value = converted(items[0], keyword, self)
                    if value is not None:
                        return value
        return self._of_instance(keyword)

    def _of_instance(self, keyword: str) -> Any:
        """Nearly all slices of a series say the same: that is converted once for all of them."""
        tag = tag_of(keyword)
        element: object = self.instance.get_item(tag, keep_deferred=True)
        if element is None:
            return None
        if not isinstance(element, RawDataElement) or not element.value or len(element.value) > _SHORT_BYTES:
            return converted(self.instance, keyword, self)
        stored = tag, element.VR, element.value, str(self.instance.original_character_set)
        if stored not in self.shared:
            self.shared[stored] = converted(self.instance, keyword, self)
        return self.shared[stored]

    @cached_property
    def _groups(self) -> tuple[Dataset, ...]:
        """Its functional groups: those of its own, and those that it shares."""
        if self.number is None:
            return ()
        both = (
            (converted(self.instance, keyword, self), place)
            for keyword, place in zip(_GROUPS, (self.number - 1, 0), strict=True)
        )
        return tuple(items[place] for items, place in both if items and place < len(items))

    def __str__(self) -> str:
        return self.name

    @property
    def name(self) -> str:
        """The frame as messages name it."""
        return named(self.instance) + ("" if self.number is None else f", frame {self.number}")

    @property
    def series_uid(self) -> str:
        return str(self.get("SeriesInstanceUID"))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return int(self.get("Rows")), int(self.get("Columns"))

    @cached_property
    def position_mm(self) -> NDArray[np.float64]:
        """Image Position (Patient): the centre of the first voxel, in LPS (3,)."""
        return _constant(self.get("ImagePositionPatient"))

    @cached_property
    def directions(self) -> NDArray[np.float64]:
        """Image Orientation (Patient): unit vectors along a row and along a column, in LPS (2, 3)."""
        return _constant(self.get("ImageOrientationPatient")).reshape(2, 3)

    @cached_property
    def spacing_mm(self) -> tuple[float, float]:
        """Pixel Spacing: between the centres of rows, and of columns."""
        row_mm, column_mm = (float(value) for value in self.get("PixelSpacing"))
        return row_mm, column_mm


def _constant(values: Any) -> NDArray[np.float64]:
    array = np.array(values, np.float64)
    array.setflags(write=False)
    return array


def frames_of(instances: Iterable[Dataset]) -> list[Frame]:
    """Every frame of the instances, in the order in which they come.

    Raises UnreadableInput where an instance does not say how many it has, GeometryError where a multi-frame instance
    does not describe each of its frames.
    """
    frames: list[Frame] = []
    shared: dict[Any, Any] = {}
    for instance in instances:
        frame = Frame(instance, shared=shared)
        count = whole_number(instance, "NumberOfFrames", frame, 1, bits=31)
        described = converted(instance, _GROUPS[0], frame)
        if count == 1 and not described:
            frames.append(frame)
            continue
        if not described or len(described) != count:
            raise GeometryError(
                f"{named(instance)}: {count} frames, of which {len(described or ())} are described; where each lies "
                "in the patient is not known (PS3.3, C.7.6.16)",
                series_uid=str(instance.SeriesInstanceUID),
            )
        frames.extend(Frame(instance, number, shared) for number in range(1, count + 1))
    return frames


def instances_of(frames: Sequence[Frame]) -> list[Dataset]:
    """The instances that the frames are of, each once, in the order in which they are met."""
    return list({id(frame.instance): frame.instance for frame in frames}.values())
