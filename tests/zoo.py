"""Bundles of the Model Zoo in tests: with weights drawn by chance, and as their authors run them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from author import run_as_author
from monai.bundle import ConfigParser
from numpy.typing import NDArray

__all__ = [
    "ZOO",
    "as_the_author_runs_it",
    "brain_tumour_bundle",
    "draw_weights",
    "whole_volume_bundle",
    "with_weights",
    "written",
]

ZOO = Path(__file__).parents[2] / "shared" / "model-zoo"
OWN = Path(__file__).parents[1] / "bundles"
_RUNS = {"ventricular_short_axis_3label": "evaluating"}  # what it calls its run
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Without a GPU `amp: true` changes nothing in MONAI: here it means what it would mean on one.
_MIXED = """
import torch
class Mixed(torch.autocast):
    def __init__(self, device_type, **options):
        super().__init__("cpu", dtype=torch.bfloat16)
torch.autocast = Mixed
"""


def with_weights(name: str, folder: Path) -> Path:
    """The unmodified bundle with weights that were drawn by chance; one of our own with its own."""
    bundle = folder / name
    if (OWN / name).is_dir():
        shutil.copytree(OWN / name, bundle)
        return bundle
    shutil.copytree(ZOO / name, bundle)
    draw_weights(bundle)
    return bundle


def draw_weights(bundle: Path, seed: int = 0) -> None:
    definition = ConfigParser.load_config_file(str(bundle / "configs" / "inference.json"))["network_def"]
    definition.pop("img_size", None)  # which MONAI's SwinUNETR no longer takes
    torch.manual_seed(seed)
    network = ConfigParser({"network": definition}).get_parsed_content("network")
    (bundle / "models").mkdir(exist_ok=True)
    torch.save(network.state_dict(), bundle / "models" / "model.pt")


def as_the_author_runs_it(
    bundle: Path,
    voxels: NDArray[Any] | list[NDArray[Any]],
    affine: NDArray[Any],
    folder: Path,
    *,
    mixed: bool = False,
    **settings: Any,
) -> NDArray[Any]:
    """The labels (Z, Y, X), or masks (masks, Z, Y, X), that the bundle's own evaluator saves, of a file with these
    voxels (Z, Y, X) in LPS; of a list, of one file for each.

    mixed: in bfloat16 where a GPU would compute in float16. settings: of the bundle's configuration.
    """
    (folder / "imagesTs").mkdir(parents=True)
    ras = _LPS_TO_RAS @ affine
    for number, each in enumerate(voxels if isinstance(voxels, list) else []):
        image = nibabel.Nifti1Image(each.transpose(2, 1, 0), ras, dtype=np.int16)
        nibabel.save(image, folder / f"channel{number}.nii.gz")
    if not isinstance(voxels, list):
        image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), ras, dtype=np.int16)
        for place in (folder / "imagesTs", folder):
            nibabel.save(image, place / "case.nii.gz")
    given = {
        "config_file": str(_current(bundle, folder)),
        "bundle_root": str(bundle),
        "dataset_dir": str(folder),
        "output_dir": str(folder / "out"),
        "dataloader#num_workers": 0,
        **settings,
    }
    begin = _MIXED if mixed else ""
    run = f"{begin}\nfrom monai.bundle import run; run({_RUNS.get(bundle.name, 'run')!r}, **{given!r})"
    run_as_author(run, folder)
    vector = folder / "out.npy"
    if vector.exists():  # of a bundle that says something of the volume as a whole
        return np.load(vector)  # type: ignore[no-any-return]
    (saved,) = (folder / "out").rglob("*.nii.gz")
    return np.asarray(nibabel.load(saved).dataobj).squeeze().T  # (X, Y, Z), or (X, Y, Z, masks)


def _current(bundle: Path, folder: Path) -> Path:
    """The bundle's own inference.json, but for two things of swin_unetr_btcv: `img_size`, at which MONAI 1.6 fails
    where it stands, and ITK as the reader of a file that nibabel reads too."""
    config = json.loads((bundle / "configs" / "inference.json").read_text())
    config["network_def"].pop("img_size", None)
    for step in config["preprocessing"]["transforms"]:
        if step.get("reader") == "ITKReader":
            del step["reader"]
    (folder / "inference.json").write_text(json.dumps(config))
    return folder / "inference.json"


def brain_tumour_bundle(folder: Path) -> Path:
    """A bundle in the shape of the zoo's brats_mri_segmentation: four sequences in, three masks that overlap out, which
    are merged into one file's numbers in the end. Its network is narrower and its window smaller."""
    step: Any = {"keys": "pred"}
    config = {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "dataset_dir": "/nowhere",
        "output_dir": "$@bundle_root + '/eval'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "SegResNet",
            **{"blocks_down": [1, 2, 2, 4], "blocks_up": [1, 1, 1], "init_filters": 8},
            **{"in_channels": 4, "out_channels": 3, "dropout_prob": 0.2},
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "image_only": False},
                {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True},
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': sorted(glob.glob(@dataset_dir + '/channel*.nii.gz'))}]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 4},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            **{"roi_size": [32, 32, 16], "sw_batch_size": 1, "overlap": 0.5},
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", **step, "sigmoid": True},
                {
                    "_target_": "Invertd",
                    **step,
                    **{"transform": "@preprocessing", "orig_keys": "image", "meta_keys": "pred_meta_dict"},
                    **{"nearest_interp": False, "to_tensor": True},
                },
                {"_target_": "AsDiscreted", **step, "threshold": 0.5},
                {
                    "_target_": "Lambdad",
                    **step,
                    "func": "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, "
                    "torch.where(x[[1]] > 0, 2, 0)))",
                },
                {
                    "_target_": "SaveImaged",
                    **step,
                    **{"meta_keys": "pred_meta_dict", "output_dir": "@output_dir", "output_postfix": "seg"},
                    **{"output_dtype": "uint8", "resample": False, "squeeze_end_dims": True},
                },
            ],
        },
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            **{"device": "@device", "val_data_loader": "@dataloader", "network": "@network"},
            **{"inferer": "@inferer", "postprocessing": "@postprocessing", "val_handlers": "@handlers"},
            "amp": True,
        },
        "run": ["$@evaluator.run()"],
    }
    image = {"type": "image", "dtype": "float32", "is_patch_data": True}
    sequences = {"0": "T1c", "1": "T1", "2": "T2", "3": "FLAIR"}
    parts = {"0": "Tumor core", "1": "Whole tumor", "2": "Enhancing tumor"}
    inputs = {"format": "magnitude", "modality": "MR", "num_channels": 4, "channel_def": sequences}
    outputs = {"format": "segmentation", "num_channels": 3, "channel_def": parts}
    formats = {"inputs": {"image": {**image, **inputs}}, "outputs": {"pred": {**image, **outputs}}}
    metadata = {"version": "0.5.3", "name": "Brain tumour", "network_data_format": formats}
    return written(folder / "brain_tumour", config, metadata)


def whole_volume_bundle(
    folder: Path, *, after: list[dict[str, Any]], names: list[str], said: str, modality: str = "CT"
) -> Path:
    """A bundle in the shape of the zoo's classification_template, for volumes: a small DenseNet, and these last steps.

    said: `format` of its output. names: of the classes or values.
    """
    config = {
        "imports": ["$import glob", "$import numpy"],
        "bundle_root": ".",
        "dataset_dir": "/nowhere",
        "output_dir": "/nowhere",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "DenseNet",
            **{"spatial_dims": 3, "in_channels": 1, "out_channels": len(names)},
            **{"init_features": 8, "growth_rate": 4, "block_config": [2, 2]},
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "ScaleIntensityd", "keys": "image"},
                {"_target_": "Resized", "keys": "image", "spatial_size": [32, 32, 32]},
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': i} for i in glob.glob(@dataset_dir + '/*.nii.gz')]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1, "num_workers": 4},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": after},
        "handlers": [
            {
                "_target_": "CheckpointLoader",
                "load_path": "$@bundle_root + '/models/model.pt'",
                "load_dict": {"model": "@network"},
            }
        ],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            **{"device": "@device", "val_data_loader": "@dataloader", "network": "@network"},
            **{"inferer": "@inferer", "postprocessing": "@postprocessing", "val_handlers": "@handlers"},
        },
        "run": [
            "$@evaluator.run()",
            "$numpy.save(@output_dir, numpy.asarray(@evaluator.state.output[0]['pred']))",
        ],
    }
    inputs = {"type": "image", "format": "hounsfield", "modality": modality, "num_channels": 1}
    outputs = {
        "type": "image",
        "format": said,
        "num_channels": len(names),
        "channel_def": dict(enumerate(names)),
    }
    formats = {"inputs": {"image": inputs}, "outputs": {"pred": outputs}}
    metadata = {"version": "0.1.0", "name": "Whole volumes", "network_data_format": formats}
    return written(folder / "whole_volumes", config, metadata)


def written(bundle: Path, config: dict[str, Any], metadata: dict[str, Any]) -> Path:
    """A bundle of these, with weights drawn by chance."""
    (bundle / "configs").mkdir(parents=True)
    (bundle / "configs" / "inference.json").write_text(json.dumps(config))
    (bundle / "configs" / "metadata.json").write_text(json.dumps(metadata))
    draw_weights(bundle)
    return bundle
