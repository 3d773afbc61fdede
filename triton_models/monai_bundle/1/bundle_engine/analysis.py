"""One volume through a bundle: before, the network, after; the answer on the volume's own grid."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import AsDiscreted, Compose, SpatialResample

from bundle_engine.detector import NoBoxes, boxes_of, refuse_oblique
from bundle_engine.inversion import best_of, inversion_of, refuse_nan
from bundle_engine.reduction import Reduction, reduction_of
from bundle_engine.regridding import regridded
from bundle_engine.volume import image_of, seen, voxels_of
from bundle_engine.windows import windows_of
from bundle_engine.workflow import BundleError, Workflow, autocast_of

__all__ = ["Answer", "analyse"]

_PIECE_BYTES = 1 << 28


@dataclass(frozen=True)
class Answer:
    """`values`: uint8: labels (Z, Y, X), or masks (classes, Z, Y, X); float64: of the volume as a whole (values), or
    (2, classes): probabilities, and 1 where the bundle decides for a class, each NaN where it does not say; or (N, 6):
    boxes, as `Boxes` has them, whose `further` tensors are their scores and classes.

    `notes`: what a person should know of how it came about.
    """

    values: torch.Tensor
    notes: tuple[str, ...] = ()
    further: Mapping[str, torch.Tensor] = field(default_factory=dict)


@torch.inference_mode()
def analyse(workflow: Workflow, volume: torch.Tensor, affine: torch.Tensor) -> Answer:
    """The bundle's answer to a volume, in its own order and meaning.

    volume: (Z, Y, X), or (channels, Z, Y, X) where the bundle takes several series. affine: float64 (4, 4), index
    (x, y, z, 1) to LPS mm.

    It is what its SupervisedEvaluator would have done with the same voxels from files, batch size 1: the transforms
    before, the inferer, the transforms after, and what SaveImage would have done to bring it back to the first grid.

    Raises InvalidAffine, BundleError, and whatever the bundle's own parts raise.
    """
    plan = workflow.plan
    if volume.ndim != (3 if plan.channels == 1 else 4) or (volume.ndim == 4 and len(volume) != plan.channels):
        raise BundleError(
            f"the bundle takes {plan.channels} series; a volume of {list(volume.shape)} was given"
        )
    given = seen(volume.to(workflow.device), affine)
    item = _prepared(workflow, given)
    if plan.output in ("classes", "values"):
        return Answer(_of_the_whole(workflow, item))
    if plan.output == "boxes":
        return _boxes(workflow, item[plan.image_key])
    found = _found(workflow, item, given)
    return Answer(_integers(voxels_of(_on_grid(found, given)), plan.output))


def _prepared(workflow: Workflow, given: MetaTensor) -> Any:
    """What the transforms before the network make of the volume."""
    key = workflow.plan.image_key
    at_once = regridded(workflow.preprocessing, key, given)
    if at_once is None:
        return workflow.preprocessing({key: image_of(given)})
    item, rest = at_once
    return rest(item)


def _of_the_whole(workflow: Workflow, item: Any) -> torch.Tensor:
    """What the network says of the volume, float64, and what the transforms after it make of that."""
    plan, image = workflow.plan, item[workflow.plan.image_key]
    with autocast_of(workflow):
        output = workflow.inferer(inputs=image[None].to(workflow.device), network=workflow.network)
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != 1:
        shape = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise BundleError(f"the network gives {shape}, where one number for each class or value is expected")
    scores = _plain(output)[0]
    refuse_nan(scores)
    item[plan.output_key] = scores
    steps = list(workflow.postprocessing.transforms)
    place = next((n for n, step in enumerate(steps) if isinstance(step, AsDiscreted)), len(steps))
    item = Compose(steps[:place])(item)
    found = _numbers(item[plan.output_key])
    if plan.output == "values":
        return found
    unsaid = torch.full_like(found, math.nan)
    decided = unsaid
    if place < len(steps):
        decided = _numbers(Compose(steps[place:])(item)[plan.output_key])
        if decided.shape != found.shape:  # the number of a class
            decided = torch.nn.functional.one_hot(decided.reshape(()).long(), len(found)).double()
    return torch.stack([found if plan.activation else unsaid, decided])


def _boxes(workflow: Workflow, image: MetaTensor) -> Answer:
    """As the DetectionEvaluator of the Model Zoo's bundles, and what they make of its answer to save it."""
    assert workflow.detector is not None
    try:
        refuse_oblique(image)
        with autocast_of(workflow):
            output = workflow.inferer(inputs=[_plain(image).to(workflow.device)], network=workflow.network)
        key = workflow.plan.image_key
        found = boxes_of(output, workflow.detector, workflow.postprocessing, key, image)
    except NoBoxes as error:
        raise BundleError(str(error)) from error
    return Answer(found.boxes, further={"scores": found.scores, "classes": found.classes})


def _numbers(values: Any) -> torch.Tensor:
    return _plain(torch.as_tensor(values)).detach().to("cpu", torch.float64)


def _found(workflow: Workflow, item: Any, given: MetaTensor) -> torch.Tensor:
    """From what the network is to see to what comes out in the end."""
    plan = workflow.plan
    reduction = reduction_of(workflow)
    if reduction is None:
        item[plan.output_key] = _scores(workflow, item[plan.image_key])
        return workflow.postprocessing(item)[plan.output_key]  # type: ignore[no-any-return]
    item[plan.output_key] = _reduced(workflow, reduction, item, given)
    return Compose(reduction.rest)(item)[plan.output_key]  # type: ignore[no-any-return]


def _reduced(workflow: Workflow, reduction: Reduction, item: Any, given: MetaTensor) -> MetaTensor:
    """The labels (1, X, Y, Z): on the network's grid, or on the source's where they are decided there."""
    key = workflow.plan.image_key
    image = item[key]
    inversion = inversion_of(reduction.inverse, key, image, given) if reduction.inverse is not None else None
    if reduction.inverse is not None and inversion is None:
        return reduction.brought_back(item, workflow.plan.output_key, _scores(workflow, image))
    labels = torch.empty(image.shape[1:], dtype=torch.int16, device=workflow.device)
    for start, scores in _thin(_slabs(workflow, image)):
        activated = reduction.activated(scores)
        if inversion is not None:
            inversion.add(start, activated)
        else:
            labels[start : start + scores.shape[1]] = best_of(activated)
    if inversion is None:
        return MetaTensor(labels[None].float(), meta=image.meta)
    labels = inversion.labels()[None]
    if reduction.rest:
        return MetaTensor(labels.float(), meta=given.meta)
    # Whole numbers stay what they are where no transform comes after, which would want fractions.
    return MetaTensor(labels, meta=given.meta)


def _thin(slabs: Iterator[tuple[int, torch.Tensor]]) -> Iterator[tuple[int, torch.Tensor]]:
    """In pieces of which copies may be made: of 105 classes a slab of windows is gigabytes."""
    for start, scores in slabs:
        plane_bytes = scores[:, :1].numel() * scores.element_size()
        planes = max(1, _PIECE_BYTES // plane_bytes)
        for first in range(0, scores.shape[1], planes):
            yield start + first, scores[:, first : first + planes]


def _slabs(workflow: Workflow, image: MetaTensor) -> Iterator[tuple[int, torch.Tensor]]:
    """The network's scores (classes, x, Y, Z), and the place of each slab along the first axis of what it saw."""
    windows = windows_of(workflow.inferer, image)
    if windows is None:
        yield 0, _plain(_scores(workflow, image))
        return
    with autocast_of(workflow):
        yield from windows.slabs(_plain(image).to(workflow.device), workflow.network)


def _scores(workflow: Workflow, image: MetaTensor) -> torch.Tensor:
    """Of the batch of one, (classes, X, Y, Z). They lie on the grid that the network saw."""
    with autocast_of(workflow):
        output = workflow.inferer(inputs=image[None].to(workflow.device), network=workflow.network)
    if not isinstance(output, torch.Tensor):
        raise BundleError(f"the network gives a {type(output).__name__}, not a tensor")
    plain = _plain(output)
    if len(plain) != 1 or plain.shape[2:] != image.shape[1:]:
        raise BundleError(
            f"the network gives {list(plain.shape[2:])} voxels for {list(image.shape[1:])}: it answers on another grid "
            "than it is asked on, and where that lies is not known"
        )
    refuse_nan(plain)
    placed: torch.Tensor = MetaTensor(plain[0], meta=image.meta)
    return placed


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    plain: torch.Tensor = tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
    return plain


def _on_grid(found: torch.Tensor, given: MetaTensor) -> torch.Tensor:
    """As SaveImage does: what was not inverted is brought back to the first grid, each voxel its nearest."""
    if not isinstance(found, MetaTensor):
        raise BundleError("the answer does not say where it lies: its transforms drop the affine")
    shape = given.shape[-3:]
    if found.shape[-3:] == shape and torch.allclose(found.affine, given.affine, atol=1e-3):
        placed: torch.Tensor = found
        return placed
    back = SpatialResample(mode="nearest", padding_mode="border", align_corners=False)
    placed = back(found, dst_affine=given.affine, spatial_size=tuple(shape))
    return placed


def _integers(found: torch.Tensor, output: str) -> torch.Tensor:
    """uint8, of what is nothing else: a fraction between two labels would be the label of a third."""
    whole = found.to(torch.int32) if found.is_floating_point() else found
    most = 255 if output == "labels" else 1
    fits = bool(torch.equal(whole.to(found.dtype), found) and whole.min() >= 0 and whole.max() <= most)
    if not fits:
        raise BundleError(
            f"the answer has values from {float(found.min()):g} to {float(found.max()):g}, where whole numbers from 0 "
            f"to {most} are expected: is it made discrete before it is brought back to the first grid?"
        )
    if output == "labels" and found.ndim == 4:
        if found.shape[0] != 1:
            raise BundleError(f"the answer has {found.shape[0]} channels where a label map has one")
        whole = whole[0]
    return whole.to(torch.uint8)
