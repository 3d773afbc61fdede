"""MONAI bundles on whole volumes: the answer is the one that `monai.bundle` itself gives for the same voxels.

The bundles are the Model Zoo's own, unmodified, with weights that are made here; and the demonstration, as it is.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from threshold_bundle import threshold_bundle
from zoo import (
    ZOO,
    as_the_author_runs_it,
    brain_tumour_bundle,
    draw_weights,
    whole_volume_bundle,
    with_weights,
)

from isocenter.bundles.bundle import opened
from isocenter.bundles.plan import plan_of
from isocenter_operators.testing import thorax_phantom

ENGINE = Path(__file__).parents[2] / "triton_models" / "monai_bundle" / "1"
pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's and torch's own, of their own versions


@pytest.fixture
def engine() -> Iterator[Any]:
    sys.path.insert(0, str(ENGINE))
    try:
        import bundle_engine

        yield bundle_engine
    finally:
        sys.path.remove(str(ENGINE))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("spleen_ct_segmentation", (70, 56, 24)),
        ("ventricular_short_axis_3label", (70, 56, 10)),  # it fills each slice up to 256 x 256
        ("thorax_organs", (70, 56, 24)),
    ],
)
def test_the_numbers_are_the_authors(
    name: str, size: tuple[int, int, int], engine: Any, tmp_path: Path
) -> None:
    bundle = with_weights(name, tmp_path)
    phantom = thorax_phantom(size=size, spacing_mm=(3.0, 3.1, 5.0), orientation="LIP")
    volume, affine = phantom.hu.astype(np.int16), phantom.affine
    with opened(bundle) as read:
        plan, code = plan_of(read)
    assert code == []
    workflow = engine.workflow_of(bundle, engine.Plan(**plan.model_dump()), torch.device("cpu"))
    answer = engine.analyse(workflow, torch.from_numpy(volume), torch.from_numpy(affine))
    ours = answer.values.numpy()
    theirs = as_the_author_runs_it(bundle, volume, affine, tmp_path / "author")
    assert ours.shape == volume.shape == theirs.shape
    assert len(np.unique(theirs)) > 1  # or any two answers would agree
    assert (ours == theirs).mean() >= 0.999


@pytest.mark.parametrize(
    ("plan", "away"),
    [
        ('{"own_code": false}', ["monai.deploy", "ignite"]),
        ('{"own_code": true}', ["monai.deploy"]),
        ("no plan", ["monai.deploy"]),
        (None, ["monai.deploy"]),
    ],
)
def test_a_model_imports_monai_without_what_no_bundle_is_run_by(
    plan: str | None, away: list[str], tmp_path: Path
) -> None:
    """Of a library that notes what it could import, as MONAI does; afterwards all of it is there for who wants it."""
    for name in ("monai/deploy", "monai/bundle", "ignite", "version"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "__init__.py").touch()
    if plan is not None:
        (tmp_path / "version" / "plan.json").write_text(plan)
    (tmp_path / "monai" / "__init__.py").write_text(
        "import importlib\nmissing = []\nfor name in ('monai.deploy', 'ignite'):\n"
        "    try:\n        importlib.import_module(name)\n    except ImportError:\n        missing.append(name)\n"
    )
    script = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}]\n"
        "import pathlib, runpy\n"
        f"library = runpy.run_path({str(ENGINE / 'bundle_engine' / 'library.py')!r})\n"
        f"library['import_monai'](pathlib.Path({str(tmp_path / 'version')!r}))\n"
        "import monai, monai.deploy, ignite\n"
        "assert 'monai.bundle' in sys.modules\n"
        "print(*monai.missing)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, away), done.stderr


def small_bundle(folder: Path, *, inverted_first: bool, inferer: dict[str, Any]) -> Path:
    """The spleen bundle with a small network of five classes, other windows, and either order of its last steps."""
    bundle = folder / "small"
    shutil.copytree(ZOO / "spleen_ct_segmentation", bundle)
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network_def"] |= {"out_channels": 5, "channels": [4, 8], "strides": [2], "num_res_units": 0}
    config["inferer"] |= inferer
    softmax, invert, argmax, save = config["postprocessing"]["transforms"]
    invert["nearest_interp"] = not inverted_first
    config["postprocessing"]["transforms"] = [
        softmax,
        *((invert, argmax) if inverted_first else (argmax, invert)),
        {"_target_": "KeepLargestConnectedComponentd", "keys": "pred"},
        save,
    ]
    file.write_text(json.dumps(config))
    torch.manual_seed(1)
    network = ConfigParser({"network": config["network_def"]}).get_parsed_content("network")
    (bundle / "models").mkdir()
    torch.save(network.state_dict(), bundle / "models" / "model.pt")
    return bundle


@pytest.mark.parametrize("inverted_first", [True, False])
@pytest.mark.parametrize(
    "inferer",
    [
        {"roi_size": [32, 24, 40], "overlap": 0.5, "sw_batch_size": 3, "mode": "gaussian"},
        {"roi_size": [200, 32, 32], "overlap": 0.25, "padding_mode": "replicate"},
        {"roi_size": [16, -1, 300], "overlap": [0.6, 0.0, 0.25]},
    ],
)
def test_deciding_early_changes_no_voxel(
    inverted_first: bool,
    inferer: dict[str, Any],
    engine: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = small_bundle(tmp_path, inverted_first=inverted_first, inferer=inferer)
    with opened(bundle) as read:
        plan, _ = plan_of(read)
    workflow = engine.workflow_of(bundle, engine.Plan(**plan.model_dump()), torch.device("cpu"))
    phantom = thorax_phantom(size=(60, 50, 20), spacing_mm=(2.1, 2.5, 5.0), orientation="PIR")
    given = torch.from_numpy(phantom.hu.astype(np.int16)), torch.from_numpy(phantom.affine)
    early = engine.analyse(workflow, *given).values
    monkeypatch.setattr(sys.modules["bundle_engine.analysis"], "reduction_of", lambda workflow: None)
    late = engine.analyse(workflow, *given).values
    assert len(late.unique()) > 2
    assert torch.equal(early, late)


class Hungry(torch.nn.Module):
    """A network for which there is no memory when it is given more than one window."""

    def __init__(self, network: torch.nn.Module, most: int) -> None:
        super().__init__()
        self.network, self.most = network, most

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        if len(windows) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        answer: torch.Tensor = self.network(windows)
        return answer


def test_what_does_not_fit_is_done_with_less_and_it_is_said(engine: Any, tmp_path: Path) -> None:
    bundle = small_bundle(
        tmp_path, inverted_first=False, inferer={"roi_size": [32, 24, 40], "sw_batch_size": 3}
    )
    with opened(bundle) as read:
        plan, _ = plan_of(read)
    workflow = engine.workflow_of(bundle, engine.Plan(**plan.model_dump()), torch.device("cpu"))
    phantom = thorax_phantom(size=(60, 50, 20), spacing_mm=(2.1, 2.5, 5.0))
    given = torch.from_numpy(phantom.hu.astype(np.int16)), torch.from_numpy(phantom.affine)
    usual = engine.analyse_as_it_fits(workflow, *given)
    assert usual.notes == ()
    less = engine.analyse_as_it_fits(replace(workflow, network=Hungry(workflow.network, 1)), *given)
    assert torch.equal(less.values, usual.values)
    assert less.notes == (
        "the memory was not enough for the usual way (the CPU): computed on the CPU, one window at a time",
    )
    with pytest.raises(MemoryError, match="out of memory: tried the CPU, then the CPU, one window at a time"):
        engine.analyse_as_it_fits(replace(workflow, network=Hungry(workflow.network, 0)), *given)


@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"_target_": "EnsureTyped", "keys": "pred", "track_meta": False}, "does not say where it lies"),
        (None, "values from 0 to .*, where whole numbers from 0 to 255 are expected"),
    ],
)
def test_an_answer_whose_place_or_meaning_is_lost_is_refused(
    last: dict[str, Any] | None, said: str, engine: Any, tmp_path: Path
) -> None:
    """Without its affine a label map is mirrored and nobody sees it; halfway between 1 and 3 is no 2."""
    bundle = small_bundle(tmp_path, inverted_first=False, inferer={"roi_size": [32, 24, 40]})
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    _, argmax, invert, *_ = config["postprocessing"]["transforms"]
    steps = [argmax, last] if last else [argmax, invert | {"nearest_interp": False}]
    config["postprocessing"]["transforms"] = steps
    file.write_text(json.dumps(config))
    with opened(bundle) as read:
        plan, _ = plan_of(read)
    workflow = engine.workflow_of(bundle, engine.Plan(**plan.model_dump()), torch.device("cpu"))
    phantom = thorax_phantom(size=(60, 50, 20), spacing_mm=(2.1, 2.5, 5.0))
    with pytest.raises(engine.BundleError, match=said):
        engine.analyse(
            workflow, torch.from_numpy(phantom.hu.astype(np.int16)), torch.from_numpy(phantom.affine)
        )


class Other(torch.nn.Module):
    """A network that answers on a grid of its own, or with what is no number."""

    def __init__(self, network: torch.nn.Module, what: str) -> None:
        super().__init__()
        self.network, self.what = network, what

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.network(image)
        if self.what == "finer":
            return torch.nn.functional.interpolate(scores, scale_factor=2)
        if self.what == "cut":
            return scores[:, :, : scores.shape[2] // 2]
        scores[..., 5, 5, 5] = torch.nan
        return scores


@pytest.mark.parametrize("way", ["resampled", "by itself", "masks"])
@pytest.mark.parametrize(
    ("what", "said"),
    [("finer", "another grid than"), ("cut", "another grid than"), ("NaN", "are no numbers")],
)
def test_scores_that_mean_nothing_are_refused(
    what: str, said: str, way: str, engine: Any, tmp_path: Path
) -> None:
    """Of NaN the background would be made, and of another grid organs at another place."""
    bundle = small_bundle(tmp_path, inverted_first=way == "by itself", inferer={})
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["inferer"] = {"_target_": "SimpleInferer"}
    config["preprocessing"]["transforms"].append(
        {"_target_": "Resized", "keys": "image", "spatial_size": [32, 32, 32]}
    )
    if way == "masks":
        config["postprocessing"]["transforms"] = [
            {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}
        ]
    file.write_text(json.dumps(config))
    with opened(bundle) as read:
        plan, _ = plan_of(read)
    workflow = engine.workflow_of(bundle, engine.Plan(**plan.model_dump()), torch.device("cpu"))
    phantom = thorax_phantom(size=(60, 50, 20), spacing_mm=(2.1, 2.5, 5.0))
    given = torch.from_numpy(phantom.hu.astype(np.int16)), torch.from_numpy(phantom.affine)
    assert engine.analyse(workflow, *given).values.shape[-3:] == given[0].shape
    with pytest.raises(engine.BundleError, match=said):
        engine.analyse(replace(workflow, network=Other(workflow.network, what)), *given)


def test_masks_that_may_overlap_are_the_authors(engine: Any, tmp_path: Path) -> None:
    bundle = small_bundle(tmp_path, inverted_first=True, inferer={"roi_size": [32, 24, 40]})
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    _, invert, _, _, save = config["postprocessing"]["transforms"]
    sigmoid = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
    threshold = {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}
    config["postprocessing"]["transforms"] = [sigmoid, invert, threshold, save]
    file.write_text(json.dumps(config))
    phantom = thorax_phantom(size=(60, 50, 20), spacing_mm=(2.1, 2.5, 5.0), orientation="PIR")
    volume = phantom.hu.astype(np.int16)
    with opened(bundle) as read:
        plan, code = plan_of(read)
    assert (plan.output, code) == ("masks", [])
    workflow = engine.workflow_of(bundle, engine.Plan(**plan.model_dump()), torch.device("cpu"))
    ours = engine.analyse(workflow, torch.from_numpy(volume), torch.from_numpy(phantom.affine)).values.numpy()
    theirs = as_the_author_runs_it(bundle, volume, phantom.affine, tmp_path / "author")
    assert ours.shape == (5, *volume.shape)
    assert len(np.unique(ours.sum(axis=0))) > 1
    assert (ours == theirs).mean() >= 0.999


def test_mixed_precision_is_the_authors(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 on the CPU: `amp` by itself means nothing without a GPU, in MONAI as here."""
    bundle = small_bundle(tmp_path, inverted_first=True, inferer={"roi_size": [32, 24, 40]})
    phantom = thorax_phantom(size=(60, 50, 20), spacing_mm=(2.1, 2.5, 5.0), orientation="PIR")
    volume = phantom.hu.astype(np.int16)
    with opened(bundle) as read:
        plan, _ = plan_of(read)
    assert plan.amp
    workflow = engine.workflow_of(bundle, engine.Plan(**plan.model_dump()), torch.device("cpu"))
    given = torch.from_numpy(volume), torch.from_numpy(phantom.affine)
    exact = engine.analyse(workflow, *given).values.numpy()
    monkeypatch.setattr(
        sys.modules["bundle_engine.analysis"],
        "autocast_of",
        lambda workflow: torch.autocast("cpu", dtype=torch.bfloat16),
    )
    ours = engine.analyse(workflow, *given).values.numpy()
    theirs = as_the_author_runs_it(bundle, volume, phantom.affine, tmp_path / "author", mixed=True)
    assert (ours != exact).any()  # or nothing was computed in less precision
    assert (ours == theirs).mean() >= 0.995


def test_several_sequences_are_the_authors(engine: Any, tmp_path: Path) -> None:
    bundle = brain_tumour_bundle(tmp_path)
    with opened(bundle) as read:
        plan, code = plan_of(read)
    assert (plan.output, plan.channels, code) == ("masks", 4, [])
    workflow = engine.workflow_of(bundle, engine.Plan(**plan.model_dump()), torch.device("cpu"))
    phantom = thorax_phantom(size=(40, 36, 20), spacing_mm=(4.1, 4.5, 5.0))
    channels = [(phantom.hu.astype(np.int16) + 1024) * number for number in (1, 2, 3, 4)]
    channels[2] = channels[2][:, ::-1].copy()
    volume = torch.from_numpy(np.stack(channels))
    ours = engine.analyse(workflow, volume, torch.from_numpy(phantom.affine)).values.numpy()
    theirs = as_the_author_runs_it(bundle, channels, phantom.affine, tmp_path / "author")
    assert ours.shape == (3, *phantom.hu.shape)
    core, whole, enhancing = ours > 0
    merged = np.where(enhancing, 4, np.where(core, 1, np.where(whole, 2, 0)))
    assert len(np.unique(theirs)) > 2
    assert (merged == theirs).mean() >= 0.999
    for wrong in (volume[0], volume[:3]):
        with pytest.raises(engine.BundleError, match="takes 4 series"):
            engine.analyse(workflow, wrong, torch.from_numpy(phantom.affine))


SOFTMAX = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
SIGMOID = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
ONE_OF_THREE = {"_target_": "AsDiscreted", "keys": ["pred"], "argmax": True, "to_onehot": 3}


@pytest.mark.parametrize(
    ("after", "said", "activation"),
    [
        ([SOFTMAX, ONE_OF_THREE], "classes", "softmax"),
        ([{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}], "probabilities", ""),
        ([SIGMOID, {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}], "classes", "sigmoid"),
        ([], "regression", ""),
    ],
)
def test_what_is_said_of_a_whole_volume_is_what_the_author_gets(
    after: list[dict[str, Any]], said: str, activation: str, engine: Any, tmp_path: Path
) -> None:
    bundle = whole_volume_bundle(tmp_path, after=after, names=["a", "b", "c"], said=said)
    with opened(bundle) as read:
        plan, code = plan_of(read)
    assert (plan.output, plan.activation, code) == ("values" if not after else "classes", activation, [])
    workflow = engine.workflow_of(bundle, engine.Plan(**plan.model_dump()), torch.device("cpu"))
    phantom = thorax_phantom(size=(40, 36, 20), spacing_mm=(4.1, 4.5, 5.0), orientation="PIR")
    given = torch.from_numpy(phantom.hu.astype(np.int16)), torch.from_numpy(phantom.affine)
    ours = engine.analyse(workflow, *given).values.numpy()
    theirs = as_the_author_runs_it(bundle, phantom.hu.astype(np.int16), phantom.affine, tmp_path / "author")
    if plan.output == "values":
        assert np.allclose(ours, theirs)
        return
    probabilities, decided = ours
    assert np.isnan(probabilities).all() == (not activation)
    assert np.array_equal(decided, theirs if len(theirs) == 3 else np.eye(3)[int(theirs[0])])
    if activation == "sigmoid":
        assert np.array_equal(decided, probabilities >= 0.5)
    elif activation:
        assert probabilities.argmax() == decided.argmax()


def test_a_network_that_looks_at_voxels_is_no_classifier(engine: Any, tmp_path: Path) -> None:
    bundle = whole_volume_bundle(tmp_path, after=[SOFTMAX], names=["a", "b"], said="classes")
    file = bundle / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network_def"] = {"_target_": "SegResNet", "in_channels": 1, "out_channels": 2, "init_filters": 8}
    file.write_text(json.dumps(config))
    draw_weights(bundle)
    with opened(bundle) as read:
        plan, _ = plan_of(read)
    workflow = engine.workflow_of(bundle, engine.Plan(**plan.model_dump()), torch.device("cpu"))
    with pytest.raises(engine.BundleError, match="where one number for each class or value is expected"):
        engine.analyse(workflow, torch.ones(9, 9, 9), torch.eye(4, dtype=torch.float64))


def test_a_model_is_warm_after_a_volume_that_is_no_patient(engine: Any, tmp_path: Path) -> None:
    with opened(threshold_bundle(tmp_path / "bundle", 300)) as bundle:
        plan = plan_of(bundle)[0]
        (tmp_path / "plan.json").write_text(plan.model_dump_json())
        read = engine.read_plan(tmp_path / "plan.json")
        engine.warm_up(engine.workflow_of(bundle.folder, read, torch.device("cpu")))
