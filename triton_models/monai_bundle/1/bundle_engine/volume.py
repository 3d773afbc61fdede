"""Voxels as DICOM has them, and as MONAI's transforms want them: (Z, Y, X) in LPS, (X, Y, Z) in RAS; channels first."""

from __future__ import annotations

import math

import torch
from monai.data import MetaTensor

__all__ = ["InvalidAffine", "image_of", "seen", "voxels_of"]

_LPS_TO_RAS = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))


class InvalidAffine(ValueError):
    """The affine places no volume."""


def seen(volume: torch.Tensor, affine: torch.Tensor) -> MetaTensor:
    """The volume as it lies in memory, seen as MONAI's transforms want it: (X, Y, Z) or (channels, X, Y, Z), in RAS.

    volume: (Z, Y, X) or (channels, Z, Y, X). affine: float64 (4, 4), index (x, y, z, 1) to LPS mm.

    Raises InvalidAffine.
    """
    affine = affine.to("cpu", torch.float64)
    if affine.shape != (4, 4) or not torch.isfinite(affine).all() or abs(torch.linalg.det(affine)) < 1e-9:
        raise InvalidAffine(f"the affine is no map of voxels into space: {affine.tolist()}")
    voxels = volume.transpose(-1, -3)
    ras = _LPS_TO_RAS @ affine
    meta = {
        "affine": ras,
        "original_affine": ras.clone(),
        "spatial_shape": torch.tensor(voxels.shape[-3:]),
        "space": "RAS",
        "original_channel_dim": math.nan if voxels.ndim == 3 else 0,
        "filename_or_obj": "",
    }
    return MetaTensor(voxels, meta=meta)


def image_of(given: MetaTensor) -> MetaTensor:
    """What MONAI's LoadImage gives for the same voxels in a file: float32 (X, Y, Z), without channels; or in a list of
    files, one for each channel: (channels, X, Y, Z). In memory too they lie in this order.

    given: what `seen` made.
    """
    return MetaTensor(_turned(given.as_tensor().transpose(-1, -3), torch.float32), meta=given.meta)


def voxels_of(image: torch.Tensor) -> torch.Tensor:
    """From (..., X, Y, Z) back to (..., Z, Y, X), as a plain tensor."""
    plain = image.as_tensor() if isinstance(image, MetaTensor) else image
    return _turned(plain, plain.dtype)


def _turned(voxels: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """From (..., A, B, C) to (..., C, B, A), contiguous. On a CPU plane by plane, which torch has a fast way for."""
    if voxels.device.type != "cpu":
        return voxels.transpose(-1, -3).to(dtype).contiguous()
    there = voxels.transpose(-1, -3)
    if there.dtype == dtype and there.is_contiguous():
        return there
    *channels, depth, height, width = voxels.shape
    turned = torch.empty((*channels, width, height, depth), dtype=dtype)
    for row in range(height):
        turned[..., row, :].copy_(voxels[..., row, :].transpose(-1, -2))
    return turned
