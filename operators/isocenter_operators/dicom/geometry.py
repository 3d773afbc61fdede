"""From a series of slices to one volume with an exact affine.

Index order of every affine here is (column, row, slice) = (x, y, z), and its result is millimetres in the
patient's Left-Posterior-Superior axes (PS3.3, C.7.6.2.1.1). Arrays are (Z, Y, X).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from isocenter_operators.dicom.room import require_room
from isocenter_operators.dicom.value import converted, named, whole_number
from isocenter_operators.dicom.voxels import rescale_into
from isocenter_operators.errors import GeometryError

__all__ = ["Volume", "slices_of", "volume_of"]

_PLANE_KEYWORDS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
_TELLABLE = re.compile(r"[-+0-9.e, ()]*[.,][-+0-9.e, ()]*|[0-9]{1,5}")  # lists, UIDs, sizes; no dates
_VALUES = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
# Direction cosines are written with few digits. Half a millimetre over the width of a patient, for spacings too.
_PLANE_TOLERANCE = 1e-3
_SAME_PLACE_MM = 0.01
_FARTHEST_MM = 1e6  # no scanner is a kilometre long; numbers far beyond it overflow
_LARGEST_VOLUME_MB = 8192  # 4,000 slices of 1024 x 1024
_POSITION_TOLERANCE = 0.1  # of the slice spacing: how far a slice may lie from its place on the regular grid


@dataclass(frozen=True)
class Volume:
    """Voxels, where they lie in the patient, and the instances they came from.

    `voxels`: int16 (Z, Y, X), rescaled: Hounsfield units for CT.
    `affine`: float64 (4, 4), index (x, y, z, 1) to LPS millimetres. With a tilted gantry its third column is not at
    right angles to the first two.
    `sources`: one instance per slice, in the order of Z.
    """

    voxels: NDArray[np.int16]  # (Z, Y, X)
    affine: NDArray[np.float64]  # (x, y, z, 1) -> LPS, mm
    sources: tuple[Dataset, ...]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along (x, y, z) in millimetres."""
        x, y, z = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return x, y, z


def volume_of(instances: Sequence[Dataset]) -> Volume:
    """The one volume that these single-frame instances of one series make.

    Raises GeometryError where they make none (see `slices_of`), UnreadableInput and InputError where their values can
    not be had (see `rescale_into`).
    """
    slices = slices_of(instances)
    affine = _affine(slices)
    first = slices[0]
    shape = (len(slices), int(first.Rows), int(first.Columns))
    _refuse_large(shape, str(first.SeriesInstanceUID))
    require_room(2 * shape[0] * shape[1] * shape[2])
    voxels = np.empty(shape, np.int16)
    for plane, instance in zip(voxels, slices, strict=True):
        rescale_into(plane, instance)
    return Volume(voxels, affine, tuple(slices))


def slices_of(instances: Sequence[Dataset]) -> list[Dataset]:
    """The instances in order along the slice normal, checked to be one regular stack.

    Raises GeometryError for several series, frames of reference, orientations, sizes or spacings in one; for two
    slices at one position; for a gap; for fewer than two slices; and for multi-frame instances.
    """
    if not instances:
        raise GeometryError("there are no images in this series")
    uid = str(instances[0].SeriesInstanceUID)
    for instance in instances:
        _refuse_no_plane(instance, uid)
    for keyword in ("SeriesInstanceUID", "FrameOfReferenceUID", "Rows", "Columns"):
        _refuse_mixed(keyword, {str(instance.get(keyword)) for instance in instances}, uid)
    for keyword in ("ImageOrientationPatient", "PixelSpacing"):
        values = np.array([instance[keyword].value for instance in instances], np.float64)
        if np.ptp(values, axis=0).max() > _PLANE_TOLERANCE:
            distinct = {tuple(row) for row in np.round(values, 3).tolist()}
            _refuse_mixed(keyword, {str(row) for row in distinct}, uid)
    if len(instances) < 2:
        raise GeometryError(f"series {uid} has one slice; a volume needs at least two", series_uid=uid)
    normal = _normal(instances[0])
    along = [float(np.dot(normal, _position(instance))) for instance in instances]
    order = np.argsort(along, kind="stable")
    slices = [instances[i] for i in order]
    _refuse_irregular(slices, np.array(along)[order], uid)
    return slices


def _refuse_large(shape: tuple[int, int, int], uid: str) -> None:
    size_mb = shape[0] * shape[1] * shape[2] * 2 >> 20
    if size_mb > _LARGEST_VOLUME_MB:
        slices, rows, columns = shape
        raise GeometryError(
            f"series {uid}: {slices} slices of {columns} x {rows} are {size_mb} MB; a volume of more than "
            f"{_LARGEST_VOLUME_MB} MB is not made",
            series_uid=uid,
        )


def _refuse_no_plane(instance: Dataset, uid: str) -> None:
    where = named(instance)
    if (
        whole_number(instance, "NumberOfFrames", where, 1, bits=31) > 1
        or "PerFrameFunctionalGroupsSequence" in instance
    ):
        raise GeometryError(
            f"series {uid} holds multi-frame instances ({instance.SOPClassUID.name}), which are not read yet; "
            "send it as single-frame images",
            series_uid=uid,
        )
    if whole_number(instance, "SamplesPerPixel", where, 1) != 1:
        raise GeometryError(f"series {uid} holds colour images, not a volume", series_uid=uid)
    missing = [keyword for keyword in _PLANE_KEYWORDS if not converted(instance, keyword, where)]
    if missing:
        raise GeometryError(
            f"series {uid}, instance {instance.SOPInstanceUID}: no {', '.join(missing)}, so its place in the patient "
            "is not known",
            series_uid=uid,
        )
    for keyword in ("Rows", "Columns"):
        whole_number(instance, keyword, where)
    for keyword, count in _VALUES.items():
        _refuse_no_numbers(instance, keyword, count, uid)


def _refuse_no_numbers(instance: Dataset, keyword: str, count: int, uid: str) -> None:
    try:
        values = np.atleast_1d(np.array(instance[keyword].value, np.float64))
    except (TypeError, ValueError):  # an empty component
        values = np.empty(0)
    sound = values.shape == (count,) and bool((np.abs(values) <= _FARTHEST_MM).all())  # which NaN is not
    if not sound or (count == 2 and (values <= 0).any()):
        shown = values.tolist() if sound else "something else"
        raise GeometryError(
            f"series {uid}, instance {instance.SOPInstanceUID}: {keyword} is {shown}, not {count} "
            f"{'positive ' if count == 2 else ''}numbers that can be",
            series_uid=uid,
        )


def _refuse_mixed(keyword: str, values: set[str], uid: str) -> None:
    if len(values) > 1:
        # A value that is none of numbers may be another attribute's, of a damaged image.
        shown = ", ".join(value if _TELLABLE.fullmatch(value) else "another" for value in sorted(values)[:3])
        raise GeometryError(
            f"series {uid} mixes {len(values)} values of {keyword} ({shown}): it is not one volume",
            series_uid=uid,
        )


def _refuse_irregular(slices: Sequence[Dataset], along: NDArray[np.float64], uid: str) -> None:
    """Each slice must lie on the regular line from the first to the last (PS3.3, C.7.6.2.1.1)."""
    steps = np.diff(along)
    spacing = float(np.median(steps))
    together = int((steps < _SAME_PLACE_MM).sum())
    if together:
        where = int(np.argmin(steps))
        raise GeometryError(
            f"series {uid} has {together} slices at a position that another slice already has "
            f"(instance {slices[where + 1].SOPInstanceUID}): several time points or reconstructions in one series",
            series_uid=uid,
        )
    positions = np.array([_position(instance) for instance in slices])
    even = np.linspace(positions[0], positions[-1], len(positions))
    if np.linalg.norm(positions - even, axis=1).max() > _POSITION_TOLERANCE * spacing:
        if np.ptp(steps) <= _POSITION_TOLERANCE * spacing:
            raise GeometryError(
                f"series {uid}: its slices are not in line, some lie shifted to the side: several reconstructions in "
                "one series",
                series_uid=uid,
            )
        where = int(np.argmax(steps))
        raise GeometryError(
            f"series {uid} has a gap or uneven spacing: {steps.max():.2f} mm after slice {where + 1} of {len(slices)}, "
            f"{spacing:.2f} mm elsewhere; send the whole series",
            series_uid=uid,
        )


def _position(instance: Dataset) -> NDArray[np.float64]:
    return np.array(instance.ImagePositionPatient, np.float64)


def _normal(instance: Dataset) -> NDArray[np.float64]:
    cosines = np.array(instance.ImageOrientationPatient, np.float64).reshape(2, 3)
    if np.abs(cosines @ cosines.T - np.eye(2)).max() > _PLANE_TOLERANCE:
        raise GeometryError(
            f"series {instance.SeriesInstanceUID}: ImageOrientationPatient {cosines.ravel().tolist()} is not two unit "
            "vectors at right angles",
            series_uid=str(instance.SeriesInstanceUID),
        )
    normal = np.cross(cosines[0], cosines[1])
    return np.asarray(normal / np.linalg.norm(normal), np.float64)


def _affine(slices: Sequence[Dataset]) -> NDArray[np.float64]:
    first, last = slices[0], slices[-1]
    cosines = np.array(first.ImageOrientationPatient, np.float64)
    row_spacing_mm, column_spacing_mm = (float(value) for value in first.PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = cosines[:3] * column_spacing_mm  # one step along a row: to the next column
    affine[:3, 1] = cosines[3:] * row_spacing_mm
    affine[:3, 2] = (_position(last) - _position(first)) / (len(slices) - 1)
    affine[:3, 3] = _position(first)
    return affine
