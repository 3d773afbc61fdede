"""RLE Lossless (PS3.5, Annex G), for images that are mostly the same value: label maps, masks, probabilities.

pydicom leaves this to GDCM where that is installed, whose encoder ends the process on a frame that does not become
smaller; its own goes through the values one by one. Here a whole frame is encoded at once.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

__all__ = ["run_length_encoded"]

_LONGEST = 128  # bytes that one run stands for (PS3.5, G.3.1)
_HEADER = struct.Struct("<16L")  # the number of segments and where each begins (PS3.5, G.5)


def run_length_encoded(pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """One frame (Y, X) of one sample per pixel, as it stands in an item of encapsulated Pixel Data."""
    values = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">"))
    planes = values.view(np.uint8).reshape(*pixels.shape, -1)  # the most significant byte first (PS3.5, G.2)
    segments = [_segment(np.ascontiguousarray(planes[..., k])) for k in range(planes.shape[-1])]
    offsets = np.cumsum([_HEADER.size, *(len(segment) for segment in segments)])[:-1].tolist()
    header = _HEADER.pack(len(segments), *offsets, *[0] * (15 - len(segments)))
    return b"".join([header, *segments])


def _segment(plane: NDArray[np.uint8]) -> bytes:
    """One byte of every pixel (Y, X). Each row is encoded by itself (PS3.5, G.3.1); the whole is of even length."""
    values, columns = plane.ravel(), plane.shape[1]
    starts, lengths = _runs(values, columns)
    first = _token_starts(starts // columns, lengths == 1)
    token_of_run = np.cumsum(first) - 1
    runs_of_token = np.diff(np.append(np.flatnonzero(first), len(starts)))
    literal = lengths[first] == 1
    ends = np.cumsum(
        1 + runs_of_token
    )  # a header, then one value for each run; of a repeated value there is one run
    begins = ends - 1 - runs_of_token
    encoded = np.zeros(int(ends[-1]) + int(ends[-1]) % 2, np.uint8)
    encoded[begins] = np.where(literal, runs_of_token - 1, 257 - lengths[first])
    encoded[np.arange(len(starts)) + token_of_run + 1] = values[starts]
    return encoded.tobytes()


def _runs(values: NDArray[np.uint8], columns: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where each run of one value begins and how long it is; none goes past the end of a row, none is too long."""
    changes = np.empty(len(values), np.bool_)
    changes[1:] = values[1:] != values[:-1]
    changes[::columns] = True
    starts = np.flatnonzero(changes)
    lengths = np.diff(np.append(starts, len(values)))
    parts = -(-lengths // _LONGEST)
    run = np.repeat(np.arange(len(starts)), parts)
    part = np.arange(len(run)) - (np.cumsum(parts) - parts)[run]
    return starts[run] + part * _LONGEST, np.minimum(lengths[run] - part * _LONGEST, _LONGEST)


def _token_starts(rows: NDArray[np.intp], single: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which runs begin a token: every longer one does; single values that follow each other in a row share one."""
    first = np.ones(len(single), np.bool_)
    first[1:] = ~(single[1:] & single[:-1] & (rows[1:] == rows[:-1]))
    index = np.arange(len(single))
    within = index - np.maximum.accumulate(np.where(first, index, 0))
    first |= within % _LONGEST == 0
    return first
