"""What an application accepts: the statement that the input gate compares each volume with.

An application makes it in its `app.yaml`, and `examination` tells every reason why a volume is not that:

    isocenter:
      accepts:
        modalities: [CT]
        body_regions: {chest: 120}                 # at least 120 mm of it, from head to foot
        slice_spacing_mm: {at_most: 3}
        pixel_spacing_mm: {at_most: 1.5}
        slices: {at_least: 30}
        field_of_view_mm: {head_foot: {at_least: 150}}
        oblique_degrees: {at_most: 2}              # the image's axes to the patient's
        planes: [axial]                            # which of the patient's the slices lie in
        missing_slices: 0
        contrast: [none, portal_venous]
        quality: {noise_hu: 100}
        only:                                      # images that say of themselves that they are these
          images_of: our water phantom
          because: it measures that and nothing else
          attributes: {QualityControlSubject: "YES", ManufacturerModelName: Water 20}

What is left out is not asked for, but the limits of `quality`: an image of one value or one that holds nothing is never
accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from isocenter_operators.dicom.gate.region import Region

__all__ = ["Acceptance", "FieldOfView", "Only", "Plane", "QualityLimits", "Range"]

_ContrastAccepted = Literal["none", "arterial", "portal_venous", "venous", "delayed", "any_phase"]


class _Stated(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Range(_Stated):
    """From `at_least` to `at_most`, both included; None: no limit."""

    at_least: float | None = Field(default=None, ge=0)
    at_most: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _in_order(self) -> Range:
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least:g} is more than at_most {self.at_most:g}")
        return self


class FieldOfView(_Stated):
    """The image's size in mm along the patient's axes; of an oblique image, along its axis nearest to each."""

    left_right: Range = Range()
    front_back: Range = Range()
    head_foot: Range = Range()


class QualityLimits(_Stated):
    """The most of each figure of `Quality` that is accepted; None: no limit. The defaults find extremes only.

    noise_hu: muscle and fat are 150 HU apart; with more noise than that a voxel does not tell one from the other.
    metal_percent: the stem of one hip is at most 1 % of a pelvis; two of them and more leave little to see.
    clipped_percent: clipping to a window for soft tissue gives 60 and more, clipping the bones alone at most 2.
    blank_slices_percent: a slice of one value is one that was not reconstructed or not received.
    cut_percent: no limit, because heads, hearts and spines are often shown alone: an application states its own.
    """

    noise_hu: float | None = Field(default=150.0, ge=0)
    metal_percent: float | None = Field(default=3.0, ge=0)
    clipped_percent: float | None = Field(default=5.0, ge=0)
    blank_slices_percent: float | None = Field(default=0.0, ge=0)
    cut_percent: float | None = Field(default=None, ge=0)


class Only(_Stated):
    """Images that say of themselves what they are of, and no others: for what knows one phantom, or one scanner.

    images_of, because: in the words of the refusal: "this application is only for <images_of>: <because>".
    attributes: by keyword, what every image of the series has to say, letter for letter.
    """

    images_of: Annotated[str, Field(min_length=1)]
    because: Annotated[str, Field(min_length=1)]
    attributes: Mapping[str, Annotated[str, Field(min_length=1)]] = Field(min_length=1)

    @field_validator("attributes")
    @classmethod
    def _known(cls, attributes: Mapping[str, str]) -> Mapping[str, str]:
        from pydicom.datadict import tag_for_keyword  # half a second, and most that read manifests need none

        for keyword in attributes:
            if tag_for_keyword(keyword) is None:
                raise ValueError(f"{keyword} is no keyword of DICOM's (PS3.6)")
        return attributes


Plane = Literal["axial", "coronal", "sagittal"]


class Acceptance(_Stated):
    """What an application accepts.

    modalities: terms of Modality (PS3.3, C.7.3.1.1.1); empty: all.
    body_regions: at least one of these, and how many mm of it from head to foot; empty: all, also what is no body.
        In CT the pixels decide, in other modalities the tag.
    slice_spacing_mm: between the planes of neighbouring slices. pixel_spacing_mm: in the plane, rows and columns.
    oblique_degrees: between the image's axes and the nearest ones of the patient's; the largest of the three.
    planes: the patient's planes that slices may lie in, each the one that is nearest; empty: any.
    slices: how many. missing_slices: how many gaps were filled, at most; None: any number.
    contrast: intravenous; "any_phase" is any but none. Empty: whatever.
    only: what the images have to say of themselves; None: nothing.
    """

    modalities: tuple[str, ...] = ()
    body_regions: Mapping[Region, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    slice_spacing_mm: Range = Range()
    pixel_spacing_mm: Range = Range()
    slices: Range = Range()
    field_of_view_mm: FieldOfView = FieldOfView()
    oblique_degrees: Range = Range()
    planes: tuple[Plane, ...] = ()
    missing_slices: int | None = Field(default=None, ge=0)
    contrast: tuple[_ContrastAccepted, ...] = ()
    quality: QualityLimits = QualityLimits()
    only: Only | None = None
