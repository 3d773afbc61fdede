"""One phantom, classic and enhanced multi-frame: the same values at the same places."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import RLELossless
from read_back import found_by_dciodvfy
from result_cases import written

from isocenter_operators.dicom.series.frame import frames_of
from isocenter_operators.dicom.series.geometry import volume_of
from isocenter_operators.errors import GeometryError, InputError
from isocenter_operators.testing import ThoraxPhantom, as_datasets, as_enhanced, thorax_phantom

SHUFFLED = [3, 11, 0, 7, 5, 9, 1, 10, 2, 8, 6, 4]


def phantom(**parameters: Any) -> ThoraxPhantom:
    return thorax_phantom(**{"size": (40, 32, 12), "spacing_mm": (9.0, 8.0, 24.0), **parameters})


def tilted() -> ThoraxPhantom:
    """As with a tilted gantry: each slice lies 6 mm further to the side than the one before."""
    upright = phantom()
    affine = upright.affine.copy()
    affine[1, 2] += 6.0
    return replace(upright, affine=affine)


@pytest.fixture(scope="module")
def cases() -> dict[str, ThoraxPhantom]:
    return {
        "axial": phantom(),
        "coronal": phantom(orientation="LIP", spacing_mm=(9.0, 24.0, 20.0)),
        "left-handed": phantom(orientation="RPS"),
        "oblique": phantom(oblique_deg=23.0),
        "tilted": tilted(),
    }


@pytest.mark.parametrize("case", ["axial", "coronal", "left-handed", "oblique", "tilted"])
@pytest.mark.parametrize(
    "form",
    [
        {},
        {"modality": "MR", "order": SHUFFLED, "shared": False},
        {"transfer_syntax": RLELossless, "order": SHUFFLED},
        {"instances": 2, "order": SHUFFLED, "slopes": (1.0, 0.5, 0.25), "transfer_syntax": RLELossless},
    ],
    ids=["plain", "MR, shuffled, per frame", "RLE", "two instances, slopes per frame"],
)
def test_enhanced_makes_the_volume_that_classic_makes(
    cases: dict[str, ThoraxPhantom], case: str, form: dict[str, Any], tmp_path: Path
) -> None:
    classic = volume_of(as_datasets(cases[case]))
    sent = as_enhanced(cases[case], **form)
    read = [dcmread(written(instance, tmp_path, str(place))) for place, instance in enumerate(sent)]
    volume = volume_of(read[::-1])
    np.testing.assert_array_equal(volume.voxels, cases[case].hu[:: -1 if case == "left-handed" else 1])
    np.testing.assert_array_equal(volume.voxels, classic.voxels)
    np.testing.assert_allclose(volume.affine, classic.affine, atol=1e-6)
    assert len(volume.sources) == len(sent)
    for frame, there in zip(volume.frames, classic.frames, strict=True):
        np.testing.assert_array_equal(frame.position_mm, there.position_mm)


def test_frames_lie_where_the_order_says(cases: dict[str, ThoraxPhantom]) -> None:
    first, second = as_enhanced(cases["oblique"], order=SHUFFLED, instances=2)
    places = [frame.get("InStackPositionNumber") - 1 for frame in frames_of([first, second])]
    assert places == SHUFFLED
    assert (first.NumberOfFrames, second.NumberOfFrames) == (6, 6)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert first.SeriesInstanceUID == second.SeriesInstanceUID
    assert first.StudyInstanceUID == as_datasets(cases["oblique"])[0].StudyInstanceUID


@pytest.mark.parametrize("form", [{}, {"modality": "MR"}, {"shared": False, "slopes": (1.0, 0.5)}])
def test_dciodvfy_has_nothing_to_say(
    cases: dict[str, ThoraxPhantom], form: dict[str, Any], tmp_path: Path
) -> None:
    (instance,) = as_enhanced(cases["oblique"], **form)
    assert found_by_dciodvfy(written(instance, tmp_path, "enhanced")) == []


def test_a_multi_frame_instance_that_does_not_describe_its_frames_is_refused(
    cases: dict[str, ThoraxPhantom],
) -> None:
    (instance,) = as_enhanced(cases["axial"])
    instance.PerFrameFunctionalGroupsSequence = instance.PerFrameFunctionalGroupsSequence[:-1]
    with pytest.raises(GeometryError, match="12 frames, of which 11 are described"):
        volume_of([instance])


def test_orders_and_slopes_that_lose_something_are_refused(cases: dict[str, ThoraxPhantom]) -> None:
    with pytest.raises(InputError, match="each of 12 slices"):
        as_enhanced(cases["axial"], order=[0, *range(11)])
    with pytest.raises(InputError, match="slope 3"):
        as_enhanced(cases["axial"], slopes=(3.0,))
