"""What a Segmentation has to fulfil (PS3.3, A.51, C.8.20.2) for archives and viewers to place it on its images."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID

from isocenter_operators.dicom.rules.multiframe import frame_problems, is_encapsulated, only_item
from isocenter_operators.dicom.rules.problem import Problem, absent, error, incomplete_code, warning
from isocenter_operators.dicom.value import value_of

__all__ = ["segmentation_problems"]

_LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"
_BACKGROUND = "125040"  # DCM: what is not in any segment
_BITS = {"BINARY": (1,), "FRACTIONAL": (8,), "LABELMAP": (8, 16)}  # allocated, and as many stored (C.8.20.2)


def segmentation_problems(seg: Dataset) -> Iterator[Problem]:
    """Every problem of one Segmentation, of the BINARY, FRACTIONAL or LABELMAP kind."""
    required = (
        "SegmentationType",
        "SegmentSequence",
        "FrameOfReferenceUID",
        "Rows",
        "Columns",
        "NumberOfFrames",
    )
    missing = list(
        absent(seg, (*required, "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"))
    )
    yield from missing
    if missing:
        return
    pixels = [*_type_problems(seg), *_pixel_problems(seg)]
    yield from pixels
    yield from _segment_problems(seg)
    yield from _tracking_problems(seg)
    yield from _frame_problems(seg)
    if not any(problem.severity == "error" for problem in pixels):
        yield from _value_problems(seg)


def _type_problems(seg: Dataset) -> Iterator[Problem]:
    kind = seg.SegmentationType
    if kind not in _BITS:
        yield error("SegmentationType", "is not BINARY, FRACTIONAL or LABELMAP")
        return
    if (kind == "LABELMAP") != (seg.get("SOPClassUID") == _LABELMAP):
        yield error("SegmentationType", f"is {kind}, which objects of this SOP Class can not be")
    if kind == "LABELMAP" and seg.get("SegmentsOverlap", "NO") != "NO":
        yield error("SegmentsOverlap", "is not NO; in a label map no pixel can be of two segments")
    if kind == "FRACTIONAL":
        yield from absent(seg, ("SegmentationFractionalType", "MaximumFractionalValue"))
    allowed = ("MONOCHROME2", "PALETTE COLOR") if kind == "LABELMAP" else ("MONOCHROME2",)
    photometric = seg.get("PhotometricInterpretation")
    if photometric not in allowed:
        yield error("PhotometricInterpretation", f"is not {' or '.join(allowed)}")
    elif photometric == "PALETTE COLOR":
        yield from absent(
            seg, tuple(f"{colour}PaletteColorLookupTableDescriptor" for colour in ("Red", "Green", "Blue"))
        )


def _pixel_problems(seg: Dataset) -> Iterator[Problem]:
    frames, bits = int(seg.NumberOfFrames), int(seg.get("BitsAllocated", 0))
    if bits not in _BITS.get(seg.SegmentationType, (bits,)):
        allowed = " or ".join(str(count) for count in _BITS[seg.SegmentationType])
        yield error("BitsAllocated", f"is {bits}; a {seg.SegmentationType} segmentation has {allowed}")
    elif (seg.get("BitsStored"), seg.get("HighBit")) != (bits, bits - 1):
        yield error("BitsStored", f"or High Bit are not {bits} and {bits - 1}, as Bits Allocated asks for")
    if (seg.get("SamplesPerPixel"), seg.get("PixelRepresentation")) != (1, 0):
        yield error("SamplesPerPixel", "or Pixel Representation are not 1 and 0")
    if "PixelData" not in seg:
        yield error("PixelData", "is missing")
    elif not is_encapsulated(seg):
        expected = (frames * int(seg.Rows) * int(seg.Columns) * bits + 7) // 8
        if len(seg.PixelData) != expected + expected % 2:
            yield error("PixelData", f"has {len(seg.PixelData)} bytes; {frames} frames need {expected}")


def _segment_problems(seg: Dataset) -> Iterator[Problem]:
    numbers = [_number(item) for item in seg.SegmentSequence]
    labelmap = seg.SegmentationType == "LABELMAP"
    if len(set(numbers)) != len(numbers):
        yield error("SegmentSequence", f"numbers a segment twice: {numbers}")
    elif not labelmap and numbers != list(range(1, len(numbers) + 1)):
        yield error("SegmentSequence", f"is numbered {numbers}, not 1, 2, 3 ... (C.8.20.2.4)")
    for number, item in zip(numbers, seg.SegmentSequence, strict=True):
        where = f"segment {number}: "
        yield from absent(item, ("SegmentNumber", "SegmentLabel", "SegmentAlgorithmType"), where)
        yield from incomplete_code(item, "SegmentedPropertyCategoryCodeSequence", where)
        yield from incomplete_code(item, "SegmentedPropertyTypeCodeSequence", where)
        if item.get("SegmentAlgorithmType") in ("AUTOMATIC", "SEMIAUTOMATIC"):
            yield from absent(item, ("SegmentAlgorithmName",), where)
    if labelmap:
        yield from _background_problems(seg, numbers)


def _background_problems(seg: Dataset, numbers: list[int]) -> Iterator[Problem]:
    padding = seg.get("PixelPaddingValue")
    if padding is not None and int(padding) not in numbers:
        yield warning("PixelPaddingValue", f"is {int(padding)}, which no segment describes")
    for number, item in zip(numbers, seg.SegmentSequence, strict=True):
        if _is_background(item) and (padding is None or int(padding) != number):
            text = "is the background and not the Pixel Padding Value: readers may show it as a structure"
            yield warning(f"segment {number}", text)


def _tracking_problems(seg: Dataset) -> Iterator[Problem]:
    """Tracking ID and UID belong together (PS3.3, C.8.20.2), and two things are not the same one."""
    tracked: dict[str, Dataset] = {}
    for item in seg.SegmentSequence:
        where = f"segment {_number(item)}: "
        present = [keyword for keyword in ("TrackingID", "TrackingUID") if item.get(keyword)]
        if len(present) == 1:
            yield error(
                f"{where}{present[0]}", "comes without its other half: Tracking ID and UID belong together"
            )
        elif not present and not _is_background(item):
            yield warning(f"{where}TrackingUID", "is missing: measurements can not be linked to the segment")
        uid = item.get("TrackingUID")
        if not uid:
            continue
        if not UID(uid).is_valid:
            yield error(f"{where}TrackingUID", "is not a valid UID (PS3.5, 9)")
        first = tracked.setdefault(str(uid), item)
        if first is not item:
            text = f"is that of segment {_number(first)} too"
            yield (
                warning(f"{where}TrackingUID", text)
                if _what(first) == _what(item)
                else error(f"{where}TrackingUID", f"{text}, which is something else")
            )


def _frame_problems(seg: Dataset) -> Iterator[Problem]:
    shared = seg.SharedFunctionalGroupsSequence[0]
    numbers = {_number(item) for item in seg.SegmentSequence}
    if seg.SegmentationType == "LABELMAP":
        yield from frame_problems(seg, lambda _, position: position)
        return
    identified = [_segment_of(frame, shared) for frame in seg.PerFrameFunctionalGroupsSequence]
    for index, number in enumerate(identified, 1):
        if number not in numbers:
            yield error(f"frame {index}: ReferencedSegmentNumber", f"is {number}, which no segment has")

    def place(index: int, position: tuple[float, ...]) -> Hashable:
        return identified[index], position

    yield from frame_problems(seg, place)
    for number in sorted(numbers - set(identified)):
        yield warning(f"segment {number}", "has no frame: nothing of it was found")


def _value_problems(seg: Dataset) -> Iterator[Problem]:
    """Whether each value of the pixels is one that the object explains."""
    if seg.SegmentationType == "BINARY":
        return
    try:
        present = _values_in(seg)
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as failure:
        yield warning(
            "PixelData", f"can not be decoded here ({type(failure).__name__}); its values were not checked"
        )
        return
    if seg.SegmentationType == "FRACTIONAL":
        if present[-1] > int(seg.MaximumFractionalValue):
            yield error("PixelData", "holds values above the Maximum Fractional Value")
        return
    described = {_number(item) for item in seg.SegmentSequence}
    if "PixelPaddingValue" in seg:
        described.add(int(seg.PixelPaddingValue))
    unknown = sorted(set(present.tolist()) - described)
    if unknown:
        yield error("PixelData", f"holds the values {unknown[:5]}, which no segment describes (C.8.20.2)")


def _values_in(seg: Dataset) -> NDArray[np.int64]:
    """The values that occur, in ascending order."""
    counts = np.zeros(1 << int(seg.BitsAllocated), np.int64)
    if is_encapsulated(seg):
        for frame in iter_pixels(seg, raw=True):
            counts += np.bincount(frame.ravel(), minlength=counts.size)
    else:
        size = int(seg.NumberOfFrames) * int(seg.Rows) * int(seg.Columns)
        stored = np.frombuffer(seg.PixelData, f"<u{int(seg.BitsAllocated) // 8}", size)
        for start in range(0, size, 1 << 24):  # bincount would make 64-bit numbers of all of them
            counts += np.bincount(stored[start : start + (1 << 24)], minlength=counts.size)
    return np.flatnonzero(counts)


def _segment_of(frame: Dataset, shared: Dataset) -> int | None:
    keyword = "SegmentIdentificationSequence"
    item = only_item(frame, keyword) or only_item(shared, keyword)
    return None if item is None else int(value_of(item, "ReferencedSegmentNumber") or 0)


def _number(item: Dataset) -> int:
    number = item.get("SegmentNumber")
    return -1 if number is None else int(number)


def _is_background(item: Dataset) -> bool:
    return _what(item)[0] == _BACKGROUND


def _what(item: Dataset) -> tuple[str, str]:
    """The segment's type and modifier."""
    what = only_item(item, "SegmentedPropertyTypeCodeSequence") or Dataset()
    side = only_item(what, "SegmentedPropertyTypeModifierCodeSequence") or Dataset()
    return str(what.get("CodeValue", "")), str(side.get("CodeValue", ""))
