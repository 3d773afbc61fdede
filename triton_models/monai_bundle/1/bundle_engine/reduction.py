"""From class scores to one label map without ever holding all scores on the source grid, where the bundle allows it.

Two ways of ending are known, and recognised in the transforms that MONAI has made:

- softmax, argmax, then the inverse of what came before: the classes are decided slab by slab while the windows move.
- softmax, the inverse, then argmax: where the inverse is plain resampling, `inversion` brings back what can win, also
  slab by slab; else each class is brought back by itself, and only the best so far is kept.

Both do what the transforms in a row would have done, voxel by voxel. Whatever follows them goes on as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Activationsd, AsDiscreted, Invertd, Transform

from bundle_engine.workflow import Workflow

__all__ = ["Reduction", "reduction_of"]


@dataclass(frozen=True)
class Reduction:
    """`inverse`: what brings each class back before one is chosen; None where the classes are decided first.

    `rest`: the transforms after that.
    """

    softmax: bool
    inverse: Invertd | None
    rest: tuple[Transform, ...]

    def activated(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (classes, ...) as the classes are chosen by."""
        return scores.softmax(dim=0) if self.softmax else scores

    def brought_back(self, item: dict[Any, Any], key: str, scores: torch.Tensor) -> MetaTensor:
        """The labels (1, X, Y, Z) on the source grid, of scores (classes, ...) on the network's."""
        if self.inverse is None:
            raise ValueError("there is no inverse in this reduction")
        scores = self.activated(scores)
        best: MetaTensor | None = None
        labels: torch.Tensor | None = None
        for number, score in enumerate(scores):
            found = self.inverse({**item, key: _as_is(score[None], scores)})[key]
            if best is None or labels is None:
                best, labels = found, torch.zeros(found.shape, dtype=torch.float32, device=found.device)
                continue
            better = found.as_tensor() > best.as_tensor()
            labels[better] = number
            best = torch.maximum(best, found)
        if best is None or labels is None:
            raise ValueError("the network gives no classes")
        return MetaTensor(labels, meta=best.meta)


def reduction_of(workflow: Workflow) -> Reduction | None:
    """The way in which this bundle ends, where it is one that is known."""
    key, steps = workflow.plan.output_key, list(workflow.postprocessing.transforms)
    softmax = bool(steps) and _is_softmax(steps[0], key)
    if softmax:
        steps = steps[1:]
    if steps and _is_argmax(steps[0], key):
        return Reduction(softmax, None, tuple(steps[1:]))
    if len(steps) > 1 and _is_linear_inverse(steps[0], key) and _is_argmax(steps[1], key):
        return Reduction(softmax, steps[0], tuple(steps[2:]))
    return None


def _is_softmax(step: Any, key: str) -> bool:
    if type(step) is not Activationsd or step.keys != (key,) or step.converter.kwargs:
        return False
    return (tuple(step.sigmoid), tuple(step.softmax), tuple(step.other)) == ((False,), (True,), (None,))


def _is_argmax(step: Any, key: str) -> bool:
    if type(step) is not AsDiscreted or step.keys != (key,) or step.converter.kwargs:
        return False
    flags = tuple(step.to_onehot), tuple(step.threshold), tuple(step.rounding)
    return bool(step.argmax[0]) and flags == ((None,), (None,), (None,))


def _is_linear_inverse(step: Any, key: str) -> bool:
    return (
        type(step) is Invertd
        and step.keys == (key,)
        and not any(step.nearest_interp)
        and not any(step.post_func)
    )


def _as_is(score: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """With the place of all of them."""
    placed: torch.Tensor = score
    if isinstance(scores, MetaTensor) and not isinstance(score, MetaTensor):
        placed = MetaTensor(score, meta=scores.meta)
    return placed
