"""Bundles of the Model Zoo in tests: with weights drawn by chance, and as their authors run them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray

__all__ = ["ZOO", "as_the_author_runs_it", "draw_weights", "with_weights"]

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
    voxels (Z, Y, X) in LPS; of a list, the channels of one file.

    mixed: in bfloat16 where a GPU would compute in float16. settings: of the bundle's configuration.
    """
    (folder / "imagesTs").mkdir(parents=True)
    each = [each.transpose(2, 1, 0) for each in (voxels if isinstance(voxels, list) else [voxels])]
    stored = np.stack(each, axis=-1) if isinstance(voxels, list) else each[0]
    image = nibabel.Nifti1Image(stored, _LPS_TO_RAS @ affine, dtype=np.int16)
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
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", run], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (saved,) = (folder / "out").rglob("*.nii.gz")
    return np.asarray(nibabel.load(saved).dataobj).squeeze().T  # (X, Y, Z), or (X, Y, Z, masks)


def _current(bundle: Path, folder: Path) -> Path:
    """The bundle's own inference.json; without `img_size`, at which MONAI 1.6 fails where it stands."""
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    if config["network_def"].pop("img_size", None) is None:
        return file
    (folder / "inference.json").write_text(json.dumps(config))
    return folder / "inference.json"
