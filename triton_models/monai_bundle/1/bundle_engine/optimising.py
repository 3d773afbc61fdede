"""Measures the variants of one model on given volumes, in a process of its own: `python -m bundle_engine.optimising`.

    python -m bundle_engine.optimising FOLDER VOLUMES.npz DEVICE BOUND_PERCENT

Tells one JSON object per variant and line: seconds for all volumes, and how many voxels are those of the network as it
is. A variant that can not be had here says why. FOLDER is a version of the model; nothing is written.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from bundle_engine.fallback import analyse_as_it_fits
from bundle_engine.plan import read_plan
from bundle_engine.variant import AS_IT_IS, as_json, as_varied, variants_for
from bundle_engine.workflow import Workflow, workflow_of

__all__ = ["Trial", "main", "trials"]

_ROUNDS = 3
_Volume = tuple[torch.Tensor, torch.Tensor]  # as `analyse` takes them


@dataclass(frozen=True)
class Trial:
    """`seconds`: the least of three rounds over all volumes. `agreement_percent`: of the volume that agrees least.

    `least_dice_percent`: of the label that agrees least in any volume, among those that either has. `reason`: why there
    are no figures. `agrees`: as well as asked.
    """

    variant: dict[str, object]
    seconds: float | None = None
    agreement_percent: float | None = None
    least_dice_percent: float | None = None
    agrees: bool = False
    reason: str = ""


def trials(workflow: Workflow, volumes: Sequence[_Volume], bound_percent: float) -> Iterator[Trial]:
    """Each variant on all volumes, the network as it is first."""
    expected: list[torch.Tensor] = []
    for variant in variants_for(workflow.device):
        try:
            varied = as_varied(workflow, variant)
            found = [analyse_as_it_fits(varied, *volume).values.cpu() for volume in volumes]  # and it is warm
            seconds = min(_seconds(varied, volumes) for _ in range(_ROUNDS))
        except Exception as error:  # noqa: BLE001 - recorded: what a compiler or a card raises is not known before
            said = str(error).strip().splitlines() or [type(error).__name__]
            yield Trial(as_json(variant), reason=f"{type(error).__name__}: {said[0][:200]}")
            continue
        if variant == AS_IT_IS:
            expected = found
        pairs = list(zip(expected, found, strict=True))
        agreement = min(100 * float((one == other).double().mean()) for one, other in pairs)
        dice = min(_least_dice_percent(one, other) for one, other in pairs)
        yield Trial(as_json(variant), seconds, agreement, dice, min(agreement, dice) >= bound_percent)


def _seconds(workflow: Workflow, volumes: Sequence[_Volume]) -> float:
    started = time.perf_counter()
    for volume in volumes:
        analyse_as_it_fits(workflow, *volume).values.cpu()
    return time.perf_counter() - started


def _least_dice_percent(one: torch.Tensor, other: torch.Tensor) -> float:
    """Of small organs the agreement of all voxels says nothing: they are a thousandth of them."""
    if one.ndim == 4:  # masks
        pairs = [(a > 0, b > 0) for a, b in zip(one, other, strict=True)]
    else:
        labels = sorted({*np.unique(one.numpy()).tolist(), *np.unique(other.numpy()).tolist()} - {0})
        pairs = [(one == label, other == label) for label in labels]
    sizes = [int(a.sum() + b.sum()) for a, b in pairs]
    return min(
        (200 * int((a & b).sum()) / size for (a, b), size in zip(pairs, sizes, strict=True) if size),
        default=100.0,
    )


def main(words: Sequence[str]) -> None:
    folder, file, device, bound_percent = (
        Path(words[0]),
        Path(words[1]),
        torch.device(words[2]),
        float(words[3]),
    )
    workflow = workflow_of(folder / "bundle", read_plan(folder / "plan.json"), device)
    with np.load(file) as given:
        count = len(given.files) // 2
        volumes = [
            (torch.from_numpy(given[f"volume_{number}"]), torch.from_numpy(given[f"affine_{number}"]))
            for number in range(count)
        ]
    for trial in trials(workflow, volumes, bound_percent):
        sys.stdout.write(json.dumps(asdict(trial)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
