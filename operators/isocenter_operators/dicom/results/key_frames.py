"""Which image shows a finding best to begin with: where a segment is largest, or a region lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.dicom.findings import Box, Contour, Findings, Points, Region, Segment
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.errors import GeometryError

__all__ = ["KeyFrame", "Planes", "key_frames"]


@dataclass(frozen=True, eq=False)
class KeyFrame:
    """One image and why it is a key image, in words for a reader: "largest area of Right lung"."""

    frame: Frame
    reasons: tuple[str, ...]


class Planes:
    """The planes of frames, read once, to look up which of them a region lies on.

    Raises GeometryError where a frame has no place in the patient.
    """

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._frames = tuple(frames)
        for frame in frames:
            if any(
                frame.get(keyword) is None for keyword in ("ImagePositionPatient", "ImageOrientationPatient")
            ):
                raise GeometryError(
                    f"{frame.name}: its place in the patient is not known, so no region can be found on it",
                    series_uid=frame.series_uid,
                )
        self._positions = np.array([frame.position_mm for frame in frames])  # (N, 3), LPS mm
        directions = np.array([frame.directions for frame in frames])  # (N, 2, 3)
        self._normals = np.cross(directions[:, 0], directions[:, 1])  # (N, 3)

    def nearest(self, region: Region) -> Frame:
        """The frame that the middle of the region lies on, or is next to; of a volume, of its largest outline.

        Raises GeometryError where it is farther from it than its frames are from each other: the region is then not
        on these images.
        """
        middle = _middle(region)
        distances_mm = np.abs(np.einsum("nk,nk->n", middle - self._positions, self._normals))
        place = int(np.argmin(distances_mm))
        if distances_mm[place] > self._reach_mm(place):
            frame = self._frames[place]
            raise GeometryError(
                f"a region lies {distances_mm[place]:.1f} mm beyond the images of series {frame.series_uid}",
                series_uid=frame.series_uid,
            )
        return self._frames[place]

    def _reach_mm(self, place: int) -> float:
        """How far from this frame a point may be and still belong to it: as far as its nearest neighbour, with room
        for rounding; without one, the slice's thickness."""
        along = (self._positions - self._positions[place]) @ self._normals[place]
        others = np.abs(along[np.abs(along) > 1e-3])
        if others.size:
            return 1.01 * float(others.min())
        return float(self._frames[place].get("SliceThickness") or 10.0)


def key_frames(
    *,
    frames: Sequence[Frame],
    findings: Findings,
    labels: NDArray[Any] | None = None,
    segments: Sequence[Segment] = (),
) -> list[KeyFrame]:
    """One image for each segment that the findings name, or for every segment where they name none, and one for each
    region; each image once, in the order of `frames`.

    `labels`: a label map (Z, Y, X) with 0 for background, or one mask for each segment in the order of their numbers,
    (segment, Z, Y, X); one plane for each frame. A segment without a voxel has no key image.

    Raises GeometryError where the label map does not lie on the frames, or a region lies outside of them.
    """
    reasons: dict[int, list[str]] = {}
    place_of = {id(frame): place for place, frame in enumerate(frames)}
    if labels is not None:
        named = {number for group in findings.groups for number in group.segment_numbers}
        wanted = [segment for segment in segments if segment.number in named or not named]
        for segment, place in _largest(labels, frames, wanted):
            reasons.setdefault(place, []).append(f"largest area of {segment.label}")
    located = [(group.label, group.region) for group in findings.groups if group.region is not None]
    if located:
        planes = Planes(frames)
        for label, region in located:
            reasons.setdefault(place_of[id(planes.nearest(region))], []).append(f"shows {label}")
    return [KeyFrame(frames[place], tuple(reasons[place])) for place in sorted(reasons)]


def _largest(
    labels: NDArray[Any], frames: Sequence[Frame], segments: Sequence[Segment]
) -> Iterator[tuple[Segment, int]]:
    depth = labels.shape[-3]
    if depth != len(frames):
        raise GeometryError(
            f"series {frames[0].series_uid}: the label map has {depth} planes, the series {len(frames)}",
            series_uid=frames[0].series_uid,
        )
    areas = _areas(labels, max((segment.number for segment in segments), default=0))
    for segment in segments:
        if areas[segment.number].any():
            yield segment, int(np.argmax(areas[segment.number]))


def _areas(labels: NDArray[Any], most: int) -> NDArray[np.intp]:
    """How many voxels of each label, from 0, are on each plane (label, Z)."""
    if labels.ndim == 4:
        masks = [np.count_nonzero(mask, axis=(1, 2)) for mask in labels]
        return np.array([np.zeros(labels.shape[1], np.intp), *masks])
    return np.array([np.bincount(plane.ravel(), minlength=most + 1)[: most + 1] for plane in labels]).T


def _middle(region: Region) -> NDArray[np.float64]:
    """LPS mm (3,)."""
    if isinstance(region, Box):
        return np.asarray(region.centre_mm, np.float64)
    outline = region if isinstance(region, Points | Contour) else max(region, key=_area_mm2)
    middle: NDArray[np.float64] = np.asarray(outline.points_mm, np.float64).mean(axis=0)
    return middle


def _area_mm2(contour: Contour) -> float:
    points = np.asarray(contour.points_mm, np.float64)
    return float(np.linalg.norm(np.cross(points, np.roll(points, -1, axis=0)).sum(axis=0)) / 2)
