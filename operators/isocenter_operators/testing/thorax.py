"""The anatomy of the thorax phantom, as analytic shapes in LPS millimetres.

The origin lies in the middle of the chest, about 4 cm below the carina. No patient was the model.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from isocenter_operators.testing.grid import Field, Points
from isocenter_operators.testing.solids import (
    ellipsoid,
    elliptic_cylinder,
    smooth_max,
    smooth_step,
)

__all__ = ["LEFT", "RIGHT", "Anatomy", "lung_distance", "parenchyma_hu", "sample"]

RIGHT = 1
LEFT = 2

_AIR, _FOAM, _TABLE_SHELL, _FAT, _SKIN, _MUSCLE = -1000, -920, -150, -105, 10, 50
_MEDIASTINAL_FAT, _BLOOD, _LIVER, _SPLEEN, _FLUID = -85, 42, 60, 48, 12
_CORTICAL, _CANCELLOUS, _CARTILAGE, _DISC, _CORD = 700, 220, 110, 80, 30


class Anatomy(NamedTuple):
    """What is at some points: all but airways, vessels and nodule."""

    tissue_hu: Field  # what would be there without the lungs
    lung_mm: Field  # signed distance to the nearer lung's surface, negative inside


class _Outlines(NamedTuple):
    """Signed distances that several organs share, mm."""

    cavity: Field
    diaphragm: Field  # depth below it
    heart: Field
    aorta: Field


def _outlines(points: Points) -> _Outlines:
    return _Outlines(_cavity(points), _below_diaphragm(points), _heart(points), _aorta(points))


def sample(points: Points) -> Anatomy:
    """The solid anatomy at these points."""
    outlines = _outlines(points)
    hu = _outside(points)
    hu = _body_wall(hu, points, outlines.cavity)
    hu = _mediastinum(hu, points, outlines)
    hu = _abdomen(hu, points, outlines)
    hu = _skeleton(hu, points, outlines.cavity)
    return Anatomy(hu, _lungs(points, outlines))


def lung_distance(points: Points) -> Field:
    """Signed distance to the surface of the nearer lung, negative inside."""
    return _lungs(points, _outlines(points))


def parenchyma_hu(points: Points) -> Field:
    """Aerated lung of a supine patient: denser where gravity pulls, -875 HU in front to -840 HU at the back."""
    return (np.float32(-857.5) + np.float32(0.2) * points.y).astype(np.float32)


def _distance(across: Field, along: Field) -> Field:
    return np.sqrt(across * across + along * along)  # an order of magnitude faster than np.hypot


def _paint(hu: Field, where: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], value: float) -> Field:
    return np.where(where, np.float32(value), hu)


def _cavity(points: Points) -> Field:
    """The rib cage's inner surface: an elliptic cylinder closed by a dome at the apices."""
    rise = (np.maximum(points.z - 10, 0) * np.float32(1 / 108)) ** np.float32(1.6)
    across = (points.x * np.float32(1 / 132)) ** 2 + ((points.y + 3) * np.float32(1 / 91)) ** 2
    distance: Field = (np.sqrt(across + rise) - 1) * np.float32(105)
    return distance


def _below_diaphragm(points: Points) -> Field:
    """Depth below the two domes, positive in the abdomen. The right one is higher: the liver is under it."""
    right = points.x < 0
    lateral = np.abs(points.x) - 66
    # Towards the middle the central tendon, with the heart on it, keeps the diaphragm up.
    off_dome = lateral**2 * np.where(lateral > 0, np.float32(1 / 60**2), np.float32(1 / 110**2))
    # Behind, the sulcus reaches further down than in front.
    depth = ((points.y + 15) * np.float32(1 / 84)) ** 2
    dome_z = np.where(right, np.float32(-42), np.float32(-51)) - 50 * (off_dome + depth)
    below: Field = ((dome_z - points.z) * np.float32(0.75)).astype(np.float32)
    return below


def _lungs(points: Points, outlines: _Outlines) -> Field:
    room = smooth_max(outlines.cavity, outlines.diaphragm, 8)
    return smooth_max(room, -_between_lungs(points, outlines), 10)


def _between_lungs(points: Points, outlines: _Outlines) -> Field:
    """What the lungs wrap around: mediastinum, heart, aorta, spine and the hila."""
    narrow_in_front = 5 + 20 * np.exp(-(((points.y - 14) * np.float32(1 / 42)) ** 2))
    septum = (np.abs(points.x) - narrow_in_front).astype(np.float32)
    parts = (
        septum,
        outlines.heart - 2,
        _pericardial_fat(points),
        outlines.aorta - 2,
        elliptic_cylinder(points, (0, _spine_y(points) + 16), (33, 36)),
        ellipsoid(points, (-31, 18, 9), (14, 18, 27)),
        ellipsoid(points, (32, 18, 6), (15, 18, 30)),
    )
    # A smooth union: no slit between two organs holds a sliver of lung.
    outside: Field = -parts[0]
    for part in parts[1:]:
        outside = smooth_max(outside, -part, 12)
    return -outside


def _heart(points: Points) -> Field:
    ventricles = ellipsoid(points, (36, -36, -34), (54, 44, 44))
    atria = ellipsoid(points, (-2, -18, -14), (42, 38, 44))
    return -smooth_max(-ventricles, -atria, 20)


def _pericardial_fat(points: Points) -> Field:
    """Reaches the chest wall left of the sternum: the cardiac notch of the left lung."""
    notch = ellipsoid(points, (29, -78, -58), (43, 38, 60))
    below_heart = ellipsoid(points, (2, -42, -72), (26, 46, 26))
    fat: Field = np.minimum(notch, below_heart)
    return fat


def _aorta(points: Points) -> Field:
    descending = _distance(points.x - 22, points.y - 47) - 12.5
    descending = np.maximum(descending, points.z - 62)
    ascending = _distance(points.x + 12, points.y + 20) - 15
    ascending = np.maximum(np.maximum(ascending, points.z - 62), -points.z)
    # The arch: half a torus standing on both, in the plane that holds them.
    along = (points.x + 12) * np.float32(0.452) + (points.y + 20) * np.float32(0.892) - 38
    across = (points.x + 12) * np.float32(-0.892) + (points.y + 20) * np.float32(0.452)
    ring = _distance(along, np.float32(1.6) * (points.z - 62)) - 38
    arch = np.maximum(_distance(ring, across) - 12.5, 62 - points.z)
    aorta: Field = np.minimum(np.minimum(descending, ascending), arch).astype(np.float32)
    return aorta


def _spine_y(points: Points) -> Field:
    """The spine's middle: it leans forward into the neck."""
    return 60 - 38 * smooth_step(points.z, 85, 150)


def _outside(points: Points) -> Field:
    """Air, and the table: a thin shell around foam as light as lung."""
    depth = points.y - 117 + np.float32(1 / 1400) * points.x**2
    shell = (depth > 0) & (depth < 26) & (np.abs(points.x) < 215)
    foam = (depth > 2.5) & (depth < 23.5) & (np.abs(points.x) < 211)
    table = np.where(foam, np.float32(_FOAM), np.where(shell, np.float32(_TABLE_SHELL), np.float32(_AIR)))
    return np.broadcast_to(table, np.broadcast_shapes(table.shape, points.z.shape))


def _body_wall(hu: Field, points: Points, cavity: Field) -> Field:
    to_neck = smooth_step(points.z, 95, 155)
    skin = elliptic_cylinder(points, (0, 4 * to_neck), (166 - 102 * to_neck, 115 - 51 * to_neck))
    hu = _paint(hu, skin < 0, _SKIN)
    hu = _paint(hu, skin < -2, _FAT)
    fat_mm = 9 - 4 * to_neck
    muscle = (skin < -fat_mm) & ((cavity < 17) | (skin < -fat_mm - 4))
    return _paint(hu, muscle, _MUSCLE)


def _mediastinum(hu: Field, points: Points, outlines: _Outlines) -> Field:
    hu = _paint(hu, outlines.cavity < 1.5, _MEDIASTINAL_FAT)
    hu = _paint(hu, (outlines.heart < 0) | (outlines.aorta < 0), _BLOOD)
    # The oesophagus, collapsed, between trachea and spine.
    gullet = _distance(points.x - 6, np.float32(1.5) * (points.y - 32)) - 7
    return _paint(hu, (gullet < 0) & (points.z < 60), _MUSCLE)


def _abdomen(hu: Field, points: Points, outlines: _Outlines) -> Field:
    diaphragm = outlines.diaphragm
    inside = (outlines.cavity < 1.5) & (diaphragm > 0)
    belly = inside & (diaphragm >= 3)
    hu = _paint(hu, inside, _MUSCLE)
    hu = _paint(hu, belly, _FAT)
    liver = ellipsoid(points, (-62, -8, -118), (112, 84, 88))
    hu = _paint(hu, belly & (liver < 0), _LIVER)
    spleen = ellipsoid(points, (92, 38, -112), (30, 40, 46))
    hu = _paint(hu, belly & (spleen < 0) & (diaphragm > 5), _SPLEEN)
    hu = _stomach(hu, points, belly)
    return _paint(hu, outlines.aorta < 0, _BLOOD)


def _stomach(hu: Field, points: Points, belly: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Field:
    """With a bubble of gas 6 mm below the left lung: supine, it floats in front of the fluid."""
    stomach = ellipsoid(points, (64, -22, -82), (38, 40, 24))
    hu = _paint(hu, belly & (stomach < 0), _MUSCLE)
    hu = _paint(hu, belly & (stomach < -3), _FLUID)
    return _paint(hu, belly & (stomach < -3) & (points.y < -20), _AIR)


def _skeleton(hu: Field, points: Points, cavity: Field) -> Field:
    hu = _ribs(hu, points, cavity)
    sternum = np.maximum(
        ellipsoid(points, (0, -101, 20), (19, 6, 400)), np.maximum(points.z - 88, -46 - points.z)
    )
    hu = _paint(hu, sternum < 0, _CORTICAL)
    hu = _paint(hu, sternum < -1.5, _CANCELLOUS)
    return _spine(hu, points)


def _ribs(hu: Field, points: Points, cavity: Field) -> Field:
    """Bands in the chest wall that fall towards the front; cartilage next to the sternum."""
    height = points.z - np.float32(0.45) * points.y
    in_band = (height * np.float32(1 / 25)) % 1 * 25 - 12.5
    radius = np.sqrt(((cavity - 6.5) * np.float32(1 / 4)) ** 2 + (in_band * np.float32(1 / 6)) ** 2)
    caged = points.z < 122
    hu = _paint(hu, (radius < 1) & caged, _CORTICAL)
    hu = _paint(hu, (radius < 0.65) & caged, _CANCELLOUS)
    front = (points.y < -62) & (np.abs(points.x) < 78)
    return _paint(hu, (radius < 1) & front & caged, _CARTILAGE)


def _spine(hu: Field, points: Points) -> Field:
    middle = _spine_y(points)
    arch = elliptic_cylinder(points, (0, middle + 24), (20, 15))
    process = np.maximum(np.abs(points.x) - 4, np.abs(points.y - middle - 40) - 7)
    in_vertebra = (points.z * np.float32(1 / 25)) % 1 * 25  # mm above the disc
    behind = (np.minimum(arch, process) < 0) & (in_vertebra > 6)
    body = elliptic_cylinder(points, (0, middle), (20, 16))
    hu = _paint(hu, behind, _CORTICAL - 300)
    hu = _paint(hu, body < 0, _CORTICAL)
    hu = _paint(hu, body < -2, _CANCELLOUS)
    hu = _paint(hu, (body < 0) & (in_vertebra < 5), _DISC)
    canal = _distance(points.x, points.y - middle - 25) - 9
    return _paint(hu, canal < 0, _CORD)
