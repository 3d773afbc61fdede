"""What a Secondary Capture picture has to fulfil (PS3.3, C.8.6.1, C.7.6.3)."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from isocenter_operators.dicom.rules.multiframe import is_encapsulated
from isocenter_operators.dicom.rules.problem import Problem, absent, error, warning

__all__ = ["capture_problems"]


def capture_problems(image: Dataset) -> Iterator[Problem]:
    """Every problem of one picture."""
    required = (
        "Rows",
        "Columns",
        "SamplesPerPixel",
        "BitsAllocated",
        "PhotometricInterpretation",
        "PixelData",
    )
    missing = list(absent(image, (*required, "ConversionType")))
    yield from missing
    if missing:
        return
    samples = int(image.SamplesPerPixel)
    if samples == 3 and "PlanarConfiguration" not in image:
        yield error("PlanarConfiguration", "is required of a colour image")
    if not image.get("BurnedInAnnotation"):
        yield warning("BurnedInAnnotation", "does not say whether the picture shows who the patient is")
    if not is_encapsulated(image):
        expected = int(image.Rows) * int(image.Columns) * samples * int(image.BitsAllocated) // 8
        if len(image.PixelData) not in (expected, expected + expected % 2):
            yield error("PixelData", f"has {len(image.PixelData)} bytes, not {expected}")
