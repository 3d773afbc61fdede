"""A volume turned and resampled at once is what MONAI's two transforms make of it, and is undone as theirs is."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    EnsureTyped,
    Invertd,
    Orientationd,
    ScaleIntensityd,
    Spacingd,
    Transform,
)

from isocenter_operators.testing import thorax_phantom

ENGINE = Path(__file__).parents[2] / "triton_models" / "monai_bundle" / "1"
pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's own


@pytest.fixture
def engine() -> Iterator[Any]:
    sys.path.insert(0, str(ENGINE))
    try:
        from bundle_engine import regridding, volume

        yield type("Engine", (), {"regridding": regridding, "volume": volume})
    finally:
        sys.path.remove(str(ENGINE))


def steps(*more: Transform, **spacing: Any) -> Compose:
    return Compose(
        [
            EnsureChannelFirstd("image"),
            EnsureTyped("image"),
            Orientationd("image", axcodes="RAS"),
            Spacingd("image", **{"pixdim": (7.0, 7.0, 7.0), "mode": "bilinear", **spacing}),
            *more,
        ]
    )


@pytest.mark.parametrize(
    ("grid", "pixdim"),
    [
        ({"size": (40, 30, 20), "spacing_mm": (4.0, 5.0, 9.0)}, (7.0, 7.0, 7.0)),
        (
            {"size": (24, 30, 26), "spacing_mm": (4.0, 5.0, 6.0), "orientation": "SRP", "oblique_deg": 9.0},
            (3.0, 3.0, 3.0),  # finer than the volume is
        ),
        ({"size": (30, 20, 24), "spacing_mm": (4.0, 5.0, 6.0), "orientation": "AIR"}, (4.0, 6.0, 200.0)),
    ],
)
@pytest.mark.parametrize("channels", [0, 2])
def test_it_is_what_monai_makes_of_it(
    grid: dict[str, Any], pixdim: tuple[float, ...], channels: int, engine: Any
) -> None:
    phantom = thorax_phantom(**grid)
    hu = torch.from_numpy(phantom.hu)
    volume = torch.stack([hu, hu.flip(0)]) if channels else hu
    given = engine.volume.seen(volume, torch.from_numpy(phantom.affine))
    scaling = ScaleIntensityd("image")
    before = steps(scaling, pixdim=pixdim)
    expected: Any = before({"image": engine.volume.image_of(given)})["image"]
    item, rest = engine.regridding.regridded(before, "image", given)
    assert list(rest.transforms) == [scaling]
    found = rest(item)["image"]
    assert found.dtype == expected.dtype == torch.float32
    assert found.is_contiguous()
    torch.testing.assert_close(found.as_tensor(), expected.as_tensor(), rtol=0, atol=1e-6)
    assert torch.equal(found.affine, expected.affine)
    told = [[each["class"] for each in image.applied_operations] for image in (found, expected)]
    assert told[0] == told[1] == ["Orientation", "SpatialResample"]
    inverse = Invertd("image", transform=before, nearest_interp=False)
    torch.testing.assert_close(
        inverse({"image": found})["image"].as_tensor(),
        inverse({"image": expected})["image"].as_tensor(),
        rtol=0,
        atol=1e-5,
    )


def test_a_plane_alone_is_one_plane(engine: Any) -> None:
    volume = torch.arange(12, dtype=torch.int16).reshape(1, 3, 4)
    given = engine.volume.seen(volume, torch.diag(torch.tensor([2.0, 2.0, 5.0, 1.0], dtype=torch.float64)))
    before = steps(pixdim=(1.0, 1.0, 5.0))
    found = engine.regridding.regridded(before, "image", given)[0]["image"]
    expected: Any = before({"image": engine.volume.image_of(given)})["image"]
    assert torch.equal(found.as_tensor(), expected.as_tensor())


@pytest.mark.parametrize(
    "made",
    [
        lambda: steps(mode="nearest"),
        lambda: steps(mode=3),
        lambda: steps(padding_mode="zeros"),
        lambda: steps(align_corners=True),
        lambda: steps(recompute_affine=True),
        lambda: steps(pixdim=(4.0, 5.0, 9.0)),  # its own: MONAI leaves it as it is
        lambda: Compose([ScaleIntensityd("image"), *steps().transforms]),
        lambda: Compose([EnsureTyped("image", dtype=torch.float64), *steps().transforms]),
        lambda: Compose([CropForegroundd("image", source_key="image"), *steps().transforms]),
        lambda: Compose(list(steps().transforms[:-1])),
        lambda: Compose([Spacingd("image", pixdim=(7.0, 7.0, 7.0)), Orientationd("image", axcodes="RAS")]),
    ],
)
def test_all_else_is_left_to_monai(made: Callable[[], Compose], engine: Any) -> None:
    phantom = thorax_phantom(size=(40, 30, 20), spacing_mm=(4.0, 5.0, 9.0))
    given = engine.volume.seen(torch.from_numpy(phantom.hu), torch.from_numpy(phantom.affine))
    assert engine.regridding.regridded(made(), "image", given) is None
