"""From a series of slices to one volume with an exact affine.

Index order of every affine here is (column, row, slice) = (x, y, z), and its result is millimetres in the
patient's Left-Posterior-Superior axes (PS3.3, C.7.6.2.1.1). Arrays are (Z, Y, X).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from isocenter_operators.errors import GeometryError, InputError, UnreadableInput

__all__ = ["Volume", "slices_of", "volume_of"]

_PLANE_KEYWORDS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
_COSINE_TOLERANCE = 1e-3  # direction cosines are written with few digits
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

    Raises GeometryError where they make none (see `slices_of`), UnreadableInput where pixel data can not be decoded,
    and InputError where a rescaled value does not fit 16 bits.
    """
    slices = slices_of(instances)
    affine = _affine(slices)
    first = slices[0]
    voxels = np.empty((len(slices), int(first.Rows), int(first.Columns)), np.int16)
    for plane, instance in zip(voxels, slices, strict=True):
        _rescale_into(plane, instance)
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
        if np.ptp(values, axis=0).max() > _COSINE_TOLERANCE:
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


def _refuse_no_plane(instance: Dataset, uid: str) -> None:
    if int(instance.get("NumberOfFrames") or 1) > 1 or "PerFrameFunctionalGroupsSequence" in instance:
        raise GeometryError(
            f"series {uid} holds multi-frame instances ({instance.SOPClassUID.name}), which are not read yet; "
            "send it as single-frame images",
            series_uid=uid,
        )
    if int(instance.get("SamplesPerPixel", 1)) != 1:
        raise GeometryError(f"series {uid} holds colour images, not a volume", series_uid=uid)
    missing = [keyword for keyword in _PLANE_KEYWORDS if not instance.get(keyword)]
    if missing:
        raise GeometryError(
            f"series {uid}, instance {instance.SOPInstanceUID}: no {', '.join(missing)}, so its place in the patient "
            "is not known",
            series_uid=uid,
        )


def _refuse_mixed(keyword: str, values: set[str], uid: str) -> None:
    if len(values) > 1:
        shown = ", ".join(sorted(values)[:3])
        raise GeometryError(
            f"series {uid} mixes {len(values)} values of {keyword} ({shown}): it is not one volume",
            series_uid=uid,
        )


def _refuse_irregular(slices: Sequence[Dataset], along: NDArray[np.float64], uid: str) -> None:
    """Each slice must lie on the regular line from the first to the last (PS3.3, C.7.6.2.1.1)."""
    steps = np.diff(along)
    spacing = float(np.median(steps))
    if (steps < 0.01).any():
        where = int(np.argmin(steps))
        raise GeometryError(
            f"series {uid} has {int((steps < 0.01).sum())} slices at a position that another slice already has "
            f"(instance {slices[where + 1].SOPInstanceUID}): several time points or reconstructions in one series",
            series_uid=uid,
        )
    positions = np.array([_position(instance) for instance in slices])
    even = np.linspace(positions[0], positions[-1], len(positions))
    if np.linalg.norm(positions - even, axis=1).max() > _POSITION_TOLERANCE * spacing:
        where = int(np.argmax(steps))
        raise GeometryError(
            f"series {uid} has a gap or uneven spacing: {steps.max():.2f} mm after slice {where + 1} of {len(slices)}, "
            f"{spacing:.2f} mm elsewhere; send the whole series",
            series_uid=uid,
        )


def _position(instance: Dataset) -> NDArray[np.float64]:
    return np.array(instance.ImagePositionPatient, np.float64)


def _normal(instance: Dataset) -> NDArray[np.float64]:
    cosines = np.array(instance.ImageOrientationPatient, np.float64)
    normal = np.cross(cosines[:3], cosines[3:])
    length = float(np.linalg.norm(normal))
    if abs(length - 1.0) > 0.01:
        raise GeometryError(
            f"series {instance.SeriesInstanceUID}: ImageOrientationPatient {list(cosines)} is not two unit vectors at "
            "right angles",
            series_uid=str(instance.SeriesInstanceUID),
        )
    return np.asarray(normal / length, np.float64)


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


def _rescale_into(plane: NDArray[np.int16], instance: Dataset) -> None:
    """Write the instance's rescaled values into `plane` (Y, X) (PS3.3, C.11.1.1.2)."""
    stored = _stored_values(instance)
    slope = float(instance.get("RescaleSlope") or 1)
    intercept = float(instance.get("RescaleIntercept") or 0)
    low, high = sorted(float(value) * slope + intercept for value in (stored.min(), stored.max()))
    if low < -32768 or high > 32767:
        raise InputError(
            f"series {instance.SeriesInstanceUID}, instance {instance.SOPInstanceUID}: values from {low:.0f} to "
            f"{high:.0f} do not fit 16 bits",
            series_uid=str(instance.SeriesInstanceUID),
        )
    if slope == 1 and intercept.is_integer():
        # Sums modulo 2**16 are right whenever the result fits, which was just checked.
        np.add(stored.astype(np.uint16, copy=False), int(intercept) % 65536, out=plane.view(np.uint16))
    else:
        np.rint(stored.astype(np.float64) * slope + intercept, out=plane, casting="unsafe")


def _stored_values(instance: Dataset) -> NDArray[Any]:
    """The stored pixel values (Y, X): only the stored bits, with their sign (PS3.5, 8.1.1)."""
    shape = (int(instance.Rows), int(instance.Columns))
    bits, stored_bits = int(instance.BitsAllocated), int(instance.BitsStored)
    signed = int(instance.PixelRepresentation) == 1
    syntax = instance.file_meta.TransferSyntaxUID
    if bits == 16 and not syntax.is_compressed and syntax.is_little_endian:
        values: NDArray[Any] = np.frombuffer(
            instance.PixelData, "<i2" if signed else "<u2", count=shape[0] * shape[1]
        )
        values = values.reshape(shape)
    else:
        values = _decoded(instance)
    unused = bits - stored_bits
    if unused and bits == 16 and not syntax.is_compressed:
        # Old scanners leave overlays in the unused high bits: shift them out, and the sign back in.
        values = (values << unused) >> unused
    return values


def _decoded(instance: Dataset) -> NDArray[Any]:
    try:
        return instance.pixel_array
    except (RuntimeError, ValueError, AttributeError, NotImplementedError) as error:
        raise UnreadableInput(
            f"instance {instance.SOPInstanceUID}: pixel data in {instance.file_meta.TransferSyntaxUID.name} can not be "
            f"decoded: {error}",
            series_uid=str(instance.SeriesInstanceUID),
        ) from error
