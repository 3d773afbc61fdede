"""On a GPU the first volume costs more than the next: it is one that nobody waits for."""

from __future__ import annotations

import torch

from bundle_engine.analysis import analyse
from bundle_engine.workflow import Workflow

__all__ = ["warm_up"]

_SIDE = 32  # voxels; a sliding window is filled up to the size that the network takes
_SPACING_MM = 1.5


def warm_up(workflow: Workflow) -> None:
    """Run one small volume. Raises what `analyse` raises: the bundle may refuse it, as it is no patient."""
    ramp = torch.linspace(-1000, 1000, _SIDE, dtype=torch.float32)
    volume = ramp[:, None, None].expand(_SIDE, _SIDE, _SIDE).to(torch.int16).contiguous()  # (Z, Y, X)
    if workflow.plan.channels > 1:
        volume = volume.expand(workflow.plan.channels, -1, -1, -1).contiguous()
    affine = torch.diag(torch.tensor([_SPACING_MM, _SPACING_MM, _SPACING_MM, 1.0], dtype=torch.float64))
    analyse(workflow, volume, affine)
