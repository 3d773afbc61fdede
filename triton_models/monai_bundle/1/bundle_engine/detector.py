"""Boxes: what a RetinaNetDetector of MONAI's gives for a volume, in the patient's millimetres."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.transforms.dictionary import AffineBoxToWorldCoordinated, ConvertBoxModed
from monai.data import MetaTensor
from monai.data.box_utils import convert_box_mode
from monai.inferers import Inferer
from monai.transforms import Compose

__all__ = ["Boxes", "DetectorInferer", "NoBoxes", "boxes_of", "refuse_oblique"]

_CENTRE_AND_SIZE = "cccwhd"
# MONAI takes two opposite corners of a box into the patient: of a volume that lies askew these span another box.
_MOST_OBLIQUE = math.sin(math.radians(2.0))


class NoBoxes(ValueError):
    """What came out is no boxes, or they lie nowhere; says why."""


@dataclass(frozen=True)
class Boxes:
    """`boxes`: float64 (N, 6), the centre x, y, z and the size along x, y, z of each, mm in LPS. `scores`: float64 (N),
    0 to 1. `classes`: int32 (N), from 1 on, in the order in which the network has them."""

    boxes: torch.Tensor
    scores: torch.Tensor
    classes: torch.Tensor


class DetectorInferer(Inferer):
    """What the RetinaNetInferer of the Model Zoo's detection bundles does: the detector looks at a volume through its
    sliding windows where that has at least as many voxels as one of them, and else at all of it at once.

    force_sliding_window: always through windows.
    """

    def __init__(self, detector: RetinaNetDetector, force_sliding_window: bool = False) -> None:
        super().__init__()
        self.detector = detector
        self.force_sliding_window = force_sliding_window

    def __call__(self, inputs: Any, network: Any, *args: Any, **kwargs: Any) -> Any:
        self.detector.network = network
        self.detector.eval()
        windows = self.detector.inferer
        large = windows is not None and any(
            image[0].numel() >= int(np.prod(windows.roi_size)) for image in inputs
        )
        return self.detector(inputs, *args, use_inferer=self.force_sliding_window or large, **kwargs)


def refuse_oblique(image: MetaTensor) -> None:
    """Raises NoBoxes where a volume lies so far askew that MONAI's boxes of it would not hold what they are of."""
    axes = image.affine[:3, :3].double()
    cosines = (axes / axes.norm(dim=0)).abs()
    askew = float(torch.sqrt((1 - cosines.max(dim=0).values ** 2).clamp(min=0)).max())
    if askew > _MOST_OBLIQUE:
        raise NoBoxes(
            f"the volume lies {math.degrees(math.asin(min(askew, 1.0))):.1f} degrees askew to the patient's axes; "
            "boxes are along these axes, and hold what was found where it is at most 2"
        )


def boxes_of(
    found: Any, detector: RetinaNetDetector, postprocessing: Compose, image_key: str, image: Any
) -> Boxes:
    """The boxes that the bundle's transforms make of what its detector gives for the batch of one volume.

    image: the volume as the network saw it, which says where it lies. Raises NoBoxes.
    """
    if not (isinstance(found, list) and len(found) == 1 and isinstance(found[0], Mapping)):
        raise NoBoxes(
            f"the detector gives a {type(found).__name__}, where the boxes of one volume are expected"
        )
    keys = detector.target_box_key, detector.pred_score_key, detector.target_label_key
    item = postprocessing({**found[0], image_key: image})
    missing = [key for key in keys if key not in item]
    if missing:
        raise NoBoxes(
            f"there is no {missing[0]!r} in what the detector gives, but {', '.join(map(str, item))}"
        )
    boxes, scores, labels = (_plain(item[key]) for key in keys)
    if boxes.ndim != 2 or boxes.shape[1] != 6 or not len(boxes) == len(scores) == len(labels):
        raise NoBoxes(
            f"boxes of {list(boxes.shape)}, scores of {list(scores.shape)} and labels of {list(labels.shape)} do not "
            "belong together"
        )
    placed = _centres_and_sizes(boxes, postprocessing)
    if not (
        torch.isfinite(placed).all() and (placed[:, 3:] > 0).all() and ((scores >= 0) & (scores <= 1)).all()
    ):
        raise NoBoxes("there are boxes without a place or a size, or scores that are not from 0 to 1")
    return Boxes(placed, scores, (labels + 1).to(torch.int32))


def _centres_and_sizes(boxes: torch.Tensor, postprocessing: Compose) -> torch.Tensor:
    steps = list(postprocessing.transforms)
    modes = [step.converter.dst_mode for step in steps if isinstance(step, ConvertBoxModed)]
    placed = convert_box_mode(boxes, src_mode=modes[-1] if modes else None, dst_mode=_CENTRE_AND_SIZE)
    placing = [step for step in steps if isinstance(step, AffineBoxToWorldCoordinated)]
    if len(placing) != 1:
        raise NoBoxes("the boxes are not brought into the patient (AffineBoxToWorldCoordinated) once")
    if not placing[0].affine_lps_to_ras:  # MONAI's name for it: the boxes are in RAS then, and else in LPS
        placed[:, :2] *= -1
    return _plain(placed)


def _plain(values: Any) -> torch.Tensor:
    tensor = torch.as_tensor(values)
    plain: torch.Tensor = tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor
    return plain.detach().to("cpu", torch.float64)
