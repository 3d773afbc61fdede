"""Where the images of a series lie: orientation, spacing and extent, from attributes as text (PS3.3, C.7.6.2).

Positions and lengths are millimetres in the patient's Left-Posterior-Superior axes (PS3.3, C.7.6.2.1.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

__all__ = [
    "Stack",
    "Unknown",
    "number",
    "numbers",
    "orientation",
    "pixel_spacing_mm",
    "slice_thickness_mm",
    "stack",
]

_Vector = tuple[float, float, float]

_COSINE_TOLERANCE = 0.01  # of unit length and right angle: cosines are written with few digits
_ONE_PLANE = 0.8  # the normal lies within 37 degrees of the patient's axis, else the plane is oblique
_PARALLEL = 0.9999  # normals within 0.8 degrees
_SAME_PLACE_MM = 0.01


@dataclass(frozen=True)
class Unknown:
    """Something that can not be computed, and why."""

    why: str


@dataclass(frozen=True)
class Stack:
    """Slices along their common normal: `offsets_mm` are the distinct places of their centres, ascending."""

    offsets_mm: tuple[float, ...]

    @property
    def coverage_mm(self) -> float:
        """From the centre of the first slice to that of the last."""
        return _rounded(self.offsets_mm[-1] - self.offsets_mm[0])

    @property
    def spacing_mm(self) -> float | Unknown:
        """From centre to centre, the median; without gaps it is that of every slice."""
        if len(self.offsets_mm) < 2:
            return Unknown("all slices lie at one place")
        return _rounded(median(after - before for before, after in pairwise(self.offsets_mm)))


def _rounded(length_mm: float) -> float:
    """To a micrometre: slices at 0.7, 1.4 and 2.1 mm are 0.7 mm apart, not 0.7000000000000002."""
    return round(length_mm, 3)


def number(text: Any) -> float | None:
    """A finite number as DICOM writes one (PS3.5, 6.2: DS, IS), None for anything else."""
    try:
        value = float(text)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) and "_" not in str(text) else None


def numbers(value: Any) -> tuple[float, ...]:
    """The numbers of `A\\B\\C`, () where any of them is none."""
    found = [number(each) for each in str(value).split("\\")] if isinstance(value, str | float | int) else []
    return tuple(each for each in found if each is not None) if None not in found else ()


def orientation(attributes: Mapping[str, Any]) -> str | Unknown:
    """axial, coronal or sagittal where the normal lies within 37 degrees of that axis, else oblique.

    Of a multi-frame instance that of its first frame.
    """
    normal = _normal(next(_frames(attributes, "PlaneOrientationSequence", "ImageOrientationPatient"), None))
    if normal is None:
        return Unknown("ImageOrientationPatient is not there, or not two unit vectors at right angles")
    planes = ("sagittal", "coronal", "axial")  # at right angles to x, y, z
    share, plane = max((abs(along), plane) for along, plane in zip(normal, planes, strict=True))
    return plane if share >= _ONE_PLANE else "oblique"


def pixel_spacing_mm(attributes: Mapping[str, Any]) -> tuple[float, float] | Unknown:
    """The distances between rows and between columns (PS3.3, 10.7.1.3), in the patient, never at the detector."""
    found = numbers(next(_frames(attributes, "PixelMeasuresSequence", "PixelSpacing"), None))
    if len(found) != 2 or min(found) <= 0:
        return Unknown("PixelSpacing is not there, or not two positive numbers")
    return found[0], found[1]


def slice_thickness_mm(attributes: Mapping[str, Any]) -> float | Unknown:
    """The nominal thickness (PS3.3, C.7.6.2)."""
    found = number(next(_frames(attributes, "PixelMeasuresSequence", "SliceThickness"), None))
    return (
        found if found is not None and found > 0 else Unknown("SliceThickness is not there, or not positive")
    )


def stack(instances: Iterable[Mapping[str, Any]]) -> Stack | Unknown:
    """The slices of a series. Unknown where any has no place, or where they are not parallel."""
    first: _Vector | None = None
    offsets = []
    for instance in instances:
        positions = [*_frames(instance, "PlanePositionSequence", "ImagePositionPatient")]
        cosines = [*_frames(instance, "PlaneOrientationSequence", "ImageOrientationPatient")]
        for position, normal in zip(positions, _each(cosines, len(positions)), strict=True):
            place = numbers(position)
            if normal is None or len(place) != 3:
                return Unknown("an image has no usable ImagePositionPatient and ImageOrientationPatient")
            first = first or normal
            if abs(_dot(first, normal)) < _PARALLEL:
                return Unknown("its images lie in several orientations")
            offsets.append(_dot(first, place))
        if not positions:
            return Unknown("an image has no ImagePositionPatient")
    return Stack(_distinct(sorted(offsets))) if offsets else Unknown("there are no images")


def _distinct(offsets: Sequence[float]) -> tuple[float, ...]:
    kept: list[float] = []
    for offset in offsets:
        if not kept or offset - kept[-1] > _SAME_PLACE_MM:
            kept.append(offset)
    return tuple(kept)


def _each(cosines: Sequence[Any], frames: int) -> Sequence[_Vector | None]:
    """A normal for each frame; one that is said once is that of all."""
    if len(cosines) == 1:
        return [_normal(cosines[0])] * frames
    return [_normal(each) for each in cosines] if len(cosines) == frames else [None] * frames


def _frames(attributes: Mapping[str, Any], macro: str, keyword: str) -> Iterator[Any]:
    """The attribute of each frame: of the instance itself, or by its functional groups (PS3.3, C.7.6.16)."""
    if attributes.get(keyword):
        yield attributes[keyword]
        return
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        found = [
            each.get(keyword)
            for frame in _items(attributes.get(groups))
            for each in _items(frame.get(macro))[:1]
        ]
        if found:
            yield from found
            return


def _items(sequence: Any) -> list[Mapping[str, Any]]:
    return (
        [item for item in sequence if isinstance(item, Mapping)] if isinstance(sequence, list | tuple) else []
    )


def _normal(cosines: Any) -> _Vector | None:
    """The unit vector at right angles to rows and columns, None where these are none."""
    values = numbers(cosines)
    if len(values) != 6:
        return None
    row, column = values[:3], values[3:]
    lengths_off = max(abs(math.hypot(*row) - 1), abs(math.hypot(*column) - 1))
    if lengths_off > _COSINE_TOLERANCE or abs(_dot(row, column)) > _COSINE_TOLERANCE:
        return None
    x = row[1] * column[2] - row[2] * column[1]
    y = row[2] * column[0] - row[0] * column[2]
    z = row[0] * column[1] - row[1] * column[0]
    length = math.hypot(x, y, z)
    return x / length, y / length, z / length


def _dot(one: Sequence[float], other: Sequence[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
