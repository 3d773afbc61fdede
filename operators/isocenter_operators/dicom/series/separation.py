"""Telling the volumes of one series apart: localizers, copies, orientations, time points, reconstructions.

What a `StackPolicy` allows is done and noted in words; what it does not is a refusal that names what was found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.multival import MultiValue

from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.series.placement import PLANE_TOLERANCE, SAME_PLACE_MM, in_order, require_plane
from isocenter_operators.dicom.value import converted
from isocenter_operators.errors import GeometryError

__all__ = [
    "STRICT",
    "StackPolicy",
    "one_volume",
    "refuse_mixed",
    "refuse_strangers",
    "volumes_in",
    "without_localizers",
]

_TELLABLE = re.compile(r"[-+0-9.e, ()]*[.,][-+0-9.e, ()]*|[0-9]{1,5}")  # lists, UIDs, sizes; no dates
# What may tell the volumes of one series apart, the most telling first.
_TELLING = (
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "NominalCardiacTriggerDelayTime",
    "TriggerTime",
    "DiffusionBValue",
    "EffectiveEchoTime",
    "EchoTime",
    "EchoNumbers",
    "InversionTime",
    "StackID",
    "FrameAcquisitionNumber",
    "AcquisitionNumber",
    "FrameType",
    "ImageType",
    "ConvolutionKernel",
    "AcquisitionTime",
    "ContentTime",
)
_IN_TIME = (
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "NominalCardiacTriggerDelayTime",
    "TriggerTime",
)


_NEVER_MIXED = (
    "ConvolutionKernel",
    "DiffusionBValue",
)  # in one volume, also where no two slices share a place


@dataclass(frozen=True)
class StackPolicy:
    """What may be done about a series that is not one regular stack of slices; each thing that is done is noted.

    `localizers`: images that call themselves LOCALIZER among others. `copies`: slices with the same position and the
    same pixels. `volumes`: several volumes, time points, orientations or frames of reference in one series; the largest
    (refused where two are as large), or the first or the last as they were acquired. `gaps`: missing slices; the
    longest run without one, or linear interpolation over at most `most_missing` slices in a row.
    """

    localizers: Literal["leave_out", "refuse"] = "leave_out"
    copies: Literal["leave_out", "refuse"] = "leave_out"
    volumes: Literal["refuse", "largest", "first", "last"] = "refuse"
    gaps: Literal["refuse", "longest", "resample"] = "refuse"
    most_missing: int = 2


STRICT = StackPolicy()  # takes out what is there twice and what is no slice, and refuses all else


def without_localizers(frames: Sequence[Frame], policy: StackPolicy, notes: list[str]) -> list[Frame]:
    """The frames that do not call themselves localizers, where there are others."""
    kept = [frame for frame in frames if not _is_localizer(frame)]
    left_out = len(frames) - len(kept)
    if not left_out or not kept:
        return list(frames)
    uid = frames[0].series_uid
    if policy.localizers == "refuse":
        raise GeometryError(f"series {uid} holds {left_out} localizers among its images", series_uid=uid)
    notes.append(f"{left_out} localizers in the series were left out")
    return kept


def _is_localizer(frame: Frame) -> bool:
    return any("LOCALIZER" in _terms(frame.get(keyword)) for keyword in ("FrameType", "ImageType"))


def _terms(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(str(v) for v in value) if isinstance(value, (MultiValue, list, tuple)) else (str(value),)


def one_volume(frames: list[Frame], policy: StackPolicy, notes: list[str]) -> list[Frame]:
    """The frames of one orientation, size and time, without two in one place."""
    groups = _grouped(frames, _geometry_of(frames))
    if len(groups) > 1:
        if policy.volumes == "refuse":
            _refuse_mixed_geometry(frames)
        frames = _chosen(
            groups,
            policy,
            notes,
            "groups of images that differ in orientation, size, spacing or frame of reference",
        )
    frames = _without_copies(frames, policy, notes)
    telling, volumes = _apart(frames)
    if len(volumes) == 1:
        return frames
    uid = frames[0].series_uid
    if policy.volumes == "refuse":
        raise GeometryError(
            f"series {uid} has {len(volumes)} volumes in one, which differ in {telling}: several time points or "
            "reconstructions at the position of each slice",
            series_uid=uid,
        )
    return _chosen(volumes, policy, notes, f"volumes that differ in {telling}")


def volumes_in(frames: Sequence[Frame]) -> list[list[Frame]]:
    """The volumes that the frames make, each in order along its normal and none with two frames in one place.

    For applications that take each of them: time points, echoes, b-values. In the order of acquisition where an
    attribute tells them apart; localizers and copies are left out. Raises GeometryError where frames have no plane, or
    nothing tells which belong together.
    """
    frames = without_localizers(frames, STRICT, [])
    for frame in frames:
        require_plane(frame)
    return [
        in_order(volume)[0]
        for group in _grouped(frames, _geometry_of(frames))
        for volume in _apart(_without_copies(group, STRICT, []))[1]
    ]


def refuse_mixed(keyword: str, values: set[str], uid: str) -> None:
    """Raise GeometryError where frames of what should be one volume differ."""
    if len(values) > 1:
        # A value that is none of numbers may be another attribute's, of a damaged image.
        shown = ", ".join(value if _TELLABLE.fullmatch(value) else "another" for value in sorted(values)[:3])
        raise GeometryError(
            f"series {uid} mixes {len(values)} values of {keyword} ({shown}): it is not one volume",
            series_uid=uid,
        )


def refuse_strangers(frames: Sequence[Frame]) -> None:
    """Raise GeometryError where images of one series are of two patients or studies, or their values of two kinds."""
    for keyword in ("PatientID", "StudyInstanceUID", "Modality", "RescaleType"):
        values = {_terms(frame.get(keyword)) for frame in frames}
        if len(values) > 1:  # which of them, nobody is told: they may be a patient's
            raise GeometryError(
                f"series {frames[0].series_uid} mixes {len(values)} values of {keyword}: it is not one volume",
                series_uid=frames[0].series_uid,
            )


def _refuse_mixed_geometry(frames: Sequence[Frame]) -> None:
    uid = frames[0].series_uid
    refuse_mixed("FrameOfReferenceUID", {str(frame.get("FrameOfReferenceUID")) for frame in frames}, uid)
    for place, keyword in enumerate(("Rows", "Columns")):
        refuse_mixed(keyword, {str(frame.shape[place]) for frame in frames}, uid)
    for keyword in ("ImageOrientationPatient", "PixelSpacing"):
        values = np.array([frame.get(keyword) for frame in frames], np.float64)
        refuse_mixed(keyword, {str(tuple(row)) for row in np.round(values, 3).tolist()}, uid)
    raise GeometryError(
        f"series {uid} mixes several orientations or spacings: it is not one volume", series_uid=uid
    )


def _geometry_of(frames: Sequence[Frame]) -> Callable[[Frame], Hashable]:
    """What frames of one stack have in common, as a key. Numbers within tolerance of an earlier frame's are its."""
    seen: list[tuple[Hashable, NDArray[np.float64]]] = []

    def key(frame: Frame) -> Hashable:
        same = (str(frame.get("FrameOfReferenceUID")), frame.shape)
        numbers = np.concatenate([frame.directions.ravel(), frame.spacing_mm])
        for place, (other, values) in enumerate(seen):
            if other == same and np.abs(values - numbers).max() <= PLANE_TOLERANCE:
                return place
        seen.append((same, numbers))
        return len(seen) - 1

    return key


def _grouped(frames: Sequence[Frame], key: Callable[[Frame], Hashable]) -> list[list[Frame]]:
    groups: dict[Hashable, list[Frame]] = {}
    for frame in frames:
        groups.setdefault(key(frame), []).append(frame)
    return list(groups.values())


def _chosen(volumes: list[list[Frame]], policy: StackPolicy, notes: list[str], what: str) -> list[Frame]:
    sizes = sorted((len(volume) for volume in volumes), reverse=True)
    uid = volumes[0][0].series_uid
    if policy.volumes == "largest":
        if sizes[0] == sizes[1]:
            raise GeometryError(
                f"series {uid} holds {len(volumes)} {what}, and the two largest have {sizes[0]} slices each: which of "
                "them is meant is not known",
                series_uid=uid,
            )
        chosen = max(volumes, key=len)
    else:
        in_time = sorted(volumes, key=_acquired, reverse=policy.volumes == "last")
        if _acquired(in_time[0]) == _acquired(in_time[1]):
            raise GeometryError(
                f"series {uid} holds {len(volumes)} {what}, and nothing tells which of them was acquired "
                f"{policy.volumes}",
                series_uid=uid,
            )
        chosen = in_time[0]
    notes.append(
        f"the series holds {len(volumes)} {what}; the {policy.volumes} was used, {len(chosen)} of "
        f"{sum(sizes)} images"
    )
    return chosen


def _acquired(frames: Sequence[Frame]) -> tuple[Any, ...]:
    """By what volumes are put in the order of their acquisition; what is not there says nothing."""
    first = min(frames, key=lambda frame: (_number(frame, "InstanceNumber"), frame.number or 0))
    times = [
        min(str(frame.get(keyword) or "") for frame in frames)
        for keyword in ("FrameAcquisitionDateTime", "AcquisitionDate", "AcquisitionTime")
    ]
    return (
        *times,
        *(_number(first, keyword) for keyword in _IN_TIME),
        *(_number(first, keyword) for keyword in ("AcquisitionNumber", "InstanceNumber")),
        first.number or 0,
    )


def _number(frame: Frame, keyword: str) -> float:
    try:
        return float(frame.get(keyword) or 0)
    except (TypeError, ValueError):
        return 0.0


def _without_copies(frames: list[Frame], policy: StackPolicy, notes: list[str]) -> list[Frame]:
    """Of slices in one place whose pixels are the same, byte by byte and rescaled alike, the first."""
    ordered, along = in_order(frames)
    copies: set[int] = set()
    for place in range(1, len(ordered)):
        if along[place] - along[place - 1] < SAME_PLACE_MM:
            earlier = [k for k in _at(along, place) if k < place and k not in copies]
            if any(_same_pixels(ordered[k], ordered[place]) for k in earlier):
                copies.add(place)
    if not copies:
        return frames
    uid = frames[0].series_uid
    if policy.copies == "refuse":
        raise GeometryError(
            f"series {uid} holds {len(copies)} slices twice, with the same pixels", series_uid=uid
        )
    notes.append(f"{len(copies)} slices are in the series twice, with the same pixels; one of each was used")
    dropped = {id(ordered[place]) for place in copies}
    return [frame for frame in frames if id(frame) not in dropped]


def _at(along: NDArray[np.float64], place: int) -> list[int]:
    return np.flatnonzero(np.abs(along - along[place]) < SAME_PLACE_MM).tolist()


def _same_pixels(one: Frame, other: Frame) -> bool:
    if one.number is not None or other.number is not None:
        return False  # frames of one instance are not written twice
    # Air at one time looks as at another: what tells of two acquisitions is no copy, whatever the pixels are.
    alike = ("RescaleSlope", "RescaleIntercept", "PixelRepresentation", "BitsStored", *_TELLING[:-1])
    pixels = [converted(frame.instance, "PixelData", frame) for frame in (one, other)]
    return pixels[0] == pixels[1] and all(one.get(keyword) == other.get(keyword) for keyword in alike)


def _apart(frames: list[Frame]) -> tuple[str, list[list[Frame]]]:
    """The volumes of frames of one geometry, and the attribute that tells them apart ("" where there is one volume)."""
    if not _has_shared_places(frames):
        for keyword in _NEVER_MIXED:
            parts = _grouped(frames, lambda frame, k=keyword: _terms(frame.get(k)))  # type: ignore[misc]
            if len(parts) > 1:
                return keyword, sorted(parts, key=_acquired)
        return "", [frames]
    for keyword in _TELLING:
        volumes = _grouped(frames, lambda frame, k=keyword: _terms(frame.get(k)))  # type: ignore[misc]
        if min(len(volume) for volume in volumes) > 1 and not any(map(_has_shared_places, volumes)):
            return keyword, sorted(volumes, key=_acquired)
    uid = frames[0].series_uid
    ordered, along = in_order(frames)
    where = int(np.argmin(np.diff(along)))
    together = int((np.diff(along) < SAME_PLACE_MM).sum())
    raise GeometryError(
        f"series {uid} has {together} slices at a position that another slice already has "
        f"({ordered[where + 1].name}), with other pixels: several time points or reconstructions in one series, and no "
        "attribute tells which belong together",
        series_uid=uid,
    )


def _has_shared_places(frames: Sequence[Frame]) -> bool:
    _, along = in_order(frames)
    return len(frames) > 1 and bool((np.diff(along) < SAME_PLACE_MM).any())
