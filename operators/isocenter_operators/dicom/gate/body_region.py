"""Which part of the body a scan shows, from its pixels: head, neck, chest, abdomen, or not a body.

BodyPartExamined is often missing, and wrong in a good part of the images where it stands: technicians choose a protocol
and the scanner fills the tag from it. A model that gets the wrong part of the body answers all the same. So CT is
looked at, on a coarse grid along the patient's axes (`overview`), by rules that a radiologist would give:

- A lung is air in the body that is not pure gas: -960 to -600 HU deep inside it, at least 150 mL in one piece.
  Measured: the lungs of two patients 0.97 to 0.99 of their inner voxels in that range; bowel gas and stool 0.26 and
  0.35; the air cells and inserts of a skull at most 0.15. Half is asked for; from 1 L on a quarter, as the largest
  part of a severely emphysematous lung lies below -960 HU and bowel holding a litre is distended by gas.
- A skull is a closed ring of bone in the axial plane, 60 to 300 cm2 inside (a newborn's brain fills 60 cm2, a large
  adult's 200), that is at least half of the body's section: no ring of the pelvis or the chest is. What it holds is
  as dense as brain (a mean of -20 to 100 HU), or pure air in a dry skull.
- The trunk is at least 200 cm2 in section (an adult's neck is 100 to 180), 1 to 2.2 times as wide as deep (a head is
  deeper than wide, shoulders are wider), mostly soft, and has bone in the middle of its back: the spine.
- The abdomen is the trunk from where the lungs end downwards, the pelvis with it. Without lungs above it, it is one
  unless an airway runs through it from end to end: those are shoulders.
- Anything that has neither bone nor fat nor lung is not a body: a water phantom, a bottle. Nor is noise, in which
  neighbouring points have nothing to do with each other.

Whatever fits none of these is "unknown": legs, a hand, a newborn, a breast, a chest with no air in it. Of other
modalities only the tag is read, because their values have no fixed scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from isocenter_operators.dicom.gate.overview import Overview
from isocenter_operators.dicom.gate.region import REGIONS, Region

__all__ = ["BodyRegions", "regions_in", "structure_in"]

_Mask = NDArray[np.bool_]
_Values = NDArray[np.float64]

_CROSS = ndimage.generate_binary_structure(2, 1)[None]
_SQUARE = np.ones((3, 3), np.bool_)
_SOLID_CROSS = ndimage.generate_binary_structure(3, 1)

_AIR_HU = -400
_PARENCHYMA_HU = (-960, -600)
_SMALLEST_LUNG_ML, _PARENCHYMA_SHARE = 150.0, 0.5
_LARGE_LUNG_ML, _LARGE_PARENCHYMA_SHARE = 1000.0, 0.25
_CHEST_SHARE = 0.03  # of the section is lung: above it the section is one of the chest
_DOME_SHARE = 0.15  # of the section is lung, and less below the middle: liver and spleen are in it too

_BONE_HU = 200
_FAT_HU = (-150, -40)
_RING_CM2 = (60.0, 300.0)
_RING_OF_BODY = 0.5
_BRAIN_HU = (-20, 100)
# A dry skull, as phantoms are made of: thin bone with air on both sides, so its wall is seen from -750 HU on.
# Measured on two: -965 to -984 HU inside, 0.30 to 1.17 points of bone for each point along the wall. Sections of lung:
# -840 to -866 HU, with emphysema in 80 % of it -957 HU; 0.1 to 0.3 points of bone.
_WALL_HU, _PURE_AIR_HU, _DRY_CM2, _DRY_BONE = -750, -960, (50.0, 300.0), 0.3
_FEWEST_RINGS_MM = 20.0
_FACE_MM = 100.0  # from the lowest closed ring, at the base of the skull, to the chin

_TRUNK_CM2 = 200.0
_TRUNK_WIDTH_TO_DEPTH = (1.0, 2.2)
_TRUNK_BONE_SHARE = 0.15  # of a section, at most: measured 0.03 to 0.07 in an abdomen, 0.2 to 0.5 in a skull
_SPINE_CM2 = 2.0  # of bone in the middle of the back; a lumbar vertebra has 15, a disc none
_SPINE_WITHIN_MM = 40.0  # a disc and half a vertebra on each side
_SPINE_SHARE = 0.4  # of the sections within that distance

_AIRWAY_CM2, _AIRWAY_SHARE = (0.4, 8.0), 0.6  # a trachea is 1 to 5 cm2; of the sections that have one
_CUT_SHARE = 0.1  # of a section's outline at the edge of the field of view: how large it is, is not known

_NO_BONE_SHARE, _NO_FAT_SHARE = 0.002, 0.02
_NOISE = "noise: neighbouring points have nothing to do with each other"
_NOISE_CORRELATION = 0.4  # of neighbouring points: 0.7 and more in each real scan, 0 in noise


@dataclass(frozen=True)
class BodyRegions:
    """What a scan shows, as its pixels tell.

    kind: "body" where at least one region was recognised; "not a body"; else "unknown".
    extent_mm: how much each region covers from head to foot; regions may overlap, as lung bases and liver do.
    scanned_mm: the whole scan from head to foot.
    reason: in a sentence, what was seen.
    """

    kind: Literal["body", "not a body", "unknown"]
    extent_mm: Mapping[Region, float]
    scanned_mm: float
    reason: str

    @property
    def regions(self) -> tuple[Region, ...]:
        """Those that are there, from the head down."""
        return tuple(region for region in REGIONS if self.extent_mm.get(region, 0.0) > 0)


def regions_in(overview: Overview) -> BodyRegions:
    """The regions that a CT shows."""
    scanned_mm = float(overview.seen.any(axis=(1, 2)).sum()) * overview.step_mm
    refused = _no_body(overview)
    if refused:
        return BodyRegions("not a body", {}, scanned_mm, refused)
    sections = _Sections.of(overview)
    planes = _planes_of(sections, overview)
    extent_mm = {region: float(planes[region].sum()) * overview.step_mm for region in REGIONS}
    extent_mm = {region: extent for region, extent in extent_mm.items() if extent}
    if extent_mm:
        return BodyRegions("body", extent_mm, scanned_mm, _told(extent_mm, scanned_mm))
    if sections.bone_share < _NO_BONE_SHARE and sections.fat_share < _NO_FAT_SHARE:
        return BodyRegions("not a body", {}, scanned_mm, "an object without bone, fat or lung")
    return BodyRegions("unknown", {}, scanned_mm, "neither a skull, nor lungs, nor a trunk with its spine")


def structure_in(overview: Overview) -> BodyRegions:
    """Of a modality whose values have no fixed scale: "not a body" where there is only noise, else "unknown"."""
    scanned_mm = float(overview.seen.any(axis=(1, 2)).sum()) * overview.step_mm
    if _is_noise(overview):
        return BodyRegions("not a body", {}, scanned_mm, _NOISE)
    return BodyRegions("unknown", {}, scanned_mm, "only CT is looked at")


def _told(extent_mm: Mapping[Region, float], scanned_mm: float) -> str:
    parts = [f"{region} over {extent_mm[region]:.0f} mm" for region in REGIONS if region in extent_mm]
    return f"{', '.join(parts)} of {scanned_mm:.0f} mm"


def _no_body(overview: Overview) -> str:
    """Why there can be no body; "" where there can."""
    if overview.holds_nothing:
        return "nothing but air"
    return _NOISE if _is_noise(overview) else ""


def _is_noise(overview: Overview) -> bool:
    """Whether neighbours along some axis are unlike. Where all is the same, that is said elsewhere."""
    for axis, count in enumerate(overview.hu.shape):
        if count < 3:
            continue
        pairs = overview.seen.take(range(1, count), axis) & overview.seen.take(range(count - 1), axis)
        ahead, behind = (overview.hu.take(part, axis)[pairs] for part in (range(1, count), range(count - 1)))
        if ahead.size < 2 or not ahead.std() or not behind.std():
            continue
        if float(np.corrcoef(ahead, behind)[0, 1]) < _NOISE_CORRELATION:
            return True
    return False


@dataclass(frozen=True)
class _Sections:
    """What each axial section holds, arrays (S,)."""

    trunk: _Mask
    airway: _Mask  # a tube of air before the spine
    cut: _Mask  # by the edge of the field of view
    ring: _Mask  # a skull's
    area_cm2: _Values  # of the body
    lung_share: _Values  # of the body's area
    bone_share: float  # of the whole body
    fat_share: float  # of its inner part

    @classmethod
    def of(cls, overview: Overview) -> _Sections:
        inside, cm2 = overview.inside, overview.step_mm**2 / 100
        area = inside.sum(axis=(1, 2))
        bone = (overview.hu > _BONE_HU) & overview.seen
        # The skin and the surface of everything else is half air: as dense as fat, but none.
        inner = ndimage.binary_erosion(overview.body, _CROSS, iterations=2)
        fat = inner & (overview.hu > _FAT_HU[0]) & (overview.hu < _FAT_HU[1])
        return cls(
            trunk=_trunk(overview, bone),
            airway=_airway(overview),
            cut=overview.cut_share > _CUT_SHARE,
            ring=_rings(overview, bone, area * cm2),
            area_cm2=area * cm2,
            lung_share=_lungs(overview).sum(axis=(1, 2)) / np.maximum(area, 1),
            bone_share=float((bone & inside).sum() / max(area.sum(), 1)),
            fat_share=float(fat.sum() / max(inner.sum(), 1)),
        )


def _lungs(overview: Overview) -> _Mask:
    """Where there is lung, (S, P, L)."""
    air = overview.inside & (overview.hu < _AIR_HU)
    inner = ndimage.binary_erosion(air, _SOLID_CROSS, border_value=1)
    low, high = _PARENCHYMA_HU
    labels, count = ndimage.label(air)
    volume_ml = np.bincount(labels.ravel(), minlength=count + 1) * overview.millilitres(1)
    textured = np.bincount(labels[inner & (overview.hu > low) & (overview.hu < high)], minlength=count + 1)
    share = textured / np.maximum(np.bincount(labels[inner], minlength=count + 1), 1)
    lung = (volume_ml >= _SMALLEST_LUNG_ML) & (share >= _PARENCHYMA_SHARE)
    lung |= (volume_ml >= _LARGE_LUNG_ML) & (share >= _LARGE_PARENCHYMA_SHARE)
    lung[0] = False
    found: _Mask = lung[labels]
    return found


def _rings(overview: Overview, bone: _Mask, area_cm2: _Values) -> _Mask:
    """In which sections a skull is closed around a brain, or around air, (S,)."""
    cm2 = overview.step_mm**2 / 100
    wall = (overview.hu > _WALL_HU) & overview.seen
    rings = np.zeros(len(bone), np.bool_)
    for place, hu in enumerate(overview.hu):
        held = _held(bone[place], gap=2)
        held_cm2 = float(held.sum()) * cm2
        if _RING_CM2[0] <= held_cm2 <= _RING_CM2[1] and held_cm2 >= _RING_OF_BODY * area_cm2[place]:
            rings[place] = _BRAIN_HU[0] < float(hu[held].mean()) < _BRAIN_HU[1]
        rings[place] |= _is_dry_skull(_held(wall[place], gap=1), bone[place], hu, cm2)
    return rings


def _held(wall: _Mask, *, gap: int) -> _Mask:
    """The largest space (P, L) that a wall closes around, gaps of up to twice so many points left aside."""
    spaces, count = ndimage.label(~ndimage.binary_dilation(wall, _SQUARE, iterations=gap))
    sizes = np.bincount(spaces.ravel(), minlength=count + 1)
    for outside in (spaces[0], spaces[-1], spaces[:, 0], spaces[:, -1]):
        sizes[outside] = 0
    sizes[0] = 0
    if not sizes.any():
        return np.zeros(wall.shape, np.bool_)
    held = ndimage.binary_dilation(spaces == int(sizes.argmax()), _SQUARE, iterations=gap)
    return np.asarray(held & ~wall, np.bool_)


def _is_dry_skull(held: _Mask, bone: _Mask, hu: NDArray[np.float32], cm2: float) -> bool:
    """Whether what a wall holds in this section (P, L) is pure air, and the wall is bone."""
    if not _DRY_CM2[0] <= float(held.sum()) * cm2 <= _DRY_CM2[1] or float(hu[held].mean()) > _PURE_AIR_HU:
        return False
    layer = ndimage.binary_dilation(held, _SQUARE) & ~held
    near = ndimage.binary_dilation(held, _SQUARE, iterations=2) & ~held
    return float((near & bone).sum()) >= _DRY_BONE * float(layer.sum())


def _trunk(overview: Overview, bone: _Mask) -> _Mask:
    """Which sections are as large as a trunk, and have a spine in or near them, (S,)."""
    cm2 = overview.step_mm**2 / 100
    sized = np.zeros(len(bone), np.bool_)
    spine = np.zeros(len(bone), np.float64)
    for place, (section, bones) in enumerate(zip(overview.inside, bone, strict=True)):
        across, along = section.any(axis=0).nonzero()[0], section.any(axis=1).nonzero()[0]
        if not across.size:
            continue
        width, depth = int(np.ptp(across)) + 1, int(np.ptp(along)) + 1
        points = float(section.sum())
        narrow, wide = (ratio * depth for ratio in _TRUNK_WIDTH_TO_DEPTH)
        soft = float((bones & section).sum()) <= _TRUNK_BONE_SHARE * points
        sized[place] = points * cm2 >= _TRUNK_CM2 and narrow <= width <= wide and soft
        middle = float(across.mean())
        columns = slice(int(middle - 0.15 * width), int(middle + 0.15 * width) + 1)
        rows = slice(int(along[0] + 0.4 * depth), int(along[-1]) + 1)
        spine[place] = float(bones[rows, columns].sum()) * cm2 >= _SPINE_CM2
    window = 2 * round(_SPINE_WITHIN_MM / 2 / overview.step_mm) + 1
    near = ndimage.uniform_filter1d(spine, window, mode="nearest") >= _SPINE_SHARE
    return np.asarray(sized & near, np.bool_)


def _airway(overview: Overview) -> _Mask:
    """In which sections a tube of air as wide as a trachea lies in the middle third, (S,)."""
    cm2 = overview.step_mm**2 / 100
    found = np.zeros(len(overview.hu), np.bool_)
    air = overview.inside & (overview.hu < _AIR_HU)
    for place in np.flatnonzero(air.any(axis=(1, 2))):
        rows, columns = (overview.inside[place].any(axis=axis).nonzero()[0] for axis in (1, 0))
        labels, count = ndimage.label(air[place])
        sizes_cm2 = np.bincount(labels.ravel(), minlength=count + 1) * cm2
        for label in range(1, count + 1):
            if _AIRWAY_CM2[0] <= sizes_cm2[label] <= _AIRWAY_CM2[1]:
                row, column = (float(part.mean()) for part in np.nonzero(labels == label))
                across = (column - columns[0]) / max(1, int(np.ptp(columns)))
                down = (row - rows[0]) / max(1, int(np.ptp(rows)))
                found[place] |= 0.4 <= across <= 0.6 and 0.2 <= down <= 0.75
    return found


def _planes_of(sections: _Sections, overview: Overview) -> dict[Region, _Mask]:
    """Which axial sections, from the feet up, show which region."""
    count = len(sections.trunk)
    place = np.arange(count)
    head, above, abdomen = (np.zeros(count, np.bool_) for _ in range(3))
    chest = sections.lung_share >= _CHEST_SHARE
    body = sections.area_cm2 > 0
    rings = np.flatnonzero(sections.ring)
    if rings.size * overview.step_mm >= _FEWEST_RINGS_MM:
        chin = rings[0] - round(_FACE_MM / overview.step_mm)
        head = (place >= chin) & ~chest & (sections.ring | body & (sections.area_cm2 <= _RING_CM2[1]))
    if chest.any():
        below_peak = place < int(np.argmax(sections.lung_share))
        abdomen = sections.trunk & below_peak & (sections.lung_share < _DOME_SHARE)
        above = place > np.flatnonzero(chest)[-1]
    elif head.any():
        above = (
            place < np.flatnonzero(head)[0]
        )  # a trunk here is shoulders: between head and abdomen are lungs
    else:
        abdomen = sections.trunk
    if _is_shoulders(abdomen, sections.airway):
        abdomen = np.zeros(count, np.bool_)
    neck = above & body & ~head & ~sections.cut & (sections.area_cm2 <= _TRUNK_CM2)
    return {"head": head, "neck": neck, "chest": chest, "abdomen": abdomen}


def _is_shoulders(trunk: _Mask, airway: _Mask) -> bool:
    """Whether these sections of a trunk (S,) lie above the lungs: an airway runs through them, as no bowel does."""
    return bool(trunk.any()) and float(airway[trunk].mean()) >= _AIRWAY_SHARE
