"""Bundles that detect: what is read of them, what is refused, and that their boxes are those that MONAI gives."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detection_bundle import (
    SIDE_MM,
    ball_bundle,
    boxes_as_the_author_gets_them,
    with_balls,
    with_scripts,
)

from isocenter.bundles import detection
from isocenter.bundles.bundle import opened
from isocenter.bundles.description import Description, description_of
from isocenter.bundles.detection import words_of
from isocenter.bundles.expression import is_plain
from isocenter.bundles.plan import Plan, plan_of
from isocenter_operators.errors import ConfigurationError
from isocenter_operators.testing import thorax_phantom

ENGINE = Path(__file__).parents[2] / "triton_models" / "monai_bundle" / "1"
pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's and torch's own, of their own versions
RIGHT, LEFT = (-60.0, 10.0, 0.0), (50.0, -20.0, 20.0)  # LPS mm
RESNET = (
    "$monai.networks.nets.resnet.resnet10("
    "spatial_dims=3,n_input_channels=1,conv1_t_stride=[2,2,1],conv1_t_size=[7,7,7])"
)
FEATURES = "$monai.apps.detection.networks.retinanet_network.resnet_fpn_feature_extractor(@backbone,3,False,[1,2],None)"


@pytest.fixture
def engine() -> Iterator[Any]:
    sys.path.insert(0, str(ENGINE))
    try:
        import bundle_engine

        yield bundle_engine
    finally:
        sys.path.remove(str(ENGINE))


def in_the_words_of_the_zoo() -> dict[str, Any]:
    """A backbone and its features as lung_nodule_ct_detection has them, of fewer layers."""
    return {
        "anchor_generator": {
            "_target_": "monai.apps.detection.utils.anchor_utils.AnchorGeneratorWithAnchorShape",
            **{"feature_map_scales": [1, 2, 4], "base_anchor_shapes": [[6, 8, 4], [8, 6, 5], [10, 10, 6]]},
        },
        "backbone": RESNET,
        "feature_extractor": FEATURES,
        "network_def": {
            "_target_": "RetinaNet",
            **{
                "spatial_dims": 3,
                "num_classes": 1,
                "num_anchors": 3,
                "feature_extractor": "@feature_extractor",
            },
            **{"size_divisible": [16, 16, 8], "use_list_output": False},
        },
    }


def read(folder: Path) -> tuple[Plan, list[str], Description]:
    with opened(folder) as bundle:
        plan, code = plan_of(bundle)
        return plan, code, description_of(bundle, plan)


def changed(folder: Path, change: Callable[[dict[str, Any]], object], file: str = "inference.json") -> Path:
    path = folder / "configs" / file
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return folder


def test_a_detector_is_understood_and_none_of_its_words_is_code(tmp_path: Path) -> None:
    plan, code, description = read(ball_bundle(tmp_path))
    assert (plan.output, plan.image_key, plan.own_code, code) == ("boxes", "image", False, [])
    assert set(plan.configuration) >= {"network", "detector", "detector_ops", "anchor_generator", "inferer"}
    assert not {"evaluator", "handlers", "dataset", "initialize"} & set(plan.configuration)
    assert plan.configuration["inferer"]["_target_"] == "bundle_engine.detector.DetectorInferer"
    assert len(plan.configuration["detector_ops"]) == 3
    assert (description.labels, description.notes) == ({1: "lung nodule"}, ())
    assert description.accepts == {"oblique_degrees": {"at_most": 2}}


def test_what_its_boxes_are_of_says_its_name_where_nothing_else_does(tmp_path: Path) -> None:
    bundle = ball_bundle(tmp_path, named=False)
    description = read(bundle)[2]
    assert description.labels == {1: "Lung nodule"}
    assert description.notes == (
        'metadata.json does not say what its boxes are of (channel_def); after its name, it is "Lung nodule"',
    )
    changed(bundle, lambda m: m.update(name="CT detection"), "metadata.json")
    with pytest.raises(ConfigurationError, match="what its boxes are of is not said"):
        read(bundle)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"0": "nodule", "1": "lymph node"}, "channel_def names 2 classes, and the network has 1"),
        ({"0": "-"}, "'-' is no name, or that of two channels"),
        ({"0": "background"}, "the background is no class of boxes"),
        ({"1": "nodule"}, "channel_def does not name every channel from 0 on"),
    ],
)
def test_names_that_are_not_those_of_its_classes_are_refused(
    names: dict[str, str], said: str, tmp_path: Path
) -> None:
    def name(metadata: dict[str, Any]) -> None:
        metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = names

    bundle = changed(ball_bundle(tmp_path), name, "metadata.json")
    with pytest.raises(ConfigurationError, match=said) as refused:
        read(bundle)
    assert "metadata.json" in str(refused.value)


def test_a_network_that_is_given_its_spacing_takes_no_other(tmp_path: Path) -> None:
    description = read(ball_bundle(tmp_path, spacing=False))[2]
    assert description.accepts["pixel_spacing_mm"] == {"at_least": 2.7, "at_most": 3.3}
    assert description.accepts["slice_spacing_mm"] == {"at_least": 2.7, "at_most": 3.3}
    assert description.accepts["planes"] == ["axial"]  # of other slices the three numbers are of other axes
    assert "Spacingd to 3 x 3 x 3 mm is switched off in configs/inference.json" in description.notes[0]


def test_scripts_are_code_but_for_those_that_are_the_zoos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = with_scripts(ball_bundle(tmp_path), tmp_path)
    plan, code, _ = read(bundle)
    assert plan.own_code
    assert plan.configuration["inferer"]["_target_"] == "scripts.detection_inferer.RetinaNetInferer"
    assert code == [
        "inferer: scripts.detection_inferer.RetinaNetInferer",
        *(f"scripts/{name}.py" for name in ("__init__", "detection_inferer", "detection_saver", "evaluator")),
    ]
    script = bundle / "scripts" / "detection_inferer.py"
    written = ast.parse(script.read_text()).body[-1]
    assert isinstance(written, ast.ClassDef)
    digest = hashlib.sha256(words_of(written).encode()).hexdigest()
    monkeypatch.setattr(detection, "INFERERS_OF_THE_ZOO", {digest: {"detector"}})
    plan, code, _ = read(bundle)
    assert (plan.own_code, code) == (False, [])
    assert plan.configuration["inferer"]["_target_"] == "bundle_engine.detector.DetectorInferer"
    script.write_text(
        script.read_text().replace("def __call__(self, inputs,", "def __call__(self, inputs: list,")
    )
    assert read(bundle)[1] == []  # an annotation changes nothing
    changed(bundle, lambda config: config["inferer"].update(force_sliding_window=True))
    assert read(bundle)[0].own_code  # this one does not know that word
    changed(bundle, lambda config: config["inferer"].pop("force_sliding_window"))
    script.write_text(script.read_text().replace(">= window", "> window"))
    assert read(bundle)[0].own_code


def _drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda config: config.pop(key)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop("inferer"), "evaluator: DetectionEvaluator without an inferer can not be honoured"),
        (
            lambda c: c["detector"].update(_target_="YoloDetector"),
            "inferer: its detector has to be a part of its own that is a RetinaNetDetector: detector is",
        ),
        (
            lambda c: c["inferer"].update(_target_="scripts.other.TestTimeInferer"),
            "inferer: TestTimeInferer can not be honoured: only RetinaNetInferer",
        ),
        (
            lambda c: c["detector_ops"].append("$@detector.set_cls_loss(@loss)"),
            r"detector_ops::3: '\$@detector.set_cls_loss\(@loss\)' before the evaluation can not be honoured",
        ),
        (
            lambda c: c["detector_ops"].append("$@detector.set_box_selector_parameters(apply_sigmoid=False)"),
            "detector_ops::3: apply_sigmoid that is not true can not be honoured: scores are no probabilities",
        ),
        (
            lambda c: c["detector_ops"].append(
                "$@detector.set_box_selector_parameters(0.1, 9, 0.2, 9, False)"
            ),
            "detector_ops::3: apply_sigmoid that is not true can not be honoured",
        ),
        (
            lambda c: c["detector_ops"].append("$@detector.set_box_selector_parameters(**@more)"),
            "before the evaluation can not be honoured",
        ),
        (
            lambda c: c["initialize"].append("$@detector.set_box_selector_parameters(score_thresh=0.9)"),
            "initialize::1: .* sets something on the detector, and the evaluator does not require it",
        ),
        (
            lambda c: c["handlers"][1].update(output_transform="$lambda x: [xx['pred'] for xx in x]"),
            "DetectionSaver with output_transform .* can not be honoured",
        ),
        (
            lambda c: c["postprocessing"]["transforms"].insert(
                0, {"_target_": "FlipBoxd", "box_keys": "box"}
            ),
            "postprocessing::transforms::0: FlipBoxd after the detector can not be honoured",
        ),
        (
            lambda c: c["postprocessing"]["transforms"].pop(1),
            r"has to bring the boxes into the patient \(AffineBoxToWorldCoordinated\) once",
        ),
        (
            lambda c: c["postprocessing"]["transforms"].reverse(),
            "AffineBoxToWorldCoordinated after ConvertBoxModed can not be honoured",
        ),
        (
            lambda c: c["postprocessing"]["transforms"][2].update(dst_mode="polar"),
            "ConvertBoxModed from xyzxyz to polar can not be honoured",
        ),
        (
            lambda c: c["network_def"].update(spatial_dims=2),
            "its network has two dimensions and no SliceInferer gives it slices: it is for pictures",
        ),
        (
            lambda c: c["preprocessing"]["transforms"][0].update(affine_lps_to_ras=False),
            "LoadImaged with affine_lps_to_ras: false can not be honoured",
        ),
        (
            lambda c: c["preprocessing"]["transforms"].append({"_target_": "RandFlipd", "keys": "image"}),
            "preprocessing::transforms::7: RandFlipd can not be honoured here: it is random",
        ),
    ],
)
def test_what_can_not_be_honoured_is_refused_with_file_and_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    bundle = changed(ball_bundle(tmp_path), change)
    with pytest.raises(ConfigurationError, match=said) as refused:
        read(bundle)
    assert "configs/inference.json" in str(refused.value)


def test_an_evaluator_that_does_more_is_refused(tmp_path: Path) -> None:
    bundle = with_scripts(ball_bundle(tmp_path), tmp_path)
    file = bundle / "scripts" / "evaluator.py"
    file.write_text(file.read_text() + "\n    def _iteration(self, engine, batch):\n        return {}\n")
    with pytest.raises(ConfigurationError, match="DetectionEvaluator has _iteration of its own"):
        read(bundle)


@pytest.mark.parametrize(
    ("expression", "plain"),
    [
        (RESNET, True),
        (FEATURES, True),
        (RESNET.replace("resnet10(", "resnet10(pretrained=True,"), False),
        (RESNET.replace("resnet10(", "resnet10(True,"), False),
        (RESNET.replace("resnet10(", "resnet10(**@options,"), False),
        ("$@detector.set_target_keys(box_key='box', label_key='label')", True),
        ("$@detector.set_target_keys(box_key=os.getcwd(), label_key='label')", False),
        ("$@detector.load_state_dict(state='x')", False),
        ("$monai.apps.detection.networks.retinanet_network._resnet_fpn_extractor(@backbone)", False),
    ],
)
def test_words_of_detectors(expression: str, plain: bool) -> None:
    assert is_plain(expression[1:]) == plain


@pytest.mark.parametrize(
    ("orientation", "size", "options"),
    [
        ("PIR", (40, 44, 52), {"box_mode": "xyzxyz", "in_lps": False}),
        (
            "LPS",
            (30, 28, 20),
            {"network": in_the_words_of_the_zoo(), "window": (32, 32, 16), "score_thresh": 0.0095},
        ),
    ],
)
def test_the_boxes_are_the_authors(
    orientation: str, size: tuple[int, int, int], options: dict[str, Any], engine: Any, tmp_path: Path
) -> None:
    """With windows and without, in corners and in centres, RAS and LPS: as `monai.bundle` gives them by itself."""
    bundle = ball_bundle(tmp_path, **options)
    phantom = thorax_phantom(size=size, spacing_mm=(3.1, 3.3, 2.9), orientation=orientation)
    phantom = with_balls(phantom, [(RIGHT, 2000), (LEFT, 1800)])
    plan, code, _ = read(bundle)
    assert code == []
    workflow = engine.workflow_of(bundle, engine.Plan(**plan.model_dump()), torch.device("cpu"))
    answer = engine.analyse(workflow, torch.from_numpy(phantom.hu), torch.from_numpy(phantom.affine))
    theirs = boxes_as_the_author_gets_them(bundle, phantom.hu, phantom.affine, tmp_path / "author")
    boxes = theirs["box"]
    if "box_mode" in options:  # corners in RAS
        low, high = boxes[:, :3], boxes[:, 3:]
        boxes = np.hstack([(low + high) / 2 * (-1, -1, 1), high - low])
        assert len(boxes) >= 2
    else:
        assert len(boxes) > 20
        assert len({tuple(np.round(each, 1)) for each in boxes[:, 3:]}) > 2
    assert answer.values.shape == boxes.shape
    assert np.abs(answer.values.numpy() - boxes).max() < 1e-3
    assert np.allclose(answer.further["scores"].numpy(), theirs["label_scores"], atol=1e-6)
    assert np.array_equal(answer.further["classes"].numpy(), theirs["label"] + 1)


def test_a_bright_ball_is_found_where_it_is(engine: Any, tmp_path: Path) -> None:
    bundle = ball_bundle(tmp_path)
    plain = thorax_phantom(size=(60, 50, 22), spacing_mm=(3.1, 3.3, 5.0))
    phantom = with_balls(plain, [(LEFT, 1800), (RIGHT, 2000)])
    workflow = engine.workflow_of(bundle, engine.Plan(**read(bundle)[0].model_dump()), torch.device("cpu"))
    affine = torch.from_numpy(phantom.affine)
    answer = engine.analyse_as_it_fits(workflow, torch.from_numpy(phantom.hu), affine)
    assert np.abs(answer.values[:, :3].numpy() - (RIGHT, LEFT)).max() < 6.5
    assert answer.values[:, 3:].numpy() == pytest.approx(SIDE_MM)
    assert answer.further["scores"][0] > answer.further["scores"][1] > 0.5
    nothing = engine.analyse(workflow, torch.from_numpy(plain.hu), affine)
    assert nothing.values.shape == (0, 6)
    assert nothing.further["scores"].shape == nothing.further["classes"].shape == (0,)

    oblique = thorax_phantom(size=(40, 35, 30), spacing_mm=(6.0, 6.0, 5.0), oblique_deg=5.0)
    with pytest.raises(engine.BundleError, match=r"lies \d\.\d degrees askew to the patient's axes"):
        engine.analyse(workflow, torch.from_numpy(oblique.hu), torch.from_numpy(oblique.affine))


def test_windows_that_do_not_fit_are_looked_at_one_by_one(engine: Any, tmp_path: Path) -> None:
    bundle = ball_bundle(tmp_path, window=(40, 40, 36))
    phantom = thorax_phantom(size=(40, 40, 48), spacing_mm=(3.0, 3.0, 3.0))
    phantom = with_balls(phantom, [((-9.0, 9.0, -9.0), 2000)])
    workflow = engine.workflow_of(bundle, engine.Plan(**read(bundle)[0].model_dump()), torch.device("cpu"))
    given = torch.from_numpy(phantom.hu), torch.from_numpy(phantom.affine)
    usual = engine.analyse_as_it_fits(workflow, *given)
    assert len(usual.values) == 1
    assert usual.notes == ()

    class Hungry(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = workflow.network

        def forward(self, windows: torch.Tensor) -> Any:
            if len(windows) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return self.network(windows)

    less = engine.analyse_as_it_fits(replace(workflow, network=Hungry()), *given)
    assert torch.allclose(less.values, usual.values, atol=1e-3)
    assert "computed on the CPU, one window at a time" in less.notes[0]
