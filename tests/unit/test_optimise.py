"""Only a variant that was measured, and agrees, is switched on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from threshold_bundle import threshold_bundle

from isocenter.bundles.bundle import opened
from isocenter.bundles.plan import plan_of
from isocenter.cli.main import main
from isocenter.weights import digest_of
from isocenter_operators.testing import thorax_phantom, write_series

ROOT = Path(__file__).parents[2]
ENGINE = ROOT / "triton_models" / "monai_bundle" / "1"
pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's and torch's own


@pytest.fixture
def variants() -> Iterator[Any]:
    sys.path.insert(0, str(ENGINE))
    try:
        from bundle_engine import optimising, variant, workflow

        yield type(
            "Engine", (), {"optimising": optimising, "variant": variant, "workflow_of": workflow.workflow_of}
        )
    finally:
        sys.path.remove(str(ENGINE))


def workflow_of(bundle: Path, variants: Any) -> Any:
    from bundle_engine.plan import Plan

    with opened(bundle) as read:
        plan, _ = plan_of(read)
    return variants.workflow_of(bundle, Plan(**plan.model_dump()), torch.device("cpu"))


def test_each_variant_is_measured_beside_the_network_as_it_is(
    variants: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(network: torch.nn.Module) -> torch.nn.Module:
        raise RuntimeError("no C++ compiler was found\nand more")

    monkeypatch.setattr(torch, "compile", no_compiler)
    phantom = thorax_phantom(size=(64, 50, 24), spacing_mm=(5.5, 6.0, 12.0))
    volume = torch.from_numpy(phantom.hu), torch.from_numpy(phantom.affine)
    workflow = workflow_of(threshold_bundle(tmp_path / "bundle", 699), variants)
    trials = {
        str(each.variant["name"]): each for each in variants.optimising.trials(workflow, [volume], 99.9)
    }
    as_it_is, last, less = (trials[name] for name in ("as it is", "channels last", "bfloat16"))
    assert as_it_is.agreement_percent == as_it_is.least_dice_percent == 100
    assert (last.agreement_percent, last.agrees) == (100, True)
    # Eight bits of a number: what is within 2 HU or so of the threshold, as much bone is, falls to either side.
    expected = variants.optimising.analyse_as_it_fits(workflow, *volume).values
    varied = variants.variant.as_varied(workflow, variants.variant.Variant("bfloat16", precision="bfloat16"))
    found = variants.optimising.analyse_as_it_fits(varied, *volume).values
    both, either = int((expected & found).sum()), int(expected.sum() + found.sum())
    assert less.least_dice_percent == pytest.approx(200 * both / either)
    assert less.agreement_percent == pytest.approx(100 * float((expected == found).double().mean()))
    assert less.least_dice_percent < 99.9
    assert not less.agrees
    assert trials["compiled"].reason == "RuntimeError: no C++ compiler was found"
    assert trials["compiled"].seconds is None


def test_a_file_that_names_no_variant_is_refused(variants: Any, tmp_path: Path) -> None:
    assert variants.variant.read_variant(tmp_path) == variants.variant.AS_IT_IS
    known = variants.variant.Variant("a", channels_last=True)
    (tmp_path / "variant.json").write_text(json.dumps({"variant": asdict(known), "measured": {}}))
    assert variants.variant.read_variant(tmp_path) == known
    for wrong in ({}, {"variant": {"name": "fast"}}, {"variant": asdict(known) | {"precision": "int4"}}):
        (tmp_path / "variant.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="this is no variant"):
            variants.variant.read_variant(tmp_path)


def test_what_is_kept_is_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # compiling takes longer than all else here
    settings = {
        "data_dir": str(tmp_path / "data"),
        "apps_dir": str(ROOT / "apps"),
        "triton": {"model_repository": str(ROOT / "triton_models")},
    }
    (tmp_path / "isocenter.yaml").write_text(json.dumps(settings))
    threshold_bundle(tmp_path / "bundle", 699)
    write_series(thorax_phantom(size=(64, 50, 24), spacing_mm=(5.5, 6.0, 12.0)), tmp_path / "in")
    assert main(["models", "import", "bundle", "--name", "bones"]) == 0
    folder = tmp_path / "data" / "models" / "bones" / "1"
    before = digest_of(folder)
    capsys.readouterr()
    assert main(["models", "optimise", "bones", "in", "--device", "cpu", "--bound", "99.9", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    trials = {each["variant"]["name"]: each for each in told["trials"]}
    assert next(iter(trials)) == "as it is"
    assert not trials["bfloat16"]["agrees"]
    agreeing = [each for each in told["trials"] if each["agrees"]]
    fastest = min(agreeing, key=lambda each: float(each["seconds"]))
    worth_it = fastest["seconds"] < 0.95 * trials["as it is"]["seconds"]
    assert told["kept"] == (fastest["variant"]["name"] if worth_it else "as it is")
    written = (folder / "variant.json").exists()
    assert written == (told["kept"] != "as it is")
    assert (digest_of(folder) != before) == written
    (folder / "variant.json").write_text("{}")
    assert main(["models", "optimise", "bones", "--off"]) == 0
    assert digest_of(folder) == before
    assert main(["models", "optimise", "ct_lung_density", "in"]) == 2
    assert "Installed ones are run as they are" in capsys.readouterr().err
