"""One variant of a model on given volumes, in a process of its own: what it breaks or leaves behind ends with that.

    python -m bundle_engine.trial FOLDER PLACE DEVICE BOUND_PERCENT BUDGET_MB NAME

FOLDER is a version of the model. PLACE has the volumes; what the network as it is, the first, gives is kept there for
the others to be compared with, and what a variant is loaded from in a folder of its name. Tells one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from bundle_engine.fallback import analyse_as_it_fits, limit_memory
from bundle_engine.fixed_windows import fixed_window
from bundle_engine.plan import read_plan
from bundle_engine.variant import AS_IT_IS, Variant, as_json, variants_for
from bundle_engine.variation import as_varied, prepared, within_budget
from bundle_engine.workflow import Workflow, workflow_of

__all__ = ["VOLUMES", "Reference", "Trial", "main", "reference_of", "trial_of"]

VOLUMES = "volumes.npz"
_REFERENCE = "reference.npz"
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


@dataclass(frozen=True)
class Reference:
    """What the network as it is gives for each volume, and the size of its windows where they have one."""

    values: tuple[torch.Tensor, ...]
    window: tuple[int, ...]  # (channels, X, Y, Z), or ()

    def write(self, file: Path) -> None:
        values = {f"values_{number}": each.numpy() for number, each in enumerate(self.values)}
        np.savez(file, window=np.asarray(self.window, np.int64), **values)  # type: ignore[arg-type]

    @classmethod
    def read(cls, file: Path) -> Reference:
        with np.load(file) as given:
            values = [torch.from_numpy(given[f"values_{number}"]) for number in range(len(given.files) - 1)]
            return cls(tuple(values), tuple(int(size) for size in given["window"]))


class _Seen(torch.nn.Module):
    """Notes the sizes of the windows that the network is given."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.sizes: set[tuple[int, ...]] = set()

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        self.sizes.add(tuple(windows.shape[1:]))
        answer: torch.Tensor = self.network(windows)
        return answer


def reference_of(workflow: Workflow, volumes: Sequence[_Volume]) -> Reference:
    seen = _Seen(workflow.network)
    watched = replace(workflow, network=seen)
    values = tuple(analyse_as_it_fits(watched, *volume).values.cpu() for volume in volumes)
    return Reference(values, fixed_window(workflow.inferer, seen.sizes))


def trial_of(
    workflow: Workflow,
    variant: Variant,
    volumes: Sequence[_Volume],
    reference: Reference,
    *,
    place: Path,
    bound_percent: float,
    budget_mb: int = 0,
) -> Trial:
    """The variant on all volumes. place: a folder for what it is loaded from."""
    try:
        if variant != AS_IT_IS:
            within_budget(workflow, variant, budget_mb)
            variant = prepared(workflow, variant, reference.window, place)
        varied = as_varied(workflow, variant, place)
        found = [analyse_as_it_fits(varied, *volume).values.cpu() for volume in volumes]  # and it is warm
        seconds = min(_seconds(varied, volumes) for _ in range(_ROUNDS))
    except Exception as error:  # noqa: BLE001 - recorded: what a compiler or a card raises is not known before
        return Trial(as_json(variant), reason=_reason(error))
    pairs = list(zip(reference.values, found, strict=True))
    agreement = min(100 * float((one == other).double().mean()) for one, other in pairs)
    dice = min(_least_dice_percent(one, other) for one, other in pairs)
    return Trial(as_json(variant), seconds, agreement, dice, min(agreement, dice) >= bound_percent)


def _reason(error: Exception) -> str:
    said = (str(error).strip().splitlines() or [""])[0][:200]
    name = type(error).__name__
    return said if name == "NotHere" else f"{name}: {said}" if said else name


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
    folder, place, device = Path(words[0]), Path(words[1]), torch.device(words[2])
    bound_percent, budget_mb = float(words[3]), int(words[4])
    variant = next(each for each in variants_for(device.type) if each.name == words[5])
    limit_memory(device, budget_mb)
    workflow = workflow_of(folder / "bundle", read_plan(folder / "plan.json"), device)
    volumes = _volumes(place / VOLUMES)
    if variant == AS_IT_IS:
        reference_of(workflow, volumes).write(place / _REFERENCE)
    reference = Reference.read(place / _REFERENCE)
    own = place / variant.name
    own.mkdir()
    trial = trial_of(
        workflow, variant, volumes, reference, place=own, bound_percent=bound_percent, budget_mb=budget_mb
    )
    sys.stdout.write(json.dumps(asdict(trial)) + "\n")


def _volumes(file: Path) -> list[_Volume]:
    with np.load(file) as given:
        return [
            (torch.from_numpy(given[f"volume_{number}"]), torch.from_numpy(given[f"affine_{number}"]))
            for number in range(len(given.files) // 2)
        ]


if __name__ == "__main__":
    main(sys.argv[1:])
