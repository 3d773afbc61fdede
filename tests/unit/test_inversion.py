"""Labels on the source grid are those of MONAI's own inverse, though most of it is not computed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    Invertd,
    Orientationd,
    Spacingd,
    Transform,
)

from isocenter_operators.testing import thorax_phantom

ENGINE = Path(__file__).parents[2] / "triton_models" / "monai_bundle" / "1"
pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's own


@pytest.fixture
def engine() -> Iterator[Any]:
    """The modules of the engine that are tried here."""
    sys.path.insert(0, str(ENGINE))
    try:
        from bundle_engine import inversion, reduction, volume

        yield type("Engine", (), {"inversion": inversion, "reduction": reduction, "volume": volume})
    finally:
        sys.path.remove(str(ENGINE))


def before(*further: Transform, pixdim: tuple[float, float, float], mode: Any = "bilinear") -> Compose:
    return Compose(
        [
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS"),
            Spacingd("image", pixdim=pixdim, mode=mode),
            *further,
        ]
    )


def scores_on(image: MetaTensor, classes: int, smooth: bool) -> torch.Tensor:
    """(classes, X, Y, Z): blobs, as a network gives them, or noise, in which every voxel is at a border."""
    drawn = torch.randn(1, classes, *image.shape[1:], generator=torch.Generator().manual_seed(3))
    if smooth:
        width = [5 if length >= 5 else 1 for length in image.shape[1:]]
        for _ in range(2):
            drawn = torch.nn.functional.avg_pool3d(
                drawn, width, stride=1, padding=[each // 2 for each in width]
            )
        drawn = drawn * 100
    return drawn[0].softmax(dim=0)


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize(
    ("grid", "pixdim"),
    [
        ({"size": (40, 30, 20), "spacing_mm": (4.0, 5.0, 9.0)}, (7.0, 7.0, 7.0)),
        (
            {"size": (24, 30, 26), "spacing_mm": (4.0, 5.0, 6.0), "orientation": "SRP", "oblique_deg": 9.0},
            (3.0, 3.0, 3.0),
        ),
        ({"size": (30, 20, 24), "spacing_mm": (4.0, 5.0, 6.0), "orientation": "AIR"}, (4.0, 6.0, 200.0)),
    ],
)
def test_it_is_the_inverse_of_monai(
    grid: dict[str, Any], pixdim: tuple[float, float, float], smooth: bool, engine: Any
) -> None:
    phantom = thorax_phantom(**grid)
    given = engine.volume.image_of(
        engine.volume.seen(torch.from_numpy(phantom.hu), torch.from_numpy(phantom.affine))
    )
    steps = before(pixdim=pixdim)
    item: Any = steps({"image": given})
    image = item["image"]
    scores = MetaTensor(scores_on(image, 6, smooth), meta=image.meta)
    inverse = Invertd("pred", transform=steps, orig_keys="image", nearest_interp=False)
    expected = engine.reduction.Reduction(False, inverse, ()).brought_back(item, "pred", scores)[0]
    assert len(np.unique(expected)) == 6
    for planes in (image.shape[1], 3, 1):  # all at once, and slab by slab
        found = engine.inversion.inversion_of(inverse, "image", image, given)
        for first in range(0, image.shape[1], planes):
            found.add(first, scores.as_tensor()[:, first : first + planes])
        labels = found.labels()
        assert labels.shape == expected.shape == given.shape
        # MONAI interpolates in double precision; what lies within its rounding of a tie may fall either way.
        assert (labels != expected.as_tensor()).float().mean() < 1e-4


@pytest.mark.parametrize(
    "made",
    [
        lambda: before(
            CropForegroundd("image", source_key="image", select_fn=lambda x: x > -500), pixdim=(7, 7, 7)
        ),
        lambda: before(pixdim=(7, 7, 7), mode="nearest"),
        lambda: before(pixdim=(7, 7, 7), mode=3),
    ],
)
def test_what_is_more_than_linear_resampling_is_left_to_monai(
    made: Callable[[], Compose], engine: Any
) -> None:
    steps = made()
    phantom = thorax_phantom(size=(40, 30, 20), spacing_mm=(4.0, 5.0, 9.0))
    given = engine.volume.image_of(
        engine.volume.seen(torch.from_numpy(phantom.hu), torch.from_numpy(phantom.affine))
    )
    image = steps({"image": given})["image"]
    inverse = Invertd("pred", transform=steps, orig_keys="image", nearest_interp=False)
    assert engine.inversion.inversion_of(inverse, "image", image, given) is None
    linear = before(pixdim=(7, 7, 7))
    image = linear({"image": given})["image"]
    assert engine.inversion.inversion_of(inverse, "other", image, given) is None
    assert engine.inversion.inversion_of(inverse, "image", image, given) is not None
