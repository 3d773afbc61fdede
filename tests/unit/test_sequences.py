"""MR sequences: which series is which, and several series on one grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from isocenter_operators.dicom.gate.sequence import rule_of, speaks_against
from isocenter_operators.dicom.series.alignment import aligned
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.series.geometry import Volume
from isocenter_operators.errors import GeometryError, NotApplicable

ALL = ("T1", "T1c", "T2", "FLAIR")


def frame(description: str, **attributes: Any) -> Frame:
    instance = Dataset()
    instance.SeriesInstanceUID, instance.SOPInstanceUID = generate_uid(), generate_uid()
    instance.SeriesDescription = description
    instance.Modality = "MR"
    for keyword, value in attributes.items():
        setattr(instance, keyword, value)
    return Frame(instance)


GADOLINIUM = {"ContrastBolusAgent": "Gadovist"}


@pytest.mark.parametrize(
    ("series", "are"),
    [
        (frame("AX T1 SE", EchoTime=12, RepetitionTime=600), ["T1"]),
        (frame("t1_mprage_sag", EchoTime=3, RepetitionTime=2300, InversionTime=900), ["T1"]),
        (frame("t1_mprage_sag_gd", EchoTime=3), ["T1c"]),
        (frame("AX T1 POST", **GADOLINIUM), ["T1c"]),
        (frame("AX T1", **GADOLINIUM), ["T1c"]),
        (frame("T1 +C"), ["T1c"]),
        (frame("AX T1 PRE CONTRAST", **GADOLINIUM), ["T1"]),
        (frame("T1W without contrast"), ["T1"]),
        (frame("AX T1", ContrastBolusAgent=""), []),  # the module is there and says nothing
        (frame("AX T1 PRE AND POST"), []),
        # Words that begin as "no" and "pre", and what else there may be none of, say nothing of contrast medium.
        (frame("t1_mprage_sag_NORM", **GADOLINIUM), ["T1c"]),
        (frame("t1_mprage_sag_NORM"), ["T1"]),
        (frame("AX T1 PRESAT", **GADOLINIUM), ["T1c"]),
        (
            frame("AX T1 WITHOUT FS", **GADOLINIUM),
            [],
        ),  # the input gate's words for it are others: in doubt, none
        (frame("AX T1 NON FATSAT", **GADOLINIUM), ["T1c"]),
        (frame("AX T1 POST OP"), ["T1"]),
        (frame("AX T1 PRE-OP", **GADOLINIUM), ["T1c"]),
        (frame("T1 C-SPINE", **GADOLINIUM), ["T1c"]),
        (frame("AX T1 PRE-GD", **GADOLINIUM), ["T1"]),
        (frame("AX T1 NONCON", **GADOLINIUM), ["T1"]),
        (frame("AX T1 W/O", ProtocolName="BRAIN"), ["T1"]),
        (frame("AX T1 -C", **GADOLINIUM), ["T1"]),
        # The name of the whole examination.
        (frame("AX T1", ProtocolName="BRAIN W WO CONTRAST"), ["T1"]),
        (frame("AX T1", ProtocolName="BRAIN W/WO CONTRAST", **GADOLINIUM), ["T1c"]),
        (frame("AX T1 FS", ProtocolName="HEAD WITH AND WITHOUT CONTRAST", **GADOLINIUM), ["T1c"]),
        (frame("AX T1 W/O CONTRAST", ProtocolName="BRAIN W & W/O CONTRAST", **GADOLINIUM), ["T1"]),
        (frame("AX T2 TSE", EchoTime=100, RepetitionTime=5000), ["T2"]),
        (frame("AX T2", EchoTime=100, **GADOLINIUM), ["T2"]),
        (frame("AX T2 FLAIR", EchoTime=120, RepetitionTime=9000, InversionTime=2500), ["FLAIR"]),
        (frame("t2_tirm_tra_dark-fluid"), ["FLAIR"]),
        (frame("AX FLAIR", EchoTime=12), []),
        (frame("AX T2", EchoTime=100, InversionTime=2500), []),
        (frame("AX T2*"), []),
        (frame("SUB T1 POST"), []),
        (frame("ADC MAP T2"), []),
        (frame("AX T1", EchoTime=100), []),
        (frame("BRAIN"), []),
    ],
)
def test_a_series_is_what_it_says_unless_something_speaks_against_it(series: Frame, are: list[str]) -> None:
    rules = [rule for name in ALL if (rule := rule_of(name)) is not None]
    assert len(rules) == len(ALL)
    assert [rule.name for rule in rules if not speaks_against(series, rule)] == are


def volume(
    voxels: np.ndarray[Any, Any],
    spacing_mm: tuple[float, float, float] = (1, 1, 1),
    origin_mm: tuple[float, float, float] = (0, 0, 0),
    frame_of_reference: str = "1.2.3",
) -> Volume:
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = origin_mm
    return Volume(voxels.astype(np.int16), affine, (frame("", FrameOfReferenceUID=frame_of_reference),))


def ramp(volume_: Volume) -> Volume:
    """Each voxel's place in the patient: 100 + x + 3 y + 7 z, mm."""
    z, y, x = np.indices(volume_.voxels.shape)
    x_mm, y_mm, z_mm, _ = np.einsum("ij,j...->i...", volume_.affine, np.stack([x, y, z, np.ones_like(x)]))
    return Volume((100 + x_mm + 3 * y_mm + 7 * z_mm).astype(np.int16), volume_.affine, volume_.frames)


def test_a_series_on_another_grid_is_brought_to_the_first_ones_place() -> None:
    first = ramp(volume(np.zeros((10, 12, 14)), (2, 2, 3), (4, 6, 3)))
    finer = ramp(volume(np.zeros((60, 60, 70))))
    voxels, note = aligned(finer, first, "FLAIR")
    assert np.abs(voxels - first.voxels).max() <= 1  # each of them rounded
    assert note == "FLAIR was brought to the grid of the first series"
    same, note = aligned(ramp(volume(np.zeros((10, 12, 14)), (2, 2, 3), (4, 6, 3.001))), first, "FLAIR")
    assert note == ""
    assert np.array_equal(same, first.voxels)


def test_the_outermost_slices_reach_as_far_as_they_are_thick() -> None:
    thick = volume(np.full((10, 20, 20), 100), (1, 1, 5))
    voxels, _ = aligned(thick, volume(np.zeros((52, 20, 20)), origin_mm=(0, 0, -3)), "FLAIR")
    assert np.unique(voxels[1:51]).tolist() == [100]  # from -2 mm, within the first slice, to 47 mm
    assert not voxels[[0, 51]].any()


@pytest.mark.parametrize("angle", [0.1, 0.2, 0.3, 0.5])
def test_no_slice_is_lost_to_rounding_on_oblique_grids(angle: float) -> None:
    cosine, sine = np.cos(angle), np.sin(angle)
    turned = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1.0]])
    turned = turned @ np.array([[1.0, 0, 0], [0, cosine, -sine], [0, sine, cosine]])

    def placed(shape: tuple[int, int, int], pixel_mm: float) -> Volume:
        flat = volume(
            np.full(shape, 100), (pixel_mm, pixel_mm, 5), (0.3 + pixel_mm / 2, 0.7 + pixel_mm / 2, 11.1)
        )
        affine = np.eye(4)
        affine[:3] = turned @ flat.affine[:3]
        return Volume(flat.voxels, affine, flat.frames)

    voxels, note = aligned(placed((10, 20, 20), 1.0), placed((10, 40, 40), 0.5), "T2")
    assert np.unique(voxels).tolist() == [100]
    assert note == "T2 was brought to the grid of the first series"


def test_series_that_do_not_belong_together_are_refused() -> None:
    first = volume(np.ones((10, 12, 14)))
    with pytest.raises(NotApplicable, match=r"FLAIR, series .* another frame of reference"):
        aligned(volume(np.ones((10, 12, 14)), frame_of_reference="1.2.4"), first, "FLAIR")
    with pytest.raises(GeometryError, match="no Frame of Reference UID"):
        aligned(volume(np.ones((10, 12, 14)), frame_of_reference=""), first, "FLAIR")
    with pytest.raises(NotApplicable, match=r"shows 70 % of what series"):
        aligned(volume(np.ones((10, 12, 14)), origin_mm=(0, 0, 3)), first, "FLAIR")
    _, note = aligned(volume(np.ones((10, 12, 14)), (1, 1, 1.0), (0.4, 0, 0)), first, "FLAIR")
    assert "brought to the grid" in note
