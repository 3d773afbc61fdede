"""Finding the trachea: a round, dark lumen near the middle of the body that goes on over many axial planes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .morphology import components

__all__ = ["LUNG_HU", "Trachea", "find_trachea"]

LUNG_HU = -470  # half way between aerated lung, near -860 HU, and the fat around most of it

_LUMEN_HU = -700
_DARKEST_MEAN_HU = -800  # a lumen's mean lies below
_AREA_MM2 = (40.0, 900.0)
_LONGEST_TO_SHORTEST = 2.5  # axes of the lumen's cross-section
_FULLNESS = 0.75  # of the ellipse with the same second moments
_OFF_MIDDLE_MM = 60.0
_SHORTEST_MM = 25.0
_AREA_RATIO = 2.0  # between neighbouring planes
_HALF_WIDTH_MM = 15.0  # further from its middle lies no trachea
_LUNG_BESIDE_MM2 = 300.0  # of air, on each side of where the trachea parts


@dataclass(frozen=True)
class Trachea:
    """The lumen's cross-sections along (S, P, L), from the top down.

    top, middle, bottom: a voxel in the middle of the uppermost, the median and the lowest cross-section found.
    area_mm2: the median cross-section.
    """

    top: tuple[int, int, int]
    middle: tuple[int, int, int]
    bottom: tuple[int, int, int]
    area_mm2: float
    length_mm: float


@dataclass(frozen=True)
class _Sections:
    """Candidates: per 2D component, index 0 being no component."""

    labels: NDArray[np.int32]  # (S, P, L)
    area_mm2: NDArray[np.float64]
    plausible: NDArray[np.bool_]


@dataclass(frozen=True)
class _Column:
    """Cross-sections in neighbouring planes, from the top down."""

    sections: tuple[int, ...]
    volume: float  # the sum of their areas


def find_trachea(
    hu: NDArray[np.int16], inside: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> Trachea | None:
    """The largest column of plausible cross-sections in int16 (S, P, L) that ends between two lungs, or None."""
    sections = _sections(hu, inside, spacing_mm)
    columns = [
        column for column in _columns(sections) if len(column.sections) * spacing_mm[0] >= _SHORTEST_MM
    ]
    for column in sorted(columns, key=lambda column: -column.volume):
        top, middle, bottom = (
            _middle(sections.labels, column.sections[index]) for index in (0, len(column.sections) // 2, -1)
        )
        if _between_lungs(hu, inside, bottom, spacing_mm):
            area_mm2 = float(np.median(sections.area_mm2[list(column.sections)]))
            return Trachea(top, middle, bottom, area_mm2, len(column.sections) * spacing_mm[0])
    return None


def _between_lungs(
    hu: NDArray[np.int16],
    inside: NDArray[np.bool_],
    bottom: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
) -> bool:
    """Is there air for a lung on both sides, in the plane where a column ends? Bowel has none."""
    s, _, l = bottom  # noqa: E741
    off = round(_HALF_WIDTH_MM / spacing_mm[2])
    air = (hu[s] < LUNG_HU) & inside[s]
    sides = (air[:, : max(0, l - off)], air[:, l + off :])
    return all(np.count_nonzero(side) * spacing_mm[1] * spacing_mm[2] > _LUNG_BESIDE_MM2 for side in sides)


def _columns(sections: _Sections) -> list[_Column]:
    """For each plausible cross-section the largest column that ends in it."""
    voxels = np.flatnonzero(sections.plausible[sections.labels])
    label = sections.labels.ravel()[voxels]
    order = np.argsort(label, kind="stable")
    voxels, label = voxels[order], label[order]
    plane_voxels = sections.labels[0].size
    columns: dict[int, _Column] = {}
    starts = np.flatnonzero(np.diff(label, prepend=0))
    # Labels rise with the plane: the last ones lie on top.
    for start, stop in reversed(list(pairwise([*starts, len(label)]))):
        above = voxels[start:stop] + plane_voxels
        above = above[above < sections.labels.size]
        over = np.unique(sections.labels.ravel()[above])
        columns[int(label[start])] = _longer(sections, int(label[start]), [columns.get(int(i)) for i in over])
    return list(columns.values())


def _longer(sections: _Sections, label: int, above: list[_Column | None]) -> _Column:
    area_mm2 = float(sections.area_mm2[label])
    fitting = [
        column
        for column in above
        if column and 1 / _AREA_RATIO < sections.area_mm2[column.sections[-1]] / area_mm2 < _AREA_RATIO
    ]
    if not fitting:
        return _Column((label,), area_mm2)
    best = max(fitting, key=lambda column: column.volume)
    return _Column((*best.sections, label), best.volume + area_mm2)


def _middle(labels: NDArray[np.int32], label: int) -> tuple[int, int, int]:
    """The component's voxel nearest to its centre."""
    points = np.argwhere(labels == label)
    centre = points.mean(axis=0)
    s, p, l = points[int(((points - centre) ** 2).sum(axis=1).argmin())].tolist()  # noqa: E741
    return s, p, l


def _sections(
    hu: NDArray[np.int16], inside: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> _Sections:
    labels, count = components((hu < _LUMEN_HU) & inside, planes_of=0)
    found = np.flatnonzero(labels)
    label = labels.ravel()[found]
    _, p, l = np.unravel_index(found, labels.shape)  # noqa: E741
    sizes = np.maximum(np.bincount(label, minlength=count + 1), 1)

    def mean(values: NDArray[np.floating]) -> NDArray[np.floating]:
        return np.bincount(label, values, minlength=count + 1) / sizes

    p_mm, l_mm = p * spacing_mm[1], l * spacing_mm[2]
    mean_p, mean_l = mean(p_mm), mean(l_mm)
    # A voxel's own extent keeps a component of one row from being infinitely thin.
    pp = mean(p_mm**2) - mean_p**2 + spacing_mm[1] ** 2 / 12
    ll = mean(l_mm**2) - mean_l**2 + spacing_mm[2] ** 2 / 12
    pl = mean(p_mm * l_mm) - mean_p * mean_l
    determinant = np.maximum(pp * ll - pl**2, 1e-6)
    half_difference = np.sqrt(((pp - ll) / 2) ** 2 + pl**2)
    longest, shortest = (pp + ll) / 2 + half_difference, np.maximum((pp + ll) / 2 - half_difference, 1e-6)
    area_mm2 = sizes * spacing_mm[1] * spacing_mm[2]
    fullness = area_mm2 / (4 * np.pi * np.sqrt(determinant))
    middle_mm = float(np.flatnonzero(inside.any(axis=(0, 1))).mean()) * spacing_mm[2] if found.size else 0.0
    plausible = (
        (area_mm2 > _AREA_MM2[0])
        & (area_mm2 < _AREA_MM2[1])
        & (longest < shortest * _LONGEST_TO_SHORTEST**2)
        & (fullness > _FULLNESS)
        & (np.abs(mean_l - middle_mm) < _OFF_MIDDLE_MM)
        & (mean(hu.ravel()[found].astype(np.float64)) < _DARKEST_MEAN_HU)
    )
    plausible[0] = False
    return _Sections(labels, area_mm2, plausible)
