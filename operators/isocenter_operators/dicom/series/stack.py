"""Which frames of a series make one regular stack, and what is done about those that do not.

Nothing is dropped or chosen silently: each decision that a `StackPolicy` allows is noted in words, each that it does
not allow is a refusal that names what was found. Positions are judged along the normal of the image plane, as PS3.3,
C.7.6.2.1.1 has it, never by file names, Instance Number or Slice Location.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.series.placement import in_order, require_plane
from isocenter_operators.dicom.series.separation import (
    StackPolicy,
    one_volume,
    refuse_mixed,
    refuse_strangers,
    without_localizers,
)
from isocenter_operators.errors import GeometryError

__all__ = ["Stack", "stack_of"]

_POSITION_TOLERANCE = 0.1  # of the slice spacing: how far a slice may lie from its place on the regular grid


@dataclass(frozen=True)
class Stack:
    """`frames` in order along their normal. `places`: where each lies on a regular grid of `depth` slices, from 0.

    `missing`: how many slices the series lacks between its first and its last.
    """

    frames: tuple[Frame, ...]
    places: tuple[float, ...]
    depth: int
    notes: tuple[str, ...] = ()
    missing: int = 0

    @property
    def regular(self) -> bool:
        """Whether each slice of the grid is a frame, in its place."""
        return self.depth == len(self.frames) and all(
            abs(place - index) <= _POSITION_TOLERANCE for index, place in enumerate(self.places)
        )


def stack_of(frames: Sequence[Frame], policy: StackPolicy) -> Stack:
    """The one regular stack of these frames of one series.

    Raises GeometryError for whatever makes them none and the policy does not allow to be settled.
    """
    if not frames:
        raise GeometryError("there are no images in this series")
    uid = frames[0].series_uid
    refuse_mixed("SeriesInstanceUID", {frame.series_uid for frame in frames}, uid)
    refuse_strangers(frames)
    notes: list[str] = []
    frames = without_localizers(frames, policy, notes)
    for frame in frames:
        require_plane(frame)
    frames = one_volume(frames, policy, notes)
    if len(frames) < 2:
        raise GeometryError(f"series {uid} has one slice; a volume needs at least two", series_uid=uid)
    frames, along = in_order(frames)
    return _regular(frames, along, policy, notes)


def _regular(frames: list[Frame], along: NDArray[np.float64], policy: StackPolicy, notes: list[str]) -> Stack:
    """Each slice must lie on the regular line from the first to the last, or the policy says what to do."""
    if _in_line(frames) and _even(frames):
        return Stack(tuple(frames), tuple(float(i) for i in range(len(frames))), len(frames), tuple(notes))
    if not _in_line(frames):
        raise GeometryError(
            f"series {frames[0].series_uid}: its slices are not in line, some lie shifted to the side: several "
            "reconstructions in one series",
            series_uid=frames[0].series_uid,
        )
    steps = np.diff(along)
    if policy.gaps == "longest":
        return _longest(frames, steps, notes)
    if policy.gaps == "resample":
        return _resampled(frames, along, policy, notes)
    raise GeometryError(_gap(frames, steps) + "; send the whole series", series_uid=frames[0].series_uid)


def _gap(frames: Sequence[Frame], steps: NDArray[np.float64]) -> str:
    where = int(np.argmax(steps))
    return (
        f"series {frames[0].series_uid} has a gap or uneven spacing: {steps.max():.2f} mm after slice {where + 1} of "
        f"{len(frames)}, {float(np.median(steps)):.2f} mm elsewhere"
    )


def _even(frames: Sequence[Frame]) -> bool:
    """Whether each slice lies where the regular grid from the first to the last has it."""
    positions = np.array([frame.position_mm for frame in frames])
    even = np.linspace(positions[0], positions[-1], len(positions))
    spacing = float(np.median(np.linalg.norm(np.diff(positions, axis=0), axis=1)))
    return bool(np.linalg.norm(positions - even, axis=1).max() <= _POSITION_TOLERANCE * spacing)


def _in_line(frames: Sequence[Frame]) -> bool:
    """Whether the slices lie on one line, at whatever distances: at right angles to it none is off."""
    positions = np.array([frame.position_mm for frame in frames])
    line = positions[-1] - positions[0]
    length = float(np.linalg.norm(line))
    spacing = length / (len(frames) - 1)
    off = positions - positions[0]
    aside = off - np.outer(off @ line / length**2, line)
    return bool(np.linalg.norm(aside, axis=1).max() <= _POSITION_TOLERANCE * spacing)


def _longest(frames: list[Frame], steps: NDArray[np.float64], notes: list[str]) -> Stack:
    spacing = float(np.median(steps))
    regular = np.abs(steps - spacing) <= _POSITION_TOLERANCE * spacing
    best, first = (0, 0), 0
    for place in range(len(steps) + 1):
        if place == len(steps) or not regular[place]:
            best = max(best, (place - first + 1, -first))
            first = place + 1
    count, start = best[0], -best[1]
    run = frames[start : start + count]
    if count < 2 or not _even(run):
        raise GeometryError(
            _gap(frames, steps) + ": no part of it is regular", series_uid=frames[0].series_uid
        )
    notes.append(
        f"slices are missing or unevenly spaced: the longest regular part was used, {count} of {len(frames)} slices"
    )
    # A step that is too long for two neighbours lacks one slice at least.
    missing = int(np.maximum(np.rint(steps / spacing) - 1, 1)[~regular & (steps > spacing)].sum())
    return Stack(tuple(run), tuple(float(i) for i in range(count)), count, tuple(notes), missing)


def _resampled(
    frames: list[Frame], along: NDArray[np.float64], policy: StackPolicy, notes: list[str]
) -> Stack:
    steps = np.diff(along)
    spacing = float(np.median(steps))
    widest = float(steps.max()) / spacing
    if widest > policy.most_missing + 1 + _POSITION_TOLERANCE:
        raise GeometryError(
            f"{_gap(frames, steps)}: more than {policy.most_missing} slices in a row are missing",
            series_uid=frames[0].series_uid,
        )
    depth = round(float(along[-1] - along[0]) / spacing) + 1
    if depth < len(frames):
        raise GeometryError(
            f"series {frames[0].series_uid} has uneven spacing: some of its slices are {float(steps.min()):.2f} mm "
            f"apart, most {spacing:.2f} mm; on a grid of {spacing:.2f} mm some would be lost",
            series_uid=frames[0].series_uid,
        )
    places = (along - along[0]) / (along[-1] - along[0]) * (depth - 1)
    if np.abs(places - np.rint(places)).max() > _POSITION_TOLERANCE:
        # A result on such a grid has no slice of its own to come back to: it would lie beside where it was found.
        raise GeometryError(
            f"{_gap(frames, steps)}: the distances are no whole steps, so it is not known what is missing",
            series_uid=frames[0].series_uid,
        )
    notes.append(
        f"slices are missing or unevenly spaced: {len(frames)} slices were resampled to {depth}, "
        f"{float(along[-1] - along[0]) / (depth - 1):.2f} mm apart; values between them are interpolated"
    )
    missing = depth - len(frames)
    return Stack(tuple(frames), tuple(float(p) for p in places), depth, tuple(notes), missing)
