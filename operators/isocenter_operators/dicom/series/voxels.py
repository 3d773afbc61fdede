"""From stored pixel values to the values they stand for: of CT, Hounsfield units (PS3.3, C.11.1)."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from isocenter_operators.dicom.series.codestream import fragments_of
from isocenter_operators.dicom.series.decoder import decode
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.series.pixels import read_pixels
from isocenter_operators.dicom.value import converted, named, whole_number
from isocenter_operators.errors import InputError, UnreadableInput

__all__ = ["rescale_into"]

_TELLABLE = 1e6
_FINEST_STEP = 0.1  # that whole numbers may stand for; below it, ten stored values become one
_LOWEST, _HIGHEST = -32768, 32767  # of int16


def rescale_into(plane: NDArray[np.int16] | NDArray[np.float32], frame: Frame) -> None:
    """Write a frame's rescaled values into `plane` (Y, X), int16 (rounded) or float32 (PS3.3, C.11.1.1.2).

    Padding (C.7.5.1.1.2) keeps its value, or the nearest that fits: it is no measurement.

    Raises UnreadableInput where pixel data can not be decoded; InputError where a CT image does not say how its values
    become Hounsfield units, where values need a Modality LUT, or where one does not fit 16 bits.
    """
    slope, intercept = _rescale_of(frame)
    if plane.dtype == np.float32:
        stored, _ = _stored_values(frame)
        # In double precision, and rounded once: the product of two floats of 24 bits has more.
        np.copyto(plane, stored.astype(np.float64) * slope + intercept, casting="same_kind")
        return
    if abs(slope) < _FINEST_STEP and frame.get("Modality") != "CT":
        raise InputError(
            f"{frame.name}: its values come in steps of {abs(slope):g}, which whole numbers would lose; read them as "
            "float32",
            series_uid=frame.series_uid,
        )
    stored, ends = _stored_values(frame, cast("NDArray[np.int16]", plane))
    low, high = _rescaled(ends, slope, intercept)
    if low < _LOWEST or high > _HIGHEST:
        # The most that so many bits may hold does not fit; what they do hold may.
        low, high = _rescaled((int(stored.min()), int(stored.max())), slope, intercept)
    if low < _LOWEST or high > _HIGHEST:
        values = stored.astype(np.float64) * slope + intercept
        _refuse_wide(values[~_padding(stored, frame.instance)], frame)
        np.rint(values.clip(_LOWEST, _HIGHEST), out=plane, casting="unsafe")
    elif slope == 1 and intercept.is_integer():
        # Sums modulo 2**16 are right whenever the result fits, which was just checked.
        unsigned = stored.view(np.uint16) if stored.itemsize == 2 else stored.astype(np.uint16)
        np.add(unsigned, int(intercept) % 65536, out=plane.view(np.uint16))
    else:
        np.rint(stored.astype(np.float64) * slope + intercept, out=plane, casting="unsafe")


def _rescaled(ends: tuple[int, int], slope: float, intercept: float) -> tuple[float, float]:
    low, high = sorted(end * slope + intercept for end in ends)
    return low, high


def _rescale_of(frame: Frame) -> tuple[float, float]:
    """Slope and intercept. Of CT they are type 1 (PS3.3, C.8.2.1): without them nobody knows what the values are."""
    if frame.get("ModalityLUTSequence"):
        raise InputError(
            f"{frame.name}: its values need a Modality LUT, which is not read", series_uid=frame.series_uid
        )
    slope, intercept = (_number(frame, keyword) for keyword in ("RescaleSlope", "RescaleIntercept"))
    if frame.get("Modality") == "CT" and (slope is None or intercept is None):
        raise InputError(
            f"{frame.name}: no Rescale Slope or no Rescale Intercept, so its values are not known to be "
            "Hounsfield units",
            series_uid=frame.series_uid,
        )
    slope, intercept = 1.0 if slope is None else slope, 0.0 if intercept is None else intercept
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise InputError(
            f"{frame.name}: its Rescale Slope is 0, or it and Rescale Intercept are no numbers to compute with",
            series_uid=frame.series_uid,
        )
    return slope, intercept


def _number(frame: Frame, keyword: str) -> float | None:
    value = frame.get(keyword)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UnreadableInput(
            f"{frame.name} is damaged: its {keyword} is not one number", series_uid=frame.series_uid
        ) from error


def _refuse_wide(measured: NDArray[np.float64], frame: Frame) -> None:
    if measured.size and (measured.min() < _LOWEST or measured.max() > _HIGHEST):
        raise InputError(
            f"{frame.name}: values from {_told(measured.min())} to {_told(measured.max())} do not fit 16 bits",
            series_uid=frame.series_uid,
        )


def _told(value: float) -> str:
    """A value in a message. Where it is far from any scanner's, its rescale may be another attribute's: not told."""
    return f"{value:.0f}" if abs(value) < _TELLABLE else "far beyond"


def _padding(stored: NDArray[Any], instance: Dataset) -> NDArray[np.bool_]:
    """Where the stored values (Y, X) say that there is no image."""
    where = named(instance)
    if converted(instance, "PixelPaddingValue", where) is None:
        return np.zeros(stored.shape, np.bool_)
    value = whole_number(instance, "PixelPaddingValue", where, bits=32)
    limit = whole_number(instance, "PixelPaddingRangeLimit", where, value, bits=32)
    ends = [_as_stored(end, instance) for end in (value, limit)]
    within: NDArray[np.bool_] = (stored >= min(ends)) & (stored <= max(ends))
    return within


def _as_stored(value: int, instance: Dataset) -> int:
    """With the sign of the stored values: the attribute's own VR, US or SS, is not always theirs."""
    modulus = 1 << int(instance.BitsAllocated)
    unsigned = int(value) % modulus
    negative = int(instance.PixelRepresentation) == 1 and unsigned >= modulus // 2
    return unsigned - modulus if negative else unsigned


def _stored_values(
    frame: Frame, plane: NDArray[np.int16] | None = None
) -> tuple[NDArray[Any], tuple[int, int]]:
    """The stored pixel values (Y, X): only the stored bits, with their sign (PS3.5, 8.1.1); and ends that none passes.

    plane: int16 (Y, X), which may be written over to hold them.
    """
    rows, columns = frame.shape
    bits, stored_bits, signed = _format_of(frame)
    syntax = frame.instance.file_meta.TransferSyntaxUID
    plain = bits == 16 and not syntax.is_compressed and syntax.is_little_endian
    if plain:
        dtype = np.dtype("<i2" if signed else "<u2")
        values: NDArray[Any] = (np.empty((rows, columns), dtype) if plane is None else plane).view(dtype)
        read_pixels(frame, values)
    else:
        values = _decoded(frame, syntax)
        if values.shape != (rows, columns):
            raise UnreadableInput(
                f"{frame.name}: its pixel data is no image of {columns} x {rows} pixels",
                series_uid=frame.series_uid,
            )
    unused = bits - stored_bits
    if unused and bits == 16 and not syntax.is_compressed:
        # Old scanners leave overlays in the unused high bits: shift them out, and the sign back in.
        out = values if plain else None
        values = np.right_shift(np.left_shift(values, unused, out=out), unused, out=out)
    if not plain:
        return values, (int(values.min()), int(values.max()))
    low = -(1 << stored_bits - 1) if signed else 0
    return values, (low, low + (1 << stored_bits) - 1)


def _format_of(frame: Frame) -> tuple[int, int, bool]:
    """Bits Allocated, Bits Stored, and whether values have a sign."""
    bits, stored_bits = frame.whole_number("BitsAllocated"), frame.whole_number("BitsStored")
    if not 1 <= stored_bits <= bits:
        raise UnreadableInput(
            f"{frame.name}: Bits Stored is {stored_bits} of {bits} Bits Allocated (PS3.5, 8.1.1)",
            series_uid=frame.series_uid,
        )
    high_bit = frame.whole_number("HighBit", stored_bits - 1)
    if high_bit != stored_bits - 1:
        raise UnreadableInput(
            f"{frame.name}: High Bit is {high_bit} for {stored_bits} Bits Stored; values that do not end "
            "at the lowest bit (PS3.5, 8.1.1) are not read",
            series_uid=frame.series_uid,
        )
    return bits, stored_bits, frame.whole_number("PixelRepresentation") == 1


def _decoded(frame: Frame, syntax: UID) -> NDArray[Any]:
    """The pixel values (Y, X) of a frame that is not simply 16 bits, little endian."""
    instance = frame.instance
    try:
        if not syntax.is_compressed:
            return pixel_array(instance, index=None if frame.number is None else frame.number - 1)
        if not get_decoder(syntax).is_available:
            raise ValueError("no decoder for it is installed")
        return decode(_codestream(frame), instance, syntax)
    except MemoryError:
        raise
    except Exception as error:
        # Our own words quote nothing of the image; pydicom's do.
        said = str(error) if syntax.is_compressed and type(error) is ValueError else type(error).__name__
        raise UnreadableInput(
            f"{frame.name}: pixel data in {syntax.name} can not be decoded: {said}",
            series_uid=frame.series_uid,
        ) from error


def _codestream(frame: Frame) -> bytes:
    """The compressed bytes of one frame (PS3.5, A.4): all fragments of a single-frame image, else as its table says."""
    instance = frame.instance
    if frame.number is None:
        return b"".join(fragments_of(instance.PixelData))
    table, lengths = frame.get("ExtendedOffsetTable"), frame.get("ExtendedOffsetTableLengths")
    return get_frame(
        instance.PixelData,
        frame.number - 1,
        number_of_frames=int(instance.NumberOfFrames),
        extended_offsets=(table, lengths) if table and lengths else None,
    )
