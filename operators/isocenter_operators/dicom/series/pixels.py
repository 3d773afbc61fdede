"""Stored pixels that are not compressed, brought from where they lie to where they are needed, once."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.series.part10 import StoredPixels, stored_pixels
from isocenter_operators.errors import UnreadableInput

__all__ = ["read_pixels"]


def read_pixels(frame: Frame, values: NDArray[Any]) -> None:
    """Fill `values` (Y, X), contiguous, of the type of the stored pixels, with the frame's.

    Raises UnreadableInput where they are not all there, or their file is not what it was when its header was read.
    """
    stored = stored_pixels(frame.instance)
    if stored is None:
        content = memoryview(frame.instance.PixelData)
        stored = StoredPixels(content, 0, len(content))
    start = values.nbytes * ((frame.number or 1) - 1)
    if start + values.nbytes > stored.length:
        raise _refused(frame, f"its pixel data ends after {stored.length} bytes")
    if isinstance(stored.where, str):
        _read_file(frame, stored, start, values.reshape(-1).view(np.uint8).data)
    else:
        found = np.frombuffer(stored.where, values.dtype, values.size, stored.offset + start)
        np.copyto(values, found.reshape(values.shape))


def _read_file(frame: Frame, stored: StoredPixels, start: int, target: memoryview) -> None:
    assert isinstance(stored.where, str)
    try:
        file = os.open(stored.where, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = os.fstat(file)
            same = found.st_size == stored.offset + stored.length
            if not same or found.st_mtime != getattr(frame.instance, "timestamp", None):
                raise _refused(frame, f"{stored.where} was changed after its header was read")
            place = stored.offset + start
            while target:
                count = os.preadv(file, [target], place)
                if not count:
                    raise _refused(frame, f"{stored.where} was cut while it was read")
                target, place = target[count:], place + count
        finally:
            os.close(file)
    except OSError as error:
        raise _refused(frame, f"{stored.where} can not be read: {error.strerror}") from error


def _refused(frame: Frame, reason: str) -> UnreadableInput:
    return UnreadableInput(f"{frame.name} is truncated or damaged: {reason}", series_uid=frame.series_uid)
