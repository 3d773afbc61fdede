"""RT Structure Sets read back, whoever wrote them: which voxels of the images each region of interest encloses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from isocenter_operators.dicom.results.seg_reader import StoredSegment
from isocenter_operators.dicom.series.frame import frames_of
from isocenter_operators.dicom.series.frame_grid import FrameGrid, grid_of
from isocenter_operators.errors import GeometryError, UnreadableInput

__all__ = ["StoredStructureSet", "read_structure_set", "referenced_series"]

_OFF_PLANE = 0.25  # of the distance between two slices: how far from its image a contour may lie
_MODALITY = "RTSTRUCT"


@dataclass(frozen=True, eq=False)
class StoredStructureSet:
    """A structure set on the grid of its images. Regions keep their ROI Numbers."""

    dataset: Dataset
    grid: FrameGrid
    segments: tuple[StoredSegment, ...]

    def mask(self, number: int) -> NDArray[np.bool_]:
        """The voxels (Z, Y, X) whose centres the contours of this region enclose.

        Where several contours of one plane enclose a centre, an even number of them leaves it out: holes may be
        contours of their own, or joined to what surrounds them (PS3.3, C.8.8.6.3). Raises GeometryError for a contour
        that lies on none of the images.
        """
        depth, height, width = self.grid.shape
        # How often the line from the left edge of a row to a voxel's centre is crossed.
        crossings = np.zeros((depth, height, width + 1), np.int32)
        for points in self._contours(number):
            plane, places = self._placed(points)
            rows, columns = _crossings(places, height, width)
            np.add.at(crossings[plane], (rows, columns), 1)
        inside: NDArray[np.bool_] = np.cumsum(crossings, axis=2)[:, :, :width] % 2 == 1
        return inside

    def _contours(self, number: int) -> list[NDArray[np.float64]]:
        """Points (N, 3) in LPS millimetres, one array for each closed contour."""
        found = []
        for item in self.dataset.get("ROIContourSequence") or []:
            if int(item.ReferencedROINumber) != number:
                continue
            for contour in item.get("ContourSequence") or []:
                if contour.ContourGeometricType in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR"):
                    found.append(np.array(contour.ContourData, np.float64).reshape(-1, 3))
        return found

    def _placed(self, points: NDArray[np.float64]) -> tuple[int, NDArray[np.float64]]:
        """The slice that a contour lies on, and its points there: (x, y), the first voxel's centre at 0, 0."""
        inverse = np.linalg.inv(self.grid.affine)
        places = points @ inverse[:3, :3].T + inverse[:3, 3]
        plane = round(float(np.median(places[:, 2])))
        if np.abs(places[:, 2] - plane).max() > _OFF_PLANE or not 0 <= plane < self.grid.shape[0]:
            raise GeometryError(
                f"{self.dataset.SOPInstanceUID}: a contour lies on none of the images that are given",
                series_uid=referenced_series(self.dataset),
            )
        return plane, places[:, :2]


def read_structure_set(structures: Dataset, images: Sequence[Dataset]) -> StoredStructureSet:
    """A structure set on the grid of `images`, of the series that it was drawn on.

    Raises UnreadableInput where it is none or there are no images, GeometryError where these are no regular stack.
    """
    if structures.get("Modality") != _MODALITY:
        raise UnreadableInput(f"{structures.get('SOPInstanceUID')} is no RT Structure Set")
    if not images:
        raise UnreadableInput(
            f"{structures.SOPInstanceUID}: none of the images that it was drawn on is there"
        )
    regions = tuple(
        StoredSegment(int(item.ROINumber), str(item.get("ROIName", "")), None, None, None, None)
        for item in structures.get("StructureSetROISequence") or []
    )
    return StoredStructureSet(structures, grid_of(tuple(frames_of(images))), regions)


def referenced_series(structures: Dataset) -> str | None:
    """The Series Instance UID of the images that it was drawn on, as it says itself (PS3.3, C.8.8.5)."""
    for frame in structures.get("ReferencedFrameOfReferenceSequence") or []:
        for study in frame.get("RTReferencedStudySequence") or []:
            for series in study.get("RTReferencedSeriesSequence") or []:
                return str(series.SeriesInstanceUID)
    return None


def _crossings(
    places: NDArray[np.float64], height: int, width: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Of a closed polygon (N, 2), where its edges cross the rows' centres: the row, and the first column behind it."""
    (x0, y0), (x1, y1) = places.T, np.roll(places, -1, axis=0).T
    low, high = (
        np.ceil(np.minimum(y0, y1)),
        np.ceil(np.maximum(y0, y1)),
    )  # of two ends at one height, one counts
    counts = (high - low).astype(np.intp)
    edges = np.repeat(np.arange(len(places)), counts)
    rows = low[edges] + np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts)
    share = (rows - y0[edges]) / (y1[edges] - y0[edges])
    columns = np.ceil(x0[edges] + share * (x1[edges] - x0[edges]))
    seen = (rows >= 0) & (rows < height)
    return rows[seen].astype(np.intp), np.clip(columns[seen], 0, width).astype(np.intp)
