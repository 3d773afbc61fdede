"""The anatomy of the thorax phantom, as analytic shapes in LPS millimetres.

The origin lies in the middle of the chest, about 4 cm below the carina. No patient was the model.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from isocenter_operators.testing.grid import Field, Points
from isocenter_operators.testing.solids import (
    ellipsoid,
    elliptic_cylinder,
    smooth_max,
    smooth_step,
)

__all__ = ["LEFT", "RIGHT", "Anatomy", "Organ", "lung_distance", "parenchyma_hu", "sample"]

RIGHT = 1
LEFT = 2


class Organ(IntEnum):
    """The organs of the thorax phantom, by their number in its label map; 0 is all else."""

    RIGHT_LUNG = RIGHT
    LEFT_LUNG = LEFT
    AIRWAYS = 3  # the lumen of trachea and bronchi
    HEART = 4
    AORTA = 5  # from the heart on
    LIVER = 6
    SPLEEN = 7
    STOMACH = 8  # with what it holds
    VERTEBRAE = 9  # bone; no disc, no canal


_AIR, _FOAM, _TABLE_SHELL, _FAT, _SKIN, _MUSCLE = -1000, -920, -150, -105, 10, 50
_MEDIASTINAL_FAT, _BLOOD, _LIVER, _SPLEEN, _FLUID = -85, 42, 60, 48, 12
_CORTICAL, _CANCELLOUS, _CARTILAGE, _DISC, _CORD = 700, 220, 110, 80, 30


class Anatomy(NamedTuple):
    """What is at some points: all but airways, vessels and nodule."""

    tissue_hu: Field  # what would be there without the lungs
    organ: NDArray[np.uint8]  # which Organ that is part of, 0 for none
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
    canvas = _Canvas(_outside(points))
    _body_wall(canvas, points, outlines.cavity)
    _mediastinum(canvas, points, outlines)
    _abdomen(canvas, points, outlines)
    _skeleton(canvas, points, outlines.cavity)
    return Anatomy(canvas.hu, canvas.organ, _lungs(points, outlines))


def lung_distance(points: Points) -> Field:
    """Signed distance to the surface of the nearer lung, negative inside."""
    return _lungs(points, _outlines(points))


def parenchyma_hu(points: Points) -> Field:
    """Aerated lung of a supine patient: denser where gravity pulls, -875 HU in front to -840 HU at the back."""
    return (np.float32(-857.5) + np.float32(0.2) * points.y).astype(np.float32)


def _distance(across: Field, along: Field) -> Field:
    return np.sqrt(across * across + along * along)  # an order of magnitude faster than np.hypot


class _Canvas:
    """What has been painted: `hu`, and which `organ` each voxel is of, so that the truth is what is seen."""

    def __init__(self, background: Field) -> None:
        self.hu = background
        self.organ = np.zeros(background.shape, np.uint8)

    def paint(self, where: NDArray[np.bool_], hu: float, organ: Organ | None = None) -> None:
        """This over all that was there before."""
        self.hu = np.where(where, np.float32(hu), self.hu)
        self.organ = np.where(where, np.uint8(organ or 0), self.organ)


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


def _body_wall(canvas: _Canvas, points: Points, cavity: Field) -> None:
    to_neck = smooth_step(points.z, 95, 155)
    skin = elliptic_cylinder(points, (0, 4 * to_neck), (166 - 102 * to_neck, 115 - 51 * to_neck))
    canvas.paint(skin < 0, _SKIN)
    canvas.paint(skin < -2, _FAT)
    fat_mm = 9 - 4 * to_neck
    muscle = (skin < -fat_mm) & ((cavity < 17) | (skin < -fat_mm - 4))
    canvas.paint(muscle, _MUSCLE)


def _mediastinum(canvas: _Canvas, points: Points, outlines: _Outlines) -> None:
    canvas.paint(outlines.cavity < 1.5, _MEDIASTINAL_FAT)
    canvas.paint(outlines.aorta < 0, _BLOOD, Organ.AORTA)
    canvas.paint(outlines.heart < 0, _BLOOD, Organ.HEART)
    # The oesophagus, collapsed, between trachea and spine.
    gullet = _distance(points.x - 6, np.float32(1.5) * (points.y - 32)) - 7
    canvas.paint((gullet < 0) & (points.z < 60), _MUSCLE)


def _abdomen(canvas: _Canvas, points: Points, outlines: _Outlines) -> None:
    diaphragm = outlines.diaphragm
    inside = (outlines.cavity < 1.5) & (diaphragm > 0)
    belly = inside & (diaphragm >= 3)
    canvas.paint(inside, _MUSCLE)
    canvas.paint(belly, _FAT)
    liver = ellipsoid(points, (-62, -8, -118), (112, 84, 88))
    canvas.paint(belly & (liver < 0), _LIVER, Organ.LIVER)
    spleen = ellipsoid(points, (92, 38, -112), (30, 40, 46))
    canvas.paint(belly & (spleen < 0) & (diaphragm > 5), _SPLEEN, Organ.SPLEEN)
    _stomach(canvas, points, belly)
    canvas.paint((outlines.aorta < 0) & (outlines.heart >= 0), _BLOOD, Organ.AORTA)


def _stomach(canvas: _Canvas, points: Points, belly: NDArray[np.bool_]) -> None:
    """With a bubble of gas 6 mm below the left lung: supine, it floats in front of the fluid."""
    stomach = ellipsoid(points, (64, -22, -82), (38, 40, 24))
    canvas.paint(belly & (stomach < 0), _MUSCLE, Organ.STOMACH)
    canvas.paint(belly & (stomach < -3), _FLUID, Organ.STOMACH)
    canvas.paint(belly & (stomach < -3) & (points.y < -20), _AIR, Organ.STOMACH)


def _skeleton(canvas: _Canvas, points: Points, cavity: Field) -> None:
    _ribs(canvas, points, cavity)
    sternum = np.maximum(
        ellipsoid(points, (0, -101, 20), (19, 6, 400)), np.maximum(points.z - 88, -46 - points.z)
    )
    canvas.paint(sternum < 0, _CORTICAL)
    canvas.paint(sternum < -1.5, _CANCELLOUS)
    _spine(canvas, points)


def _ribs(canvas: _Canvas, points: Points, cavity: Field) -> None:
    """Bands in the chest wall that fall towards the front; cartilage next to the sternum."""
    height = points.z - np.float32(0.45) * points.y
    in_band = (height * np.float32(1 / 25)) % 1 * 25 - 12.5
    radius = np.sqrt(((cavity - 6.5) * np.float32(1 / 4)) ** 2 + (in_band * np.float32(1 / 6)) ** 2)
    caged = points.z < 122
    canvas.paint((radius < 1) & caged, _CORTICAL)
    canvas.paint((radius < 0.65) & caged, _CANCELLOUS)
    front = (points.y < -62) & (np.abs(points.x) < 78)
    canvas.paint((radius < 1) & front & caged, _CARTILAGE)


def _spine(canvas: _Canvas, points: Points) -> None:
    middle = _spine_y(points)
    arch = elliptic_cylinder(points, (0, middle + 24), (20, 15))
    process = np.maximum(np.abs(points.x) - 4, np.abs(points.y - middle - 40) - 7)
    in_vertebra = (points.z * np.float32(1 / 25)) % 1 * 25  # mm above the disc
    behind = (np.minimum(arch, process) < 0) & (in_vertebra > 6)
    body = elliptic_cylinder(points, (0, middle), (20, 16))
    canvas.paint(behind, _CORTICAL - 300, Organ.VERTEBRAE)
    canvas.paint(body < 0, _CORTICAL, Organ.VERTEBRAE)
    canvas.paint(body < -2, _CANCELLOUS, Organ.VERTEBRAE)
    canvas.paint((body < 0) & (in_vertebra < 5), _DISC)
    canal = _distance(points.x, points.y - middle - 25) - 9
    canvas.paint(canal < 0, _CORD)
