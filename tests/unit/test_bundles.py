"""Bundles read without being run: what is run is found, what is code is shown, what can not be honoured is refused."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from zoo import brain_tumour_bundle, whole_volume_bundle

from isocenter.bundles.bundle import opened
from isocenter.bundles.description import description_of
from isocenter.bundles.expression import CannotTell, is_plain, value_of
from isocenter.bundles.installing import add_version, install, remove
from isocenter.bundles.plan import Plan, plan_of
from isocenter.cli import main
from isocenter_operators.bundle_application import BundleApplication
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.errors import ConfigurationError
from isocenter_operators.manifest import read_manifest
from isocenter_operators.run import Folder, Run

ROOT = Path(__file__).parents[2]
ZOO = ROOT.parent / "shared" / "model-zoo"
pytestmark = pytest.mark.skipif(not ZOO.is_dir(), reason="the Model Zoo's configurations are not here")


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    """A bundle of the zoo, with a file for its weights, and its configurations changed."""

    def made(
        name: str = "spleen_ct_segmentation",
        change: Callable[[dict[str, Any]], object] = lambda config: None,
        describe: Callable[[dict[str, Any]], object] = lambda metadata: None,
    ) -> Path:
        folder = tmp_path / name
        shutil.copytree(ZOO / name, folder)
        (folder / "models").mkdir()
        (folder / "models" / "model.pt").write_bytes(b"weights")
        for file, changed in (("inference.json", change), ("metadata.json", describe)):
            content = json.loads((folder / "configs" / file).read_text())
            changed(content)
            (folder / "configs" / file).write_text(json.dumps(content))
        return folder

    return made


def planned(folder: Path) -> tuple[Plan, list[str]]:
    with opened(folder) as read:
        return plan_of(read)


@pytest.mark.parametrize(
    ("name", "labels", "first", "modality"),
    [
        ("spleen_ct_segmentation", 1, "spleen", "CT"),
        ("swin_unetr_btcv_segmentation", 13, "spleen", "CT"),
        ("ventricular_short_axis_3label", 3, "lv_pool", "MR"),
        ("wholeBody_ct_segmentation", 104, "spleen", "CT"),
    ],
)
def test_every_bundle_of_the_zoo_is_understood_and_none_of_its_words_is_code(
    bundle: Callable[..., Path], name: str, labels: int, first: str, modality: str
) -> None:
    with opened(bundle(name)) as read:
        plan, code = plan_of(read)
        description = description_of(read, plan)
    assert code == []
    assert set(plan.configuration) >= {"network", "preprocessing", "inferer", "postprocessing"}
    assert not {"evaluator", "dataloader", "datalist", "run"} & set(plan.configuration)
    assert (plan.weights, plan.weights_key, plan.own_code) == ("models/model.pt", "model", False)
    assert (plan.image_key, plan.output_key, plan.output) == ("image", "pred", "labels")
    assert plan.amp == (name != "ventricular_short_axis_3label")
    assert len(description.labels) == labels
    assert description.labels[1].lower() == first
    assert description.modality == modality


def test_parts_are_found_by_the_evaluator_whatever_they_are_called(bundle: Callable[..., Path]) -> None:
    def rename(config: dict[str, Any]) -> None:
        config["net"] = config.pop("network")
        config["before"] = config.pop("preprocessing")
        config["evaluator"]["network"] = "@net"
        config["dataset"]["transform"] = "@before"
        config["postprocessing"]["transforms"][1]["transform"] = "@before"
        config["evaluator"]["inferer"] = config.pop("inferer")
        config["checkpointloader"]["load_dict"] = {"state": "@net"}

    plan, code = planned(bundle(change=rename))
    assert code == []
    assert plan.configuration["network"] == "$@network_def.to(@device)"
    assert plan.configuration["inferer"]["_target_"] == "SlidingWindowInferer"
    steps = plan.configuration["preprocessing"]["transforms"]
    assert [step["_target_"] for step in steps][:2] == ["EnsureChannelFirstd", "Orientationd"]
    (inverse,) = (
        step for step in plan.configuration["postprocessing"]["transforms"] if step["_target_"] == "Invertd"
    )
    assert inverse["transform"] == "@preprocessing"
    assert plan.weights_key == "state"


def test_what_is_code_is_shown_with_where_it_stands(bundle: Callable[..., Path]) -> None:
    def with_code(config: dict[str, Any]) -> None:
        config["imports"].append("$import scripts")
        config["network_def"]["_target_"] = "scripts.net.Net"
        config["preprocessing"]["transforms"][3]["pixdim"] = "$scripts.spacing()"
        config["somewhere else"] = "$os.system('never used')"

    folder = bundle(change=with_code)
    (folder / "scripts").mkdir()
    for name in ("net.py", "fast.so"):
        (folder / "scripts" / name).write_text("raise SystemExit('it ran')")
    plan, code = planned(folder)
    assert plan.own_code
    assert "somewhere else" not in plan.configuration
    assert sorted(code) == [
        "imports::3: $import scripts",
        "network_def: scripts.net.Net",
        "preprocessing::transforms::2::pixdim: $scripts.spacing()",
        "scripts/fast.so",
        "scripts/net.py",
    ]


@pytest.mark.parametrize(
    "step",
    [
        {"_target_": "run_cmd", "cmd_list": ["touch", "x"]},
        {"_target_": "monai.utils.misc.os.system", "command": "touch x"},
        {"_target_": "os.system", "command": "touch x"},
        {"_target_": "torch.hub.load", "repo_or_dir": "x", "model": "y"},
        {"_target_": "monai.bundle.download", "name": "x"},
        {"_target_": "@t"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "_mode_": "debug"},
        {"_target_": "Lambdad", "keys": "image", "func": "$__import__('os').system"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "$@hidden"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "https://elsewhere/axcodes"},
    ],
)
def test_nothing_runs_without_trust(bundle: Callable[..., Path], step: dict[str, Any]) -> None:
    def with_step(config: dict[str, Any]) -> None:
        config["t"] = "os.system"
        config["hidden"] = "$[each for each in ().__class__.__bases__]"
        config["preprocessing"]["transforms"].append(step)

    plan, code = planned(bundle(change=with_step))
    assert len(code) == 1
    assert plan.own_code


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("$@##hidden", "a relative reference is not followed here"),
        ("@##hidden", "a relative reference is not followed here"),
        ("%other.json::key", "a macro is not followed here"),
        ("@nowhere", "there is no part 'nowhere'"),
    ],
)
def test_a_reference_that_can_not_be_followed_is_refused(
    bundle: Callable[..., Path], text: str, said: str
) -> None:
    def refer(config: dict[str, Any]) -> None:
        config["preprocessing"]["transforms"][2]["axcodes"] = text

    folder = bundle(change=refer)
    with pytest.raises(ConfigurationError, match=said):
        planned(folder)


def test_masks_that_are_merged_for_a_file_are_kept_apart(tmp_path: Path) -> None:
    folder = brain_tumour_bundle(tmp_path)
    with opened(folder) as read:
        plan, code = plan_of(read)
        description = description_of(read, plan)
    assert (code, plan.channels, plan.output) == ([], 4, "masks")
    assert [step["_target_"] for step in plan.configuration["postprocessing"]["transforms"]] == [
        *("Activationsd", "Invertd", "AsDiscreted"),
    ]
    assert [rule.name for rule in description.sequences] == ["T1c", "T1", "T2", "FLAIR"]
    assert list(description.labels.values()) == ["Tumor core", "Whole tumor", "Enhancing tumor"]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("$lambda x: torch.where(x[[2]] > 0, os.system('x'), 0)", "Lambdad after the network can not"),
        ("$lambda x: torch.where(x[[2]] > x[[1]], 4, 0)", "Lambdad after the network can not"),
        ("$lambda x: x", "Lambdad after the network can not"),
        ("$lambda x: 0", "Lambdad after the network can not"),
    ],
)
def test_no_other_function_is_taken_for_merging(tmp_path: Path, function: str, said: str) -> None:
    folder = brain_tumour_bundle(tmp_path)
    file = folder / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["postprocessing"]["transforms"][3]["func"] = function
    file.write_text(json.dumps(config))
    with pytest.raises(ConfigurationError, match=said):
        planned(folder)


@pytest.mark.parametrize(
    ("value", "left_out"),
    [(True, True), (False, False), ("@off", True), ("@on", False), ("$not @off", False), ("$not @on", True)],
)
def test_a_transform_is_left_out_only_where_it_is_switched_off(
    bundle: Callable[..., Path], value: object, left_out: bool
) -> None:
    def switch(config: dict[str, Any]) -> None:
        config |= {"off": True, "on": False}
        config["preprocessing"]["transforms"][3]["_disabled_"] = value

    plan, _ = planned(bundle(change=switch))
    names = [step["_target_"] for step in plan.configuration["preprocessing"]["transforms"]]
    assert ("Spacingd" not in names) == left_out


def test_transforms_that_stand_elsewhere_are_found_or_refused(bundle: Callable[..., Path]) -> None:
    def move(config: dict[str, Any]) -> None:
        config["steps"] = config["preprocessing"]["transforms"]
        config["preprocessing"]["transforms"] = "$@steps"

    folder = bundle(change=move)
    plan, _ = planned(folder)
    names = [step["_target_"] for step in plan.configuration["preprocessing"]["transforms"]]
    assert names[:3] == ["EnsureChannelFirstd", "Orientationd", "Spacingd"]
    file = folder / "configs" / "inference.json"
    config = json.loads(file.read_text())
    for text, said in (("$@steps + []", "a list of transforms was expected"), ("@steps", "")):
        config["preprocessing"]["transforms"] = text
        file.write_text(json.dumps(config))
        if said:
            with pytest.raises(ConfigurationError, match=said):
                planned(folder)
        else:
            planned(folder)


def test_a_switch_that_only_running_would_tell_is_refused(bundle: Callable[..., Path]) -> None:
    def switch(config: dict[str, Any]) -> None:
        config["preprocessing"]["transforms"][3]["_disabled_"] = "$os.path.exists('x')"

    folder = bundle(change=switch)
    with pytest.raises(
        ConfigurationError, match="Spacingd: whether it is disabled can be told only by running"
    ):
        planned(folder)


@pytest.mark.parametrize(
    ("after", "format_", "said"),
    [
        ([], "classes", "neither probabilities .* nor a decision"),
        (
            [{"_target_": "Invertd", "keys": "pred"}],
            "classes",
            "Invertd after the network can not be honoured",
        ),
        (
            [{"_target_": "Activationsd", "keys": "pred", "softmax": True}],
            "regression",
            "Activationsd after the",
        ),
        (
            [{"_target_": "Activationsd", "keys": ["pred", "label"], "softmax": True}],
            "classes",
            "is for .*label.*, where there is only pred",
        ),
        (
            [{"_target_": "Activationsd", "keys": "pred", "softmax": True, "sigmoid": True}],
            "classes",
            "has to be softmax or sigmoid",
        ),
        (
            [
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            ],
            "classes",
            "AsDiscrete, then Activations after the network",
        ),
    ],
)
def test_of_a_whole_volume_only_activation_and_decision_are_honoured(
    tmp_path: Path, after: list[dict[str, Any]], format_: str, said: str
) -> None:
    folder = whole_volume_bundle(tmp_path, after=after, names=["a", "b"], said=format_)
    with pytest.raises(ConfigurationError, match=said):
        planned(folder)


@pytest.mark.parametrize("names", [["Normal", "normal "], ["Normal", " "], ["Normal", "-"]])
def test_classes_that_nobody_could_tell_apart_are_refused(tmp_path: Path, names: list[str]) -> None:
    soft = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
    folder = whole_volume_bundle(tmp_path, after=[soft], names=names, said="classes")
    with (
        opened(folder) as read,
        pytest.raises(ConfigurationError, match="is no name, or that of two channels"),
    ):
        description_of(read, plan_of(read)[0])


def test_a_network_for_pictures_is_refused(tmp_path: Path) -> None:
    soft = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
    folder = whole_volume_bundle(tmp_path, after=[soft], names=["a", "b"], said="classes")
    file = folder / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["network_def"]["spatial_dims"] = 2
    file.write_text(json.dumps(config))
    with pytest.raises(ConfigurationError, match="it is for pictures, and volumes are served"):
        planned(folder)


@pytest.mark.parametrize(
    ("channel", "said"),
    [("DWI", "'DWI' is no sequence that is known here"), ("T1ce", "names one sequence for two channels")],
)
def test_sequences_that_are_not_known_are_refused(tmp_path: Path, channel: str, said: str) -> None:
    folder = brain_tumour_bundle(tmp_path)
    file = folder / "configs" / "metadata.json"
    metadata = json.loads(file.read_text())
    metadata["network_data_format"]["inputs"]["image"]["channel_def"]["1"] = channel
    file.write_text(json.dumps(metadata))
    with opened(folder) as read, pytest.raises(ConfigurationError, match=said):
        description_of(read, plan_of(read)[0])


def test_how_a_site_names_its_sequences_holds_for_every_version(tmp_path: Path) -> None:
    folder = brain_tumour_bundle(tmp_path)
    places: dict[str, Any] = {
        "name": "tumour",
        "models": tmp_path / "models",
        "apps": tmp_path / "apps",
        "installed": ROOT / "triton_models",
    }
    with opened(folder) as read:
        plan, _ = plan_of(read)
        described = description_of(read, plan)
        app = install(read, plan, described, **places).app
        manifest = yaml.safe_load((app / "app.yaml").read_text())
        manifest["bundle"]["sequences"][0]["described"] = "KM"
        (app / "app.yaml").write_text(yaml.safe_dump(manifest))
        assert add_version(read, plan, described, loaded=["1"], **places).version == "2"
        second = Algorithm("tumour", "0", {"tumour": "2"})
        task = Run(Folder(tmp_path), Folder(tmp_path / "results"), algorithm=second)
        rules = BundleApplication(app, task)._bundle.sequences
        assert (rules[0].name, rules[0].described) == ("T1c", "KM")
        other = described.model_copy(update={"sequences": described.sequences[::-1]})
        with pytest.raises(ConfigurationError, match=r"its sequences is \['FLAIR', .* and not \['T1c', "):
            add_version(read, plan, other, loaded=["1"], **places)


@pytest.mark.parametrize(
    "expression",
    [
        "@network_def.to(@device)",
        "torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "[1.5, 1.5, 1.5] if @displayable_configs#highres else [3.0, 3.0, 3.0]",
        "@bundle_root + '/models/' + @modelname",
        "numpy.float32",
    ],
)
def test_plain_words(expression: str) -> None:
    assert is_plain(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "os.system('rm -rf /')",
        "__import__('os').system('x')",
        "().__class__.__bases__[0].__subclasses__()",
        "[each for each in range(3)]",
        "open('/etc/passwd').read()",
        "@network.__class__",
        "@network.load('x')",
        "(lambda: 1)()",
        "torch.load('x')",
        "f'{@network.__init__}'",
        "import os",
    ],
)
def test_code(expression: str) -> None:
    assert not is_plain(expression)
    with pytest.raises(CannotTell):
        value_of(expression, lambda id_: "x")


def _drop(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.pop(key)


@pytest.mark.parametrize(
    ("change", "describe", "said"),
    [
        (
            lambda c: c["preprocessing"]["transforms"].append({"_target_": "RandFlipd", "keys": "image"}),
            lambda m: None,
            r"inference\.json: preprocessing::transforms::6: RandFlipd can not be honoured here",
        ),
        (
            lambda c: c["preprocessing"]["transforms"][0].update(keys=["image", "label"]),
            lambda m: None,
            r"preprocessing::transforms::0: LoadImaged is for 2 entries \(image, label\); one can be served",
        ),
        (
            lambda c: c["postprocessing"]["transforms"].pop(2),
            lambda m: None,
            r"inference\.json: its postprocessing ends in neither a label map .* nor masks",
        ),
        (
            lambda c: (c.pop("network"), c.pop("network_def"), c["evaluator"].pop("network")),
            lambda m: None,
            r"inference\.json: there is no network in it",
        ),
        (
            lambda c: c["preprocessing"]["transforms"].append({"_target_": "Compose", "transforms": []}),
            lambda m: None,
            r"preprocessing::transforms::6: Compose in a Compose can not be honoured",
        ),
        (
            lambda c: c["postprocessing"]["transforms"].insert(
                3, {"_target_": "MapLabelValued", "keys": "pred", "orig_labels": [1], "target_labels": [7]}
            ),
            lambda m: None,
            r"MapLabelValued after the network can not be honoured: what its labels mean then is not known",
        ),
        (
            lambda c: c["postprocessing"]["transforms"][2].update(to_onehot=2),
            lambda m: None,
            r"AsDiscreted with to_onehot can not be honoured",
        ),
        (
            lambda c: c["evaluator"].update(_target_="EnsembleEvaluator"),
            lambda m: None,
            r"evaluator: EnsembleEvaluator can not be honoured, only SupervisedEvaluator",
        ),
        (
            lambda c: c["evaluator"].update(_target_="scripts.evaluator.DetectionEvaluator"),
            lambda m: None,
            "evaluator: DetectionEvaluator with postprocessing can not be honoured",
        ),
        (
            lambda c: c["evaluator"].update(prepare_batch="$scripts.prepare"),
            lambda m: None,
            r"evaluator: SupervisedEvaluator with prepare_batch can not be honoured",
        ),
        (
            lambda c: c["preprocessing"]["transforms"][0].update(reader="NumpyReader"),
            lambda m: None,
            r"LoadImaged with reader NumpyReader can not be honoured",
        ),
        (
            lambda c: c["checkpointloader"].update(
                load_path="$@bundle_root + '/../../../../../../etc/passwd'"
            ),
            lambda m: None,
            r"its weights are to be in .*passwd, and the bundle has no such file",
        ),
        (
            lambda c: None,
            lambda m: m["network_data_format"]["outputs"]["pred"].update(
                channel_def={"0": "liver", "1": "spleen"}
            ),
            r"channel_def: channel 0 is 'liver', and not the background",
        ),
        (
            lambda c: c["checkpointloader"].update(load_path="$@bundle_root + '/models/other.pt'"),
            lambda m: None,
            r"checkpointloader: its weights are to be in models/other\.pt, and the bundle has no such file",
        ),
        (
            lambda c: None,
            lambda m: m["network_data_format"]["inputs"]["image"].update(num_channels=4),
            r"4 channels of CT, 1 of which channel_def names",
        ),
        (
            lambda c: None,
            lambda m: m["network_data_format"]["outputs"]["pred"].update(
                channel_def={str(n): f"thing {n}" for n in range(300)}
            ),
            r"channel_def names 299 labels; at most 255 can be served",
        ),
        (lambda c: None, _drop("network_data_format"), r"metadata\.json: network_data_format\.outputs"),
        (
            lambda c: None,
            lambda m: m["network_data_format"]["outputs"]["pred"].pop("channel_def"),
            r"metadata\.json: network_data_format\.outputs: there is no channel_def",
        ),
        (
            lambda c: None,
            lambda m: m["network_data_format"]["outputs"]["pred"].update(channel_def={"0": "a", "2": "b"}),
            r"channel_def does not name every channel from 0 on",
        ),
        (
            lambda c: None,
            lambda m: m["network_data_format"]["inputs"]["image"].update(modality="XA"),
            r"metadata\.json: network_data_format\.inputs: modality is 'XA'",
        ),
    ],
)
def test_what_can_not_be_honoured_is_refused_with_file_and_name(
    bundle: Callable[..., Path], change: Any, describe: Any, said: str
) -> None:
    folder = bundle(change=change, describe=describe)
    with opened(folder) as read, pytest.raises(ConfigurationError, match=said):
        description_of(read, plan_of(read)[0])


def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "no.zip").write_bytes(b"PK no")
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.writestr("../outside.txt", "x")
    for name, said in (
        ("empty", "there is no configs/metadata.json in it"),
        ("nowhere", "there is no such folder or zip"),
        ("no.zip", "can not be unpacked"),
        ("out.zip", "would lie outside of the bundle"),
    ):
        with pytest.raises(ConfigurationError, match=said), opened(tmp_path / name):
            pass
    assert not (tmp_path.parent / "outside.txt").exists()


def test_an_import_makes_a_model_and_an_application_or_nothing(
    bundle: Callable[..., Path], tmp_path: Path
) -> None:
    folder = bundle()
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", folder.parent, folder.name)
    places = {
        "models": tmp_path / "models",
        "apps": tmp_path / "apps",
        "installed": ROOT / "triton_models",
    }
    with opened(Path(packed)) as read:
        plan, _ = plan_of(read)
        description = description_of(read, plan)
        imported = install(read, plan, description, name="spleen", **places)
        with pytest.raises(ConfigurationError, match="is there already"):
            install(read, plan, description, name="spleen", **places)
        with pytest.raises(ConfigurationError, match="is there already"):
            install(read, plan, description, name="ct_lung_density", **places)
    app = read_manifest(imported.app)
    assert (app.title, app.version, dict(app.models)) == ("Spleen CT segmentation", "0.5.9", {"spleen": "1"})
    assert app.accepts.modalities == ("CT",)
    assert yaml.safe_load((imported.app / "app.yaml").read_text())["bundle"]["labels"] == {1: "spleen"}
    version = imported.model / "1"
    assert (version / "bundle" / "models" / "model.pt").read_bytes() == b"weights"
    assert Plan.model_validate_json((version / "plan.json").read_text()) == plan
    assert 'name: "spleen"' in (imported.model / "config.pbtxt").read_text()
    assert sorted(each.name for place in ("models", "apps") for each in (tmp_path / place).iterdir()) == [
        "spleen",
        "spleen",
    ]


def test_code_is_shown_and_needs_trust(
    bundle: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = bundle()
    (folder / "scripts").mkdir()
    (folder / "scripts" / "steps.py").write_text("raise SystemExit('it ran')")
    monkeypatch.setenv("ISOCENTER_DATA_DIR", str(tmp_path / "data"))
    assert main(["models", "import", str(folder)]) == 2
    told = capfd.readouterr().err
    assert "  scripts/steps.py" in told
    assert "import it with --trust-code" in told
    assert not (tmp_path / "data" / "models" / folder.name).exists()
    assert main(["models", "import", str(folder), "--trust-code", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["code"] == ["scripts/steps.py"]
    assert main(["models"]) == 0
    assert "spleen_ct_segmentation" in capfd.readouterr().out
    assert main(["models", "remove", "ct_lung_density"]) == 2  # a route names it
    assert main(["models", "remove", "spleen_ct_segmentation"]) == 0
    assert main(["models", "remove", "spleen_ct_segmentation"]) == 2
    assert "was not imported" in capfd.readouterr().err
    assert not list((tmp_path / "data" / "models").iterdir())


def test_an_import_that_breaks_off_leaves_nothing_and_takes_no_name(
    bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"models": tmp_path / "models", "apps": tmp_path / "apps"}
    rename = Path.rename

    def no_room_for_apps(self: Path, target: Path) -> Path:
        if target.parent == places["apps"]:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    with opened(bundle()) as read:
        plan, _ = plan_of(read)
        given: dict[str, Any] = {"installed": ROOT / "triton_models", **places}
        description = description_of(read, plan)
        with pytest.raises(ConfigurationError, match="there is an application 'lung' already"):
            install(read, plan, description, name="lung", taken={"lung"}, **given)
        monkeypatch.setattr(Path, "rename", no_room_for_apps)
        with pytest.raises(ConfigurationError, match="No space left on device"):
            install(read, plan, description, name="spleen", **given)
    assert [list(each.iterdir()) for each in places.values()] == [[], []]


def test_only_what_was_imported_is_removed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    for name in (str(tmp_path / "other"), "../other", "nothing"):
        with pytest.raises(ConfigurationError, match="was not imported"):
            remove(name, models=tmp_path / "models", apps=tmp_path / "apps")
    assert (tmp_path / "other").is_dir()
    (tmp_path / "models" / "half").mkdir(parents=True)
    remove("half", models=tmp_path / "models", apps=tmp_path / "apps")
    assert not (tmp_path / "models" / "half").exists()
