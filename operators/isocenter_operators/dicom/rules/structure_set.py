"""What an RT Structure Set has to fulfil (PS3.3, A.19, C.8.8.5 to C.8.8.8) for its contours to be found and placed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from isocenter_operators.dicom.rules.problem import Problem, absent, error, warning

__all__ = ["structure_set_problems"]

_TYPES = {"POINT", "OPEN_PLANAR", "OPEN_NONPLANAR", "CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}
_PLANAR = {"OPEN_PLANAR", "CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}
_OFF_PLANE_MM = 0.05


def structure_set_problems(structures: Dataset) -> Iterator[Problem]:
    """Every problem of one RT Structure Set."""
    yield from absent(structures, ("StructureSetLabel", "StructureSetROISequence"))
    for keyword in ("StructureSetDate", "StructureSetTime"):
        if keyword not in structures:
            yield error(keyword, "has to be there, if only empty")
    frames_of_reference = {
        str(item.get("FrameOfReferenceUID"))
        for item in structures.get("ReferencedFrameOfReferenceSequence") or []
    }
    numbers: list[int] = []
    for item in structures.get("StructureSetROISequence") or []:
        where = f"ROI {item.get('ROINumber')}: "
        yield from absent(item, ("ROINumber", "ReferencedFrameOfReferenceUID"), where)
        for keyword in ("ROIName", "ROIGenerationAlgorithm"):
            if keyword not in item:
                yield error(f"{where}{keyword}", "has to be there, if only empty")
        if str(item.get("ReferencedFrameOfReferenceUID")) not in frames_of_reference:
            yield error(
                f"{where}ReferencedFrameOfReferenceUID", "is not among the referenced frames of reference"
            )
        numbers.append(int(item.get("ROINumber") or 0))
    if len(set(numbers)) != len(numbers):
        yield error("StructureSetROISequence", f"numbers a region twice: {numbers}")
    yield from _number_problems(structures, numbers)
    images = _listed_images(structures)
    for item in structures.get("ROIContourSequence") or []:
        yield from _roi_problems(item, images, f"ROI {item.get('ReferencedROINumber')}: ")


def _number_problems(structures: Dataset, numbers: Sequence[int]) -> Iterator[Problem]:
    """The three sequences speak of the same regions."""
    for keyword in ("ROIContourSequence", "RTROIObservationsSequence"):
        if keyword not in structures:
            yield error(keyword, "is missing")
        named = [int(item.get("ReferencedROINumber") or 0) for item in structures.get(keyword) or []]
        unknown = sorted(set(named) - set(numbers))
        if unknown:
            yield error(keyword, f"refers to region {unknown[0]}, which there is not")
        if keyword == "RTROIObservationsSequence":
            for item in structures.get(keyword) or []:
                yield from absent(item, ("ObservationNumber",), "RTROIObservationsSequence: ")
            unobserved = sorted(set(numbers) - set(named))
            if unobserved:
                yield warning(keyword, f"says nothing of region {unobserved[0]}")


def _roi_problems(roi: Dataset, images: set[str], where: str) -> Iterator[Problem]:
    colour = roi.get("ROIDisplayColor")
    if colour is not None and not (len(colour) == 3 and all(0 <= int(value) <= 255 for value in colour)):
        yield error(f"{where}ROIDisplayColor", "is not three numbers from 0 to 255")
    told: set[Problem] = set()
    for contour in roi.get("ContourSequence") or []:
        for problem in _contour_problems(contour, images, where):
            if problem not in told:
                told.add(problem)
                yield problem


def _contour_problems(contour: Dataset, images: set[str], where: str) -> Iterator[Problem]:
    values = _coordinates(contour)
    keywords = ("ContourGeometricType", "NumberOfContourPoints", *(() if values.size else ("ContourData",)))
    lacking = list(absent(contour, keywords, where))
    yield from lacking
    if lacking:
        return
    kind, count = contour.ContourGeometricType, int(contour.NumberOfContourPoints)
    if kind not in _TYPES:
        yield error(f"{where}ContourGeometricType", "is none of PS3.3, C.8.8.6.1")
    if values.size != 3 * count or not np.isfinite(values).all():
        yield error(f"{where}ContourData", "is not three numbers for each of the Number of Contour Points")
        return
    if kind in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR") and count < 3:
        yield error(f"{where}NumberOfContourPoints", f"is {count}; a closed contour has three points or more")
    if kind in _PLANAR and _off_plane_mm(values.reshape(-1, 3)) > _OFF_PLANE_MM:
        yield error(f"{where}ContourData", "does not lie in one plane")
    for image in contour.get("ContourImageSequence") or []:
        if str(image.get("ReferencedSOPInstanceUID")) not in images:
            yield error(
                f"{where}ContourImageSequence", "refers to an image that the structure set does not list"
            )


def _coordinates(contour: Dataset) -> NDArray[np.float64]:
    """Contour Data as numbers: from its text, where pydicom has not made objects of it, which takes ten times as long.

    Empty where there is none.
    """
    element = contour.get_item("ContourData") if "ContourData" in contour else None
    if isinstance(element, RawDataElement) and element.value:
        try:
            return np.array(element.value.split(b"\\")).astype(np.float64)
        except ValueError:
            pass  # pydicom reads it another way, or says what is wrong with it
    data = contour.get("ContourData")
    return np.array([] if data is None else data, np.float64)


def _off_plane_mm(points: NDArray[np.float64]) -> float:
    """How far the points (N, 3) lie at most from the plane that fits them best."""
    if len(points) < 4:
        return 0.0
    centred = points - points.mean(axis=0)
    normal = np.linalg.eigh(centred.T @ centred)[1][:, 0]
    return float(np.abs(centred @ normal).max())


def _listed_images(structures: Dataset) -> set[str]:
    return {
        str(image.get("ReferencedSOPInstanceUID"))
        for frame in structures.get("ReferencedFrameOfReferenceSequence") or []
        for study in frame.get("RTReferencedStudySequence") or []
        for series in study.get("RTReferencedSeriesSequence") or []
        for image in series.get("ContourImageSequence") or []
    }
