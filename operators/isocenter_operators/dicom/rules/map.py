"""What a Parametric Map has to fulfil (PS3.3, A.75, C.8.32) for its numbers to be read at the right place."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydicom.dataset import Dataset

from isocenter_operators.dicom.rules.multiframe import frame_problems, is_encapsulated, only_item
from isocenter_operators.dicom.rules.problem import Problem, absent, error, incomplete_code, warning

__all__ = ["parametric_map_problems"]

_PIXELS = {"PixelData": 16, "FloatPixelData": 32, "DoubleFloatPixelData": 64}  # bits allocated (C.8.32.2)
_MAPPINGS = "RealWorldValueMappingSequence"


def parametric_map_problems(image: Dataset) -> Iterator[Problem]:
    """Every problem of one Parametric Map."""
    required = ("ContentLabel", "FrameOfReferenceUID", "Rows", "Columns", "NumberOfFrames", "ImageType")
    groups = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
    missing = list(absent(image, (*required, *groups)))
    yield from missing
    if missing:
        return
    yield from _pixel_problems(image)
    yield from _mapping_problems(image)
    indices = [
        (only_item(frame, "FrameContentSequence") or Dataset()).get("DimensionIndexValues")
        for frame in image.PerFrameFunctionalGroupsSequence
    ]
    # Several maps, of different quantities or times, may lie at the same place under different indices.
    yield from frame_problems(image, lambda index, position: (str(indices[index]), position))


def _pixel_problems(image: Dataset) -> Iterator[Problem]:
    present = [keyword for keyword in _PIXELS if keyword in image]
    if len(present) != 1:
        yield error(
            "PixelData", f"stands in {len(present)} attributes; a parametric map has one (C.7.6.24, C.7.6.25)"
        )
        return
    bits = _PIXELS[present[0]]
    if image.get("BitsAllocated") != bits:
        yield error("BitsAllocated", f"is not {bits}, as {present[0]} has")
        return
    if is_encapsulated(image):
        return
    expected = int(image.NumberOfFrames) * int(image.Rows) * int(image.Columns) * bits // 8
    content = image[present[0]].value
    if len(content) not in (expected, expected + expected % 2):
        yield error(
            present[0], f"has {len(content)} bytes; {int(image.NumberOfFrames)} frames need {expected}"
        )
    elif bits > 16 and not any(
        keyword.endswith("PaddingValue") for keyword in image.dir("FloatPixelPadding")
    ):
        values = np.frombuffer(content, f"<f{bits // 8}", expected * 8 // bits)
        if not np.isfinite(values).all():
            yield warning(present[0], "holds values that are no finite numbers, and no padding value")


def _mapping_problems(image: Dataset) -> Iterator[Problem]:
    """Each frame says what its numbers are and in which unit (C.7.6.16.2.11)."""
    shared = image.SharedFunctionalGroupsSequence[0]
    without = [frame for frame in image.PerFrameFunctionalGroupsSequence if _MAPPINGS not in frame]
    if without and _MAPPINGS not in shared:
        yield error(_MAPPINGS, "is missing: nobody knows what the numbers are")
    items = list(shared.get(_MAPPINGS) or image.PerFrameFunctionalGroupsSequence[0].get(_MAPPINGS) or [])
    for item in items:
        where = f"{_MAPPINGS}: "
        yield from absent(item, ("LUTLabel",), where)
        yield from incomplete_code(item, "MeasurementUnitsCodeSequence", where)
        unit = only_item(item, "MeasurementUnitsCodeSequence") or Dataset()
        if unit.get("CodingSchemeDesignator") not in ("UCUM", None):
            yield error(f"{where}MeasurementUnitsCodeSequence", "is not a unit of UCUM")
        if "RealWorldValueLUTData" not in item:
            yield from absent(item, ("RealWorldValueIntercept", "RealWorldValueSlope"), where)
        if not item.get("QuantityDefinitionSequence"):
            yield warning(
                f"{where}QuantityDefinitionSequence", "does not say which quantity the numbers are of"
            )
