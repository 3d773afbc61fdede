"""A volume against what an application accepts: every reason why it is not that, in words for a radiologist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from pydicom.datadict import dictionary_description, tag_for_keyword

from isocenter_operators.dicom.gate.acceptance import Acceptance, Only, QualityLimits, Range
from isocenter_operators.dicom.gate.body_region import BodyRegions, regions_in, structure_in
from isocenter_operators.dicom.gate.contrast import contrast_of
from isocenter_operators.dicom.gate.overview import overview_of
from isocenter_operators.dicom.gate.quality import Quality, quality_of
from isocenter_operators.dicom.gate.region import REGIONS, Region
from isocenter_operators.dicom.gate.region_tag import regions_of_tag, tag_of
from isocenter_operators.dicom.series.geometry import Volume
from isocenter_operators.dicom.value import term

__all__ = ["Examination", "examined", "refusals"]


@dataclass(frozen=True)
class Examination:
    """What the gate found: why a volume is refused (nothing: it is not), and what a person should know anyway."""

    refusals: tuple[str, ...]
    notes: tuple[str, ...]


def refusals(volume: Volume, acceptance: Acceptance) -> list[str]:
    """Every reason why the volume is not what is accepted, in words for a radiologist; empty where it is."""
    return list(examined(volume, acceptance).refusals)


def examined(volume: Volume, acceptance: Acceptance) -> Examination:
    """The volume against what is accepted. Raises UnreadableInput where an attribute it needs can not be read."""
    modality = str(volume.frames[0].get("Modality") or "")
    if acceptance.modalities and modality not in acceptance.modalities:
        wanted = " or ".join(acceptance.modalities)
        return Examination((f"the series is {term(modality)}, this application is for {wanted}",), ())
    if acceptance.only is not None and (others := _others(volume, acceptance.only)):
        return Examination((others,), ())
    reasons = [*_geometry(volume, acceptance)]
    overview = overview_of(volume.voxels, volume.affine)
    is_ct = modality == "CT"
    quality = quality_of(volume.voxels, volume.affine, overview if is_ct else None)
    notes: tuple[str, ...] = ()
    if quality.constant:
        reasons.append("the image is empty: all its voxels have the same value")
    else:
        reasons += _quality(quality, acceptance.quality)
        found = regions_in(overview) if is_ct else structure_in(overview)
        wrong, notes = _region(found, tag_of(volume.frames[0]), acceptance, looked_at=is_ct)
        reasons += wrong
    reasons += _contrast(volume, acceptance)
    return Examination(tuple(reasons), notes)


def _others(volume: Volume, only: Only) -> str:
    """Why these are not the images that are meant; nothing where they are. Does not tell what they say instead."""
    wanting = [
        f'"{value}" in {_name_of(keyword)}'
        for keyword, value in only.attributes.items()
        if any(str(frame.get(keyword) or "") != value for frame in volume.frames)
    ]
    if not wanting:
        return ""
    return (
        f"this application is only for {only.images_of}: {only.because}. These images do not all say "
        f"{' and '.join(wanting)}"
    )


def _name_of(keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    return keyword if tag is None else dictionary_description(tag)


def _geometry(volume: Volume, acceptance: Acceptance) -> Iterator[str]:
    row_mm, column_mm, slice_mm = _spacings_mm(volume)
    yield from _outside("slices are {} mm apart", slice_mm, acceptance.slice_spacing_mm, "mm", ".1f")
    coarsest, finest = max(row_mm, column_mm), min(row_mm, column_mm)
    limits = acceptance.pixel_spacing_mm
    value = finest if limits.at_least is not None and finest < limits.at_least else coarsest
    yield from _outside("pixels are {} mm apart", value, limits, "mm", ".2f")
    yield from _outside("the series has {} slices", len(volume.voxels), acceptance.slices, "slices", ".0f")
    sizes_mm = _sizes_mm(volume)
    for name, told, size_mm in zip(
        ("left_right", "front_back", "head_foot"),
        ("from side to side", "from front to back", "from head to foot"),
        sizes_mm,
        strict=True,
    ):
        limits = getattr(acceptance.field_of_view_mm, name)
        yield from _outside(f"the image measures {{}} mm {told}", size_mm, limits, "mm", ".0f")
    yield from _outside(
        "the image lies {} degrees askew to the patient's axes",
        _oblique_degrees(volume),
        acceptance.oblique_degrees,
        "degrees",
        ".1f",
    )
    plane = _plane(volume)
    if acceptance.planes and plane not in acceptance.planes:
        yield f"its slices are {plane}; accepted are {' and '.join(acceptance.planes)} ones"
    missing, most = volume.missing_slices, acceptance.missing_slices
    if most is not None and missing > most:
        yield f"{missing} slices are missing, at most {most} may be"


def _outside(told: str, value: float, limits: Range, unit: str, form: str) -> Iterator[str]:
    """The reason, where the value lies outside; what rounding takes from a spacing in a header does not count."""
    margin = 1e-3 * abs(value)
    said = told.format(format(value, form))
    if limits.at_most is not None and value > limits.at_most + margin:
        yield f"{said}, at most {format(limits.at_most, form)} {unit} is accepted"
    if limits.at_least is not None and value < limits.at_least - margin:
        yield f"{said}, at least {format(limits.at_least, form)} {unit} is accepted"


def _spacings_mm(volume: Volume) -> tuple[float, float, float]:
    """Between rows, between columns, and between the planes of slices, at right angles to them also when tilted."""
    across, down = volume.affine[:3, 0], volume.affine[:3, 1]
    normal = np.cross(across, down)
    apart = abs(float(normal @ volume.affine[:3, 2])) / float(np.linalg.norm(normal))
    return float(np.linalg.norm(down)), float(np.linalg.norm(across)), apart


def _oblique_degrees(volume: Volume) -> float:
    """The largest angle between an axis of the image and the patient's axis that is nearest to it."""
    axes = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
    return float(np.degrees(np.arccos(np.clip(np.abs(axes).max(axis=0).min(), 0.0, 1.0))))


def _plane(volume: Volume) -> str:
    """The patient's plane that is nearest to that of the slices, by their normal in LPS."""
    normal = np.cross(volume.affine[:3, 0], volume.affine[:3, 1])
    return ("sagittal", "coronal", "axial")[int(np.abs(normal).argmax())]


def _sizes_mm(volume: Volume) -> tuple[float, float, float]:
    """Of the image along the axes nearest to left-right, front-back and head-foot."""
    spacing_mm = np.linalg.norm(volume.affine[:3, :3], axis=0)
    cosines = np.abs(volume.affine[:3, :3] / spacing_mm)
    counts = volume.voxels.shape[::-1]
    sizes, free = [0.0, 0.0, 0.0], {0, 1, 2}
    for axis in (2, 1, 0):  # each index axis stands for one of the patient's
        index = max(free, key=lambda each: (float(cosines[axis, each]), -each))
        free.remove(index)
        sizes[axis] = float(spacing_mm[index]) * counts[index]
    return sizes[0], sizes[1], sizes[2]


def _quality(quality: Quality, limits: QualityLimits) -> Iterator[str]:
    if quality.air_only:
        yield "the scan holds nothing but air"
    for value, limit, told in (
        (
            quality.noise_hu,
            limits.noise_hu,
            "the image is too noisy: {value:.0f} HU, at most {limit:.0f} HU is accepted",
        ),
        (
            quality.metal_percent,
            limits.metal_percent,
            "too much metal: {value:.1f} % of the body, at most {limit:.1f} % is accepted",
        ),
        (
            quality.clipped_percent,
            limits.clipped_percent,
            "the image's values are cut off, as after saving it with a window: {value:.0f} % of its voxels have the "
            "same extreme value, at most {limit:.1f} % is accepted",
        ),
        (
            quality.blank_slices_percent,
            limits.blank_slices_percent,
            "{value:.0f} % of the slices are blank, at most {limit:.0f} % is accepted",
        ),
        (
            quality.cut_percent,
            limits.cut_percent,
            "the body is cut off at the sides of the image: {value:.0f} % of its outline, at most {limit:.0f} % is "
            "accepted",
        ),
    ):
        if value is not None and limit is not None and value > limit:
            yield told.format(value=value, limit=limit)


def _region(
    found: BodyRegions, tag: str, acceptance: Acceptance, *, looked_at: bool
) -> tuple[list[str], tuple[str, ...]]:
    """Reasons and notes. `looked_at`: whether the pixels could tell the region."""
    wanted, notes = acceptance.body_regions, _wrong_tag(found, tag)
    if not wanted:
        return [], notes
    purpose = "this application is for " + _listed(
        tuple(region for region in REGIONS if region in wanted), "or"
    )
    if found.kind == "not a body":
        return [f"the scan does not show a body ({found.reason}); {purpose}"], notes
    if found.kind == "body":
        return _shown(found, wanted, purpose), notes
    reason = _said_only(found, tag, wanted, purpose, looked_at=looked_at)
    if looked_at and not reason:
        notes = (
            f'the part of the body could not be told from the image: its tag says "{tag}", and was believed',
        )
    return reason, notes


def _said_only(
    found: BodyRegions, tag: str, wanted: Mapping[Region, float], purpose: str, *, looked_at: bool
) -> list[str]:
    """Why the tag is not enough, where the pixels do not tell the region."""
    said = regions_of_tag(tag)
    if said is None:
        why = f"the part of the body can not be told from the image ({found.reason}), and "
        return [
            f"{why if looked_at else ''}the images do not say which part of the body they show; {purpose}"
        ]
    if not said & set(wanted):
        return [f'the images say that they show "{tag}"; {purpose}']
    if looked_at and all(wanted[region] for region in said & set(wanted)):
        return [
            f'the part of the body can not be told from the image ({found.reason}): it says "{tag}", but how much of '
            "that it shows is not known"
        ]
    return []


def _shown(found: BodyRegions, wanted: Mapping[Region, float], purpose: str) -> list[str]:
    """Why none of the regions that the pixels show is enough."""
    short = []
    for region in (region for region in found.regions if region in wanted):
        if found.extent_mm[region] >= wanted[region]:
            return []
        short.append(
            f"the scan covers {found.extent_mm[region]:.0f} mm of the {region}, at least {wanted[region]:.0f} mm is "
            "accepted"
        )
    return short or [f"the scan shows {_listed(found.regions, 'and')}, {purpose}"]


def _wrong_tag(found: BodyRegions, tag: str) -> tuple[str, ...]:
    said = regions_of_tag(tag)
    if said is None or found.kind != "body" or said & set(found.regions):
        return ()
    return (
        f'the images say that they show "{tag}" (Body Part Examined), but their pixels show '
        f"{_listed(found.regions, 'and')}: the pixels were believed",
    )


_ARTICLES: dict[Region, str] = {
    "head": "a head",
    "neck": "a neck",
    "chest": "a chest",
    "abdomen": "an abdomen",
}


def _listed(regions: tuple[Region, ...], joined: str) -> str:
    names = [_ARTICLES[region] if joined == "and" else f"the {region}" for region in regions]
    return f" {joined} ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


_PHASE_WORDS = {
    "none": "no contrast medium",
    "arterial": "the arterial phase",
    "portal_venous": "the portal venous phase",
    "venous": "the venous phase",
    "delayed": "the delayed phase",
    "any_phase": "contrast medium in any phase",
}


def _contrast(volume: Volume, acceptance: Acceptance) -> Iterator[str]:
    if not acceptance.contrast:
        return
    found = contrast_of(volume.frames[0])
    if found in acceptance.contrast or (
        found not in ("none", "unknown") and "any_phase" in acceptance.contrast
    ):
        return
    wanted = " or ".join(_PHASE_WORDS[each] for each in acceptance.contrast)
    if found == "unknown":
        yield f"the images do not say clearly whether contrast medium was given and when; accepted is {wanted}"
    elif found == "unstated_phase":
        yield f"contrast medium was given, but the images do not say in which phase they are; accepted is {wanted}"
    else:
        yield f"the images show {_PHASE_WORDS[found]}; accepted is {wanted}"
