"""Finding the trachea: a round, dark lumen near the middle of the body that goes on over many axial planes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .morphology import components

__all__ = ["Trachea", "find_trachea"]

_LUMEN_HU = -700
_DARKEST_MEAN_HU = -800  # a lumen's mean lies below
_AREA_MM2 = (40.0, 900.0)
_LONGEST_TO_SHORTEST = 2.5  # axes of the lumen's cross-section
_FULLNESS = 0.75  # of the ellipse with the same second moments
_OFF_MIDDLE_MM = 60.0
_SHORTEST_MM = 25.0
_AREA_RATIO = 2.0  # between neighbouring planes


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


def find_trachea(
    hu: NDArray[np.int16], inside: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> Trachea | None:
    """The longest column of plausible cross-sections in int16 (S, P, L); None where there is none."""
    sections = _sections(hu, inside, spacing_mm)
    best: list[int] = []
    length_to: dict[int, list[int]] = {}
    for plane in range(hu.shape[0] - 1, -1, -1):
        above: dict[int, list[int]] = {}
        for label in np.unique(sections.labels[plane]):
            if sections.plausible[label]:
                above[int(label)] = [*_chain_above(sections, plane, int(label), length_to), int(label)]
        length_to = above
        best = max([best, *above.values()], key=len)
    length_mm = len(best) * spacing_mm[0]
    if length_mm < _SHORTEST_MM:
        return None
    top, middle, bottom = (
        _middle(sections.labels, label) for label in (best[0], best[len(best) // 2], best[-1])
    )
    return Trachea(top, middle, bottom, float(np.median(sections.area_mm2[best])), length_mm)


def _chain_above(sections: _Sections, plane: int, label: int, chains: dict[int, list[int]]) -> list[int]:
    """The longest chain that ends just above this cross-section and goes on in it."""
    if plane + 1 >= sections.labels.shape[0]:
        return []
    over = np.unique(sections.labels[plane + 1][sections.labels[plane] == label])
    fitting = [
        chains[int(other)]
        for other in over
        if int(other) in chains
        and 1 / _AREA_RATIO < sections.area_mm2[other] / sections.area_mm2[label] < _AREA_RATIO
    ]
    return max(fitting, key=len, default=[])


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
