"""MONAI bundles on whole volumes: the answer is the one that `monai.bundle` itself gives for the same voxels.

The bundles are the Model Zoo's own, unmodified; their weights are made here.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray

from isocenter.bundles.bundle import opened
from isocenter.bundles.plan import plan_of
from isocenter_operators.testing import thorax_phantom

ENGINE = Path(__file__).parents[2] / "triton_models" / "monai_bundle" / "1"
ZOO = Path(__file__).parents[3] / "shared" / "model-zoo"
RUNS = {"ventricular_short_axis_3label": "evaluating"}  # what it calls its run
pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's and torch's own, of their own versions


@pytest.fixture
def engine() -> Iterator[Any]:
    sys.path.insert(0, str(ENGINE))
    try:
        import bundle_engine

        yield bundle_engine
    finally:
        sys.path.remove(str(ENGINE))


def with_weights(name: str, folder: Path) -> Path:
    """The bundle with weights that were drawn by chance."""
    bundle = folder / name
    shutil.copytree(ZOO / name, bundle)
    definition = ConfigParser.load_config_file(str(bundle / "configs" / "inference.json"))["network_def"]
    definition.pop("img_size", None)  # which MONAI's SwinUNETR no longer takes
    torch.manual_seed(0)
    network = ConfigParser({"network": definition}).get_parsed_content("network")
    (bundle / "models").mkdir()
    torch.save(network.state_dict(), bundle / "models" / "model.pt")
    return bundle


def as_the_author_runs_it(
    bundle: Path, voxels: NDArray[Any], affine: NDArray[Any], folder: Path
) -> NDArray[Any]:
    """The labels (Z, Y, X) that the bundle's own evaluator saves, of a file with these voxels (Z, Y, X) in LPS."""
    (folder / "imagesTs").mkdir(parents=True)
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    image = nibabel.Nifti1Image(voxels.transpose(2, 1, 0), ras, dtype=np.int16)
    for place in (folder / "imagesTs", folder):
        nibabel.save(image, place / "case.nii.gz")
    settings = {
        "config_file": str(bundle / "configs" / "inference.json"),
        "bundle_root": str(bundle),
        "dataset_dir": str(folder),
        "output_dir": str(folder / "out"),
        "dataloader#num_workers": 0,
    }
    run = f"from monai.bundle import run; run({RUNS.get(bundle.name, 'run')!r}, **{settings!r})"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", run], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (saved,) = (folder / "out").rglob("*.nii.gz")
    return np.asarray(nibabel.load(saved).dataobj).squeeze().transpose(2, 1, 0)


@pytest.mark.parametrize("name", ["spleen_ct_segmentation", "ventricular_short_axis_3label"])
def test_the_numbers_are_the_authors(name: str, engine: Any, tmp_path: Path) -> None:
    bundle = with_weights(name, tmp_path)
    phantom = thorax_phantom(size=(70, 56, 24), spacing_mm=(3.0, 3.1, 5.0), orientation="LIP")
    volume, affine = phantom.hu.astype(np.int16), phantom.affine
    with opened(bundle) as read:
        plan, code = plan_of(read)
    assert code == []
    workflow = engine.workflow_of(bundle, engine.Plan(**plan.model_dump()), torch.device("cpu"))
    answer = engine.analyse(workflow, [torch.from_numpy(volume)], torch.from_numpy(affine))
    ours = answer.values.numpy()
    theirs = as_the_author_runs_it(bundle, volume, affine, tmp_path / "author")
    assert ours.shape == volume.shape == theirs.shape
    assert len(np.unique(theirs)) > 1  # or any two answers would agree
    assert (ours == theirs).mean() >= 0.999
