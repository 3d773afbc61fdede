"""Only a variant that was measured, and agrees, becomes a version of its model; what was measured stays as it is."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from threshold_bundle import threshold_bundle

from isocenter.bundles.bundle import opened
from isocenter.bundles.plan import plan_of
from isocenter.catalog import Catalog
from isocenter.cli import model_optimise
from isocenter.cli.main import main
from isocenter.serving import Servings
from isocenter.settings import Settings
from isocenter.weights import digest_of
from isocenter_operators.testing import thorax_phantom, write_series

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "triton_models" / "monai_bundle" / "1"
pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's and torch's own


HEAD = (64, 50, 24)  # (x, y, z), voxels
SPACING_MM = (5.5, 6.0, 12.0)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ENGINE))
    from bundle_engine import fallback, plan, requirement, trial, variant, variation, workflow

    modules = (fallback, plan, requirement, trial, variant, variation, workflow)
    return type("Engine", (), {each.__name__.rpartition(".")[2]: each for each in modules})


@pytest.fixture
def windowed(engine: Any, tmp_path: Path) -> Any:
    """A workflow whose windows have one size."""
    return workflow_of(threshold_bundle(tmp_path / "windowed", 699, window=(32, 32, 16)), engine)


def workflow_of(bundle: Path, engine: Any, device: str = "cpu") -> Any:
    with opened(bundle) as read:
        plan, _ = plan_of(read)
    return engine.workflow.workflow_of(bundle, engine.plan.Plan(**plan.model_dump()), torch.device(device))


def volume() -> tuple[torch.Tensor, torch.Tensor]:
    phantom = thorax_phantom(size=HEAD, spacing_mm=SPACING_MM)
    return torch.from_numpy(phantom.hu), torch.from_numpy(phantom.affine)


def trials(workflow: Any, engine: Any, place: Path, *names: str) -> dict[str, Any]:
    reference = engine.trial.reference_of(workflow, [volume()])
    found = {}
    for variant in engine.variant.variants_for(workflow.device.type):
        if not names or variant.name in names:
            (place / variant.name).mkdir(parents=True)
            found[variant.name] = engine.trial.trial_of(
                workflow, variant, [volume()], reference, place=place / variant.name, bound_percent=99.9
            )
    return found


def test_each_variant_is_compared_with_the_network_as_it_is(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(network: torch.nn.Module) -> torch.nn.Module:
        raise RuntimeError("no C++ compiler was found\nand more")

    monkeypatch.setattr(torch, "compile", no_compiler)
    workflow = workflow_of(threshold_bundle(tmp_path / "bundle", 699), engine)
    tried = trials(workflow, engine, tmp_path / "tried")
    as_it_is, last, less = (tried[name] for name in ("as it is", "channels last", "bfloat16"))
    assert as_it_is.agreement_percent == as_it_is.least_dice_percent == 100
    assert (last.agreement_percent, last.agrees) == (100, True)
    # Eight bits of a number: what is within 2 HU or so of the threshold, as much bone is, falls to either side.
    expected = engine.fallback.analyse_as_it_fits(workflow, *volume()).values
    varied = engine.variation.as_varied(
        workflow, engine.variant.Variant("bfloat16", precision="bfloat16"), tmp_path
    )
    found = engine.fallback.analyse_as_it_fits(varied, *volume()).values
    both, either = int((expected & found).sum()), int(expected.sum() + found.sum())
    assert less.least_dice_percent == pytest.approx(200 * both / either)
    assert less.agreement_percent == pytest.approx(100 * float((expected == found).double().mean()))
    assert less.least_dice_percent < 99.9
    assert not less.agrees
    assert tried["compiled"].reason == "RuntimeError: no C++ compiler was found"
    assert tried["compiled"].seconds is None
    assert tried["ONNX Runtime"].reason == (
        "is made for windows of one size, and this network's follow the volume's"
    )


def test_what_is_not_here_is_named(engine: Any, windowed: Any, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as without:
        without.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
        tried = trials(windowed, engine, tmp_path / "none", "ONNX Runtime", "ONNX Runtime, int8")
        assert {each.reason for each in tried.values()} == {"onnxruntime is not installed"}
    tried = trials(windowed, engine, tmp_path / "cpu", "CUDA graph", "TensorRT")
    assert {each.reason for each in tried.values()} == {"needs a CUDA device"}
    with pytest.raises(engine.requirement.NotHere, match="no_such_runtime is not installed"):
        engine.requirement.module("no_such_runtime")
    on_gpu = {variant.name for variant in engine.variant.variants_for("cuda")}
    assert {"CUDA graph, float16", "TensorRT, float16", "ONNX Runtime, float16"} <= on_gpu
    assert "ONNX Runtime, int8" not in on_gpu


def test_onnx_runtime_gives_what_the_network_gives(engine: Any, windowed: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    tried = trials(windowed, engine, tmp_path / "tried", "ONNX Runtime", "ONNX Runtime, int8")
    exact, whole = tried["ONNX Runtime"], tried["ONNX Runtime, int8"]
    assert (exact.agreement_percent, exact.least_dice_percent, exact.agrees) == (100, 100, True)
    assert (exact.variant["window"], exact.variant["batch"]) == ((1, 32, 32, 16), 1)
    # 2048 HU and more in 255 steps: what is near the threshold falls to either side.
    assert whole.least_dice_percent is not None
    assert whole.least_dice_percent < 99.9
    assert not whole.agrees
    # Scores, not labels alone; and windows of another size, which the network computes itself.
    kept = tmp_path / "tried" / "ONNX Runtime"
    varied = engine.variation.loaded(windowed, engine.variant.Variant(**exact.variant), kept)
    for shape in ((3, 1, 32, 32, 16), (2, 1, 8, 9, 10)):
        windows = torch.randn(shape)
        torch.testing.assert_close(varied.network(windows), windowed.network(windows))
    (kept / "variant.onnx").write_bytes(
        (tmp_path / "tried" / "ONNX Runtime, int8" / "variant.onnx").read_bytes()
    )
    other = engine.variation.loaded(windowed, engine.variant.Variant(**exact.variant), kept)
    assert not torch.equal(
        other.network(torch.ones(1, 1, 32, 32, 16)), varied.network(torch.ones(1, 1, 32, 32, 16))
    )  # it is the file that computes


def test_a_batch_that_is_not_full_is_filled_and_cut(engine: Any) -> None:
    from bundle_engine.fixed_windows import FixedWindows

    given: list[tuple[int, ...]] = []

    def compute(windows: torch.Tensor) -> torch.Tensor:
        given.append(tuple(windows.shape))
        return 2 * windows

    network = FixedWindows(torch.nn.Identity(), (1, 4, 4, 4), 3, compute)
    windows = torch.randn(4, 1, 4, 4, 4)
    assert torch.equal(network(windows), 2 * windows)
    assert given == [(3, 1, 4, 4, 4)] * 2
    assert network(windows[..., :3]).shape == (4, 1, 4, 4, 3)
    assert len(given) == 2


def test_only_what_was_measured_is_loaded(engine: Any, windowed: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    place = tmp_path / "place"
    place.mkdir()
    wanted = next(each for each in engine.variant.variants_for("cpu") if each.name == "ONNX Runtime")
    kept = engine.variation.prepared(windowed, wanted, (1, 32, 32, 16), place)
    (place / "variant.json").write_text(json.dumps({"variant": engine.variant.as_json(kept)}))
    assert engine.variant.read_variant(place) == kept

    def refused(match: str, variant: Any = kept, folder: Path = place) -> None:
        with pytest.raises(ValueError, match=match) as error:
            engine.variation.loaded(windowed, variant, folder)
        assert "'ONNX Runtime' of variant.json" in str(error.value)
        assert "isocenter models optimise" in str(error.value)
        assert "`isocenter models promote` another version" in str(error.value)

    engine.variation.loaded(windowed, kept, place)
    refused("variant.onnx is missing", folder=tmp_path)
    older = {**kept.measured_with, "onnxruntime": "1.0.0"}
    refused("was measured with onnxruntime 1.0.0, and here is", replace(kept, measured_with=older))
    elsewhere = {**kept.measured_with, "device": "NVIDIA H200"}
    refused("was measured with device NVIDIA H200, and here is cpu", replace(kept, measured_with=elsewhere))
    with pytest.MonkeyPatch.context() as without:
        without.setitem(sys.modules, "onnxruntime", None)
        refused("onnxruntime is not installed")
    # Who replaces the weights would get the old ones' answers: they are in the exported file.
    torch.save(windowed.network.state_dict() | {"bias": torch.ones(2)}, tmp_path / "windowed/models/model.pt")
    refused("was measured with network [0-9a-f]{12}, and here is [0-9a-f]{12}")


def test_a_memory_limit_is_for_what_keeps_to_it(engine: Any, windowed: Any) -> None:
    on_gpu = replace(windowed, device=torch.device("cuda"))
    variants = {each.name: each for each in engine.variant.variants_for("cuda")}
    for name, variant in variants.items():
        if "ONNX" in name or "TensorRT" in name:
            with pytest.raises(ValueError, match="keeps to no gpu_memory_mb, which is 8192"):
                engine.variation.within_budget(on_gpu, variant, 8192)
        else:
            engine.variation.within_budget(on_gpu, variant, 8192)
        engine.variation.within_budget(on_gpu, variant, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_each_that_can_be_had_agrees(engine: Any, tmp_path: Path) -> None:
    bundle = threshold_bundle(tmp_path / "bundle", 699, window=(32, 32, 16))
    workflow = workflow_of(bundle, engine, "cuda")
    tried = trials(workflow, engine, tmp_path / "tried", "as it is", "CUDA graph", "ONNX Runtime", "TensorRT")
    assert tried["CUDA graph"].agrees
    for each in tried.values():
        assert each.agrees or "not installed" in each.reason or "Provider" in each.reason


def test_a_file_that_names_no_variant_is_refused(engine: Any, tmp_path: Path) -> None:
    assert engine.variant.read_variant(tmp_path) == engine.variant.AS_IT_IS
    known = engine.variant.Variant("a", channels_last=True)
    (tmp_path / "variant.json").write_text(json.dumps({"variant": asdict(known), "measured": {}}))
    assert engine.variant.read_variant(tmp_path) == known
    for wrong in ({}, {"variant": {"name": "fast"}}, {"variant": asdict(known) | {"precision": "int4"}}):
        (tmp_path / "variant.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="this is no variant"):
            engine.variant.read_variant(tmp_path)


@pytest.fixture
def bones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """The folder of an imported model, and a series in `in`."""
    monkeypatch.chdir(tmp_path)
    settings = {
        "data_dir": str(tmp_path / "data"),
        "apps_dir": str(ROOT / "apps"),
        "triton": {"model_repository": str(ROOT / "triton_models")},
        "routes": [],
    }
    (tmp_path / "isocenter.yaml").write_text(json.dumps(settings))
    threshold_bundle(tmp_path / "bundle", 699)
    write_series(thorax_phantom(size=HEAD, spacing_mm=SPACING_MM), tmp_path / "in")
    assert main(["models", "import", "bundle", "--name", "bones"]) == 0
    capsys.readouterr()
    return tmp_path / "data" / "models" / "bones"


def optimised(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main(["models", "optimise", "bones", "in", "--device", "cpu", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_is_kept_is_another_version(
    engine: Any, bones: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model_optimise, "_fastest", lambda found: found[-1])  # whatever a busy machine finds
    before = digest_of(bones / "1")
    told = optimised(capsys, "--bound", "60", "--variant", "bfloat16")
    assert [each["variant"]["name"] for each in told["trials"]] == ["as it is", "bfloat16"]
    assert told["trials"][0]["agreement_percent"] == 100
    assert 60 < told["trials"][1]["least_dice_percent"] < 99.5  # it is the bound that is given that counts
    assert told["trials"][1]["agrees"]
    assert [told[each] for each in ("measured", "kept", "version", "new")] == ["1", "bfloat16", "2", True]
    assert digest_of(bones / "1") == before
    assert digest_of(bones / "2") != before

    def answer(version: str) -> torch.Tensor:
        folder = bones / version  # as its model.py has it
        plan = engine.plan.read_plan(folder / "plan.json")
        workflow = engine.workflow.workflow_of(folder / "bundle", plan, torch.device("cpu"))
        varied = engine.variation.loaded(workflow, engine.variant.read_variant(folder), folder)
        found: torch.Tensor = engine.fallback.analyse_as_it_fits(varied, *volume()).values
        return found

    both, either = int((answer("1") & answer("2")).sum()), int(answer("1").sum() + answer("2").sum())
    assert 60 < 200 * both / either < 99.5

    # Triton loads it when it has a role, and results name it.
    config = bones / "config.pbtxt"
    assert "versions: [ 1 ]" in config.read_text()
    assert main(["models", "promote", "bones", "2"]) == 0
    assert "versions: [ 1, 2 ]" in config.read_text()
    algorithm = Catalog.weighed(Settings.load()).get("bones").algorithm
    assert (algorithm.models, algorithm.weights) == ({"bones": "2"}, {"bones": digest_of(bones / "2")})
    capsys.readouterr()
    assert main(["models", "list", "--json"]) == 0
    rows = {row["version"]: row for row in json.loads(capsys.readouterr().out)["models"] if row["roles"]}
    assert {version: (row["variant"], row["roles"]) for version, row in rows.items() if row["variant"]} == {
        "2": ("bfloat16", ["active"])
    }
    assert main(["models", "rollback", "bones"]) == 0
    assert Catalog.weighed(Settings.load()).get("bones").algorithm.weights == {"bones": before}
    assert main(["models", "optimise", "ct_lung_density", "in"]) == 2
    assert "Installed ones are run as they are" in capsys.readouterr().err


def trial(
    name: str, seconds: float | None, *, agrees: bool = True, measured_with: str = "1"
) -> dict[str, Any]:
    variant = {"name": name, "window": (1, 2), "measured_with": {"torch": measured_with}}
    figures = {"seconds": seconds, "agreement_percent": 100.0, "least_dice_percent": 100.0, "reason": ""}
    return {"variant": variant, "agrees": agrees, **figures}


def test_a_variant_is_kept_once_and_no_version_is_changed(
    bones: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[dict[str, Any]] = []

    def measured(folder: Path, place: Path, *_: Any, **__: Any) -> list[dict[str, Any]]:
        for name in ("as it is", "ONNX Runtime"):
            (place / name).mkdir()
        (place / "ONNX Runtime" / "variant.onnx").write_bytes(b"the network")
        return found

    monkeypatch.setattr(model_optimise, "_trials", measured)
    found[:] = [trial("as it is", 10), trial("ONNX Runtime", 5)]
    before = digest_of(bones / "1")
    assert main(["models", "optimise", "bones", "in"]) == 0
    told = capsys.readouterr().out
    assert "version 2 is version 1 of bones, computed so: ONNX Runtime; it does nothing yet" in told
    assert "isocenter models promote bones 2\n" in told
    second = digest_of(bones / "2")
    kept = json.loads((bones / "2" / "variant.json").read_text())
    assert (kept["of_version"], kept["measured"]["seconds_as_it_is"]) == ("1", 10)
    assert (bones / "2" / "variant.onnx").read_bytes() == b"the network"
    weights = "bundle/models/model.pt"
    assert (bones / "2" / weights).samefile(bones / "1" / weights)  # they are large
    assert not (bones / "2" / "plan.json").samefile(bones / "1" / "plan.json")

    # The same again, of the version as of what was made of it: nothing new.
    for version in ("1", "2"):
        again = optimised(capsys, "--version", version)
        assert (again["measured"], again["version"], again["new"]) == (version, "2", False)
    assert main(["models", "optimise", "bones", "in"]) == 0
    assert "which was kept before: nothing is added" in capsys.readouterr().out
    # Of an optimised version its network as it is: the version that is so is named.
    found[:] = [trial("as it is", 10), trial("ONNX Runtime", 9.9)]
    assert (optimised(capsys, "--version", "2")["version"], optimised(capsys)["version"]) == ("1", "1")
    assert sorted(each.name for each in bones.iterdir()) == ["1", "2", "config.pbtxt"]

    # Under another torch it is another variant; what took long to measure waits while another command loads a version.
    found[:] = [trial("as it is", 10), trial("ONNX Runtime", 5, measured_with="2")]
    with ThreadPoolExecutor() as beside:
        with Servings(bones.parents[1]).changing("bones"):
            done = beside.submit(main, ["models", "optimise", "bones", "in", "--version", "2"])
            with pytest.raises(TimeoutError):
                done.result(0.5)
            assert not (bones / "3").exists()
        assert done.result(30) == 0
    assert json.loads((bones / "3" / "variant.json").read_text())["of_version"] == "2"
    assert (digest_of(bones / "1"), digest_of(bones / "2")) == (before, second)


def test_a_version_that_an_earlier_release_changed_in_place_has_its_network_as_it_is_again(
    engine: Any, bones: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(folder: Path, place: Path, *_: Any, **__: Any) -> list[dict[str, Any]]:
        (place / "as it is").mkdir()
        return [trial("as it is", 10)]

    monkeypatch.setattr(model_optimise, "_trials", measured)
    before = digest_of(bones / "1")
    changed = {"variant": asdict(engine.variant.Variant("channels last", channels_last=True)), "measured": {}}
    (bones / "1" / "variant.json").write_text(json.dumps(changed))
    assert digest_of(bones / "1") != before
    assert engine.variant.read_variant(bones / "1").channels_last
    told = optimised(capsys, "--variant", "as it is")
    assert (told["kept"], told["version"], told["new"]) == ("as it is", "2", True)
    assert digest_of(bones / "2") == before
    assert (bones / "1" / "variant.json").read_text() == json.dumps(changed)


def test_the_fastest_that_agrees_is_kept() -> None:
    as_it_is, wrong, little = (
        trial("as it is", 10),
        trial("int8", 1, agrees=False),
        trial("channels last", 9.6),
    )
    found = [as_it_is, wrong, little, trial("TensorRT", None, agrees=False)]
    assert model_optimise._fastest(found) is as_it_is
    found.append(trial("ONNX Runtime", 9.4))
    assert model_optimise._fastest(found) is found[-1]
