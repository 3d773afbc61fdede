"""A bundle that detects, in the shape of the Model Zoo's lung_nodule_ct_detection, whose boxes anybody can predict.

Its network has the zoo's parts, narrower, and weights set by hand: a mean over a neighbourhood goes through all layers,
so that a bright ball has the highest score in its middle, and the box there is the anchor itself.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from author import run_as_author
from monai.bundle import ConfigParser
from numpy.typing import NDArray

from isocenter_operators.testing.phantom import Phantom

__all__ = ["SIDE_MM", "ball_bundle", "boxes_as_the_author_gets_them", "with_balls", "with_scripts"]

ENGINE = Path(__file__).parents[1] / "triton_models" / "monai_bundle" / "1"
SIDE_MM = 24.0  # of the one anchor, which is the box of every ball
_VOXEL_MM = 3.0
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_CHANNELS = 8
_SCRIPTS = {
    "__init__.py": "",
    "detection_inferer.py": """
import numpy
from monai.inferers import Inferer


class RetinaNetInferer(Inferer):
    def __init__(self, detector, force_sliding_window=False):
        super().__init__()
        self.detector, self.always = detector, force_sliding_window

    def __call__(self, inputs, network):
        self.detector.network = network
        self.detector.eval()
        window = numpy.prod(self.detector.inferer.roi_size)
        many = any(image.shape[1:].numel() >= window for image in inputs)
        return self.detector(inputs, use_inferer=bool(self.always or many))
""",
    "evaluator.py": """
from monai.engines import SupervisedEvaluator
from monai.engines.utils import IterationEvents


def images_of(batch, device=None, non_blocking=False, **options):
    return [each["image"].to(device) for each in batch], None


class DetectionEvaluator(SupervisedEvaluator):
    def __init__(self, **options):
        super().__init__(prepare_batch=images_of, **options)

    def _register_decollate(self):
        @self.on(IterationEvents.MODEL_COMPLETED)
        def parted(engine):
            both = zip(engine.state.output["image"], engine.state.output["pred"])
            engine.state.output = [{"image": image, "pred": found} for image, found in both]
""",
    "detection_saver.py": """
import json
from pathlib import Path

from ignite.engine import Events


class DetectionSaver:
    def __init__(self, output_dir, filename, output_transform, **keys):
        self.file, self.transform = Path(output_dir) / filename, output_transform

    def attach(self, engine):
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.save)

    def save(self, engine):
        self.file.parent.mkdir(parents=True, exist_ok=True)
        found = self.transform(engine.state.output)
        keys = "box", "label", "label_scores"
        self.file.write_text(json.dumps([{key: each[key].tolist() for key in keys} for each in found]))
""",
}


def ball_bundle(
    folder: Path,
    *,
    spacing: bool = True,
    window: Sequence[int] = (512, 512, 192),
    box_mode: str = "cccwhd",
    in_lps: bool = True,
    named: bool = True,
    network: dict[str, Any] | None = None,
    score_thresh: float = 0.3,
    above_hu: float = 1000.0,
) -> Path:
    """Write the bundle, without scripts, and give its folder. What has less Hounsfield units than `above_hu` is dark.

    spacing: whether it resamples images to its 3 mm. window: of its sliding windows, voxels. named: whether it says
    what its boxes are of. network: other parts than `backbone` and `feature_extractor`, whose weights are then drawn by
    chance.
    """
    config: dict[str, Any] = {
        "spaced_already": not spacing,
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "/nowhere",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "amp": True,
        "window": list(window),
        "image_key": "image",
        **(network or _network()),
        "network": "$@network_def.to(@device)",
        "detector": {
            "_target_": "RetinaNetDetector",
            **{"network": "@network", "anchor_generator": "@anchor_generator", "debug": False},
        },
        "detector_ops": [
            "$@detector.set_target_keys(box_key='box', label_key='label')",
            f"$@detector.set_box_selector_parameters(score_thresh={score_thresh},topk_candidates_per_level=1000,"
            "nms_thresh=0.1,detections_per_img=300)",
            "$@detector.set_sliding_window_inferer(roi_size=@window,overlap=0.25,sw_batch_size=2,mode='constant',"
            "device='cpu')",
        ],
        "preprocessing": {"_target_": "Compose", "transforms": _before(above_hu)},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': i} for i in glob.glob(@dataset_dir + '/*.nii.gz')]",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            **{"dataset": "@dataset", "batch_size": 1, "num_workers": 0},
            "collate_fn": "$monai.data.utils.no_collation",
        },
        "inferer": {"_target_": "scripts.detection_inferer.RetinaNetInferer", "detector": "@detector"},
        "postprocessing": {"_target_": "Compose", "transforms": _after(box_mode, in_lps)},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
            },
            {
                "_target_": "scripts.detection_saver.DetectionSaver",
                **{"output_dir": "@output_dir", "filename": "found.json", "pred_box_key": "box"},
                "output_transform": "$lambda x: [@postprocessing({**xx['pred'], 'image': xx['image']}) for xx in x]",
            },
        ],
        "evaluator": {
            "_target_": "scripts.evaluator.DetectionEvaluator",
            "_requires_": "@detector_ops",
            **{"device": "@device", "val_data_loader": "@dataloader", "network": "@network"},
            **{"inferer": "@inferer", "val_handlers": "@handlers", "amp": "@amp"},
        },
        "initialize": ["$setattr(torch.backends.cudnn, 'benchmark', True)"],
        "run": ["$@evaluator.run()"],
    }
    image = {"type": "image", "format": "magnitude", "modality": "CT", "num_channels": 1}
    found = {"type": "object", "format": "dict", "num_channels": 1, "spatial_shape": ["n", "n", "n"]}
    names = {"channel_def": {"0": "lung nodule"}} if named else {}
    metadata = {
        **{"version": "0.3.0", "name": "Lung nodule CT detection"},
        "intended_use": "Balls in phantoms",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": {**found, **names}}},
    }
    bundle = folder / "balls"
    for place in ("configs", "models"):
        (bundle / place).mkdir(parents=True)
    (bundle / "configs" / "inference.json").write_text(json.dumps(config))
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata))
    _save_weights(bundle, config, by_hand=network is None)
    return bundle


def _network() -> dict[str, Any]:
    return {
        "anchor_generator": {
            "_target_": "monai.apps.detection.utils.anchor_utils.AnchorGeneratorWithAnchorShape",
            "feature_map_scales": [1, 1],
            "base_anchor_shapes": [[SIDE_MM / _VOXEL_MM] * 3],
        },
        "backbone": {
            "_target_": "ResNet",
            **{"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [_CHANNELS] * 4},
            **{"spatial_dims": 3, "n_input_channels": 1, "conv1_t_size": 9, "conv1_t_stride": 1},
        },
        "feature_extractor": {
            "_target_": "BackboneWithFPN",
            **{"backbone": "@backbone", "return_layers": {"layer1": "0"}, "in_channels_list": [_CHANNELS]},
            **{"out_channels": _CHANNELS, "spatial_dims": 3},
        },
        "network_def": {
            "_target_": "RetinaNet",
            **{"spatial_dims": 3, "num_classes": 1, "num_anchors": 1, "size_divisible": [4, 4, 4]},
            "feature_extractor": "@feature_extractor",
        },
    }


def _before(above_hu: float) -> list[dict[str, Any]]:
    image: Any = {"keys": "@image_key"}
    return [
        {"_target_": "LoadImaged", **image, "_disabled_": "@spaced_already"},
        {
            "_target_": "LoadImaged",
            **image,
            **{"reader": "itkreader", "affine_lps_to_ras": True, "_disabled_": "$not @spaced_already"},
        },
        {"_target_": "EnsureChannelFirstd", **image},
        {"_target_": "Orientationd", **image, "axcodes": "RAS"},
        {"_target_": "Spacingd", **image, "pixdim": [_VOXEL_MM] * 3, "_disabled_": "@spaced_already"},
        {
            "_target_": "ScaleIntensityRanged",
            **image,
            **{"a_min": above_hu, "a_max": 2000.0, "b_min": 0.0, "b_max": 1.0, "clip": True},
        },
        {"_target_": "EnsureTyped", **image},
    ]


def _after(box_mode: str, in_lps: bool) -> list[dict[str, Any]]:
    box: Any = {"box_keys": "box"}
    placed: Any = {**box, "box_ref_image_keys": "@image_key"}
    written = {"_target_": "ConvertBoxModed", **box, "src_mode": "xyzxyz", "dst_mode": box_mode}
    return [
        {"_target_": "ClipBoxToImaged", **placed, "label_keys": "label", "remove_empty": True},
        {"_target_": "AffineBoxToWorldCoordinated", **placed, "affine_lps_to_ras": in_lps},
        *([written] if box_mode != "xyzxyz" else []),
        {"_target_": "DeleteItemsd", "keys": ["@image_key"]},
    ]


def _save_weights(bundle: Path, config: dict[str, Any], *, by_hand: bool) -> None:
    sys.path.insert(0, str(ENGINE))
    try:
        from bundle_engine.backbone import without_torchvision
    finally:
        sys.path.remove(str(ENGINE))
    without_torchvision()
    torch.manual_seed(3)
    parts = {key: config[key] for key in ("backbone", "feature_extractor", "network_def")}
    network = ConfigParser(parts).get_parsed_content("network_def")
    if by_hand:
        for name, weight in network.named_parameters():
            if ".bn" not in name and name.endswith("weight") and weight.ndim > 1:
                torch.nn.init.zeros_(weight)
                if "body.conv1" in name:
                    weight.data[0, 0] = _cone(weight.shape[-1])
                elif "body" not in name and "bbox_reg" not in name:
                    middle = weight.shape[-1] // 2
                    weight.data[0, 0, middle, middle, middle] = 0.5 if "cls_logits" in name else 1.0
            elif name.endswith("cls_logits.bias"):
                torch.nn.init.constant_(weight, -5.0)
    torch.save(network.state_dict(), bundle / "models" / "model.pt")


def _cone(side: int) -> torch.Tensor:
    """Weights that are highest one voxel behind the middle: MONAI lays the anchors in the middle of the two voxels that
    became one. Together they are 1."""
    beside = torch.arange(side) - side // 2 - 1
    distance = torch.stack(torch.meshgrid(beside, beside, beside, indexing="ij")).float().norm(dim=0)
    cone = (1 - distance / (side // 2)).clamp(min=0)
    return cone / cone.sum()


def with_balls(phantom: Phantom, balls: Sequence[tuple[tuple[float, float, float], float]]) -> Phantom:
    """The phantom with balls as wide as the bundle's boxes: the middle of each, LPS mm, and its Hounsfield units."""
    hu = phantom.hu.copy()
    index = np.indices(hu.shape)[::-1].reshape(3, -1)  # (x, y, z)
    places = (phantom.affine[:3, :3] @ index + phantom.affine[:3, 3, None]).T.reshape(*hu.shape, 3)
    for middle, value in balls:
        hu[np.linalg.norm(places - middle, axis=-1) <= SIDE_MM / 2] = value
    return replace(phantom, hu=hu, digest=f"{hash((phantom.digest, tuple(balls))) & (1 << 256) - 1:064x}")


def with_scripts(bundle: Path, folder: Path) -> Path:
    """A copy of the bundle that has an evaluator, an inferer and a saver of its own."""
    copy = folder / "with_scripts"
    shutil.copytree(bundle, copy)
    (copy / "scripts").mkdir()
    for name, text in _SCRIPTS.items():
        (copy / "scripts" / name).write_text(text)
    return copy


def boxes_as_the_author_gets_them(
    bundle: Path, voxels: NDArray[Any], affine: NDArray[Any], folder: Path
) -> dict[str, NDArray[Any]]:
    """`box`, `label` and `label_scores`, as the bundle's own evaluator saves them for a file with these voxels
    (Z, Y, X) in LPS; `monai.bundle` runs it, by itself. Of torchvision it has what the engine has instead."""
    (folder / "data").mkdir(parents=True)
    image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), _LPS_TO_RAS @ affine, dtype=np.int16)
    nibabel.save(image, folder / "data" / "case.nii.gz")
    own = with_scripts(bundle, folder)
    config = json.loads((own / "configs" / "inference.json").read_text())
    if config["spaced_already"]:  # then it is read with ITK, which is not here, and gives the same
        first, second = config["preprocessing"]["transforms"][:2]
        first["_disabled_"], second["_disabled_"] = False, True
        (own / "configs" / "inference.json").write_text(json.dumps(config))
    given = {
        "config_file": str(own / "configs" / "inference.json"),
        "bundle_root": str(own),
        "dataset_dir": str(folder / "data"),
    }
    run = (
        f"import sys; sys.path[:0] = [{str(own)!r}, {str(ENGINE)!r}]\n"
        "from bundle_engine.backbone import without_torchvision; without_torchvision()\n"
        f"from monai.bundle import run; run('run', **{given!r})"
    )
    run_as_author(run, own)
    (found,) = json.loads((own / "eval" / "found.json").read_text())
    return {key: np.array(values) for key, values in found.items()}
