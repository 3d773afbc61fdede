"""The demonstration network: it can be made again, is installed as it was imported, and knows phantoms it never saw."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isocenter.bundles.bundle import opened
from isocenter.bundles.description import description_of
from isocenter.bundles.plan import plan_of
from isocenter.weights import digest_of
from isocenter_operators.errors import ConfigurationError
from isocenter_operators.manifest import read_manifest
from isocenter_operators.testing import Organ

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "thorax_organs"
MODEL = Path("triton_models", "thorax_organs")
pytestmark = pytest.mark.filterwarnings("ignore")  # MONAI's and torch's own, of their own versions


@pytest.fixture(scope="module")
def training() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "training"))
    try:
        import thorax_organs

        yield thorax_organs
    finally:
        sys.path.remove(str(ROOT / "training"))


def test_it_is_a_bundle_without_code_whose_labels_are_the_phantoms_organs() -> None:
    with opened(BUNDLE) as bundle:
        plan, code = plan_of(bundle)
        description = description_of(bundle, plan)
    assert code == []
    assert description.notes == ()  # the catalogue knows every name
    names = {
        "lung_right": Organ.RIGHT_LUNG,
        "lung_left": Organ.LEFT_LUNG,
        "trachea_bronchus": Organ.AIRWAYS,
        "heart": Organ.HEART,
        "aorta": Organ.AORTA,
        "liver": Organ.LIVER,
        "spleen": Organ.SPLEEN,
        "stomach": Organ.STOMACH,
        "vertebra": Organ.VERTEBRAE,
    }
    assert {name: number for number, name in description.labels.items()} == names
    assert "knows nothing of patients" in description.intended_use
    assert (BUNDLE / plan.weights).stat().st_size < 2 << 20


def test_what_is_installed_is_what_the_import_makes_of_the_bundle(training: Any, tmp_path: Path) -> None:
    training.install_beside(BUNDLE, tmp_path)
    for folder in (MODEL, Path("apps", "thorax_organs")):
        made = {
            file.name: file
            for file in (tmp_path / folder).rglob("*")
            if file.is_file() and not file.is_symlink()
        }
        there = {
            file.name: file
            for file in (ROOT / folder).rglob("*")
            if file.is_file() and not file.is_symlink() and "__pycache__" not in file.parts
        }
        assert made.keys() == there.keys()
        for name, file in made.items():
            assert file.read_text() == there[name].read_text(), name
    for link in ("bundle", "bundle_engine", "model.py"):
        assert (tmp_path / MODEL / "1" / link).readlink() == (ROOT / MODEL / "1" / link).readlink()
        assert (ROOT / MODEL / "1" / link).exists()


def test_other_weights_are_another_model(tmp_path: Path) -> None:
    """The hash by which jobs are told apart follows the links to the bundle and the engine."""
    hashed = [
        path.relative_to(ROOT / MODEL / "1").as_posix()
        for path in (ROOT / MODEL / "1").glob("bundle/models/*")
    ]
    assert hashed == ["bundle/models/model.pt"]
    before = digest_of(ROOT / MODEL / "1")
    copy = tmp_path / "1"
    for name in ("model.py", "bundle_engine", "plan.json"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).symlink_to((ROOT / MODEL / "1" / name).resolve())
    for file in (each for each in BUNDLE.rglob("*") if each.is_file()):
        place = copy / "bundle" / file.relative_to(BUNDLE)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    assert digest_of(copy) == before
    (copy / "bundle" / "models" / "model.pt").write_bytes(b"other weights")
    assert digest_of(copy) != before


def test_what_a_bundle_asks_of_images_goes_into_its_application(tmp_path: Path) -> None:
    only = read_manifest(ROOT / "apps" / "thorax_organs").accepts.only
    assert only is not None
    assert only.attributes["QualityControlSubject"] == "YES"
    with opened(BUNDLE) as bundle:
        plan, _ = plan_of(bundle)
        metadata = json.loads(json.dumps(bundle.metadata))
        metadata["isocenter"]["accepts"]["modalty"] = ["MR"]
        with pytest.raises(
            ConfigurationError, match=r"metadata\.json: isocenter\.accepts\.modalty: Extra inputs"
        ):
            description_of(replace(bundle, metadata=metadata), plan)


def test_it_knows_phantoms_that_it_never_saw(training: Any) -> None:
    dice = training.measured(
        training.held_out(count=2, seed=1000)
    )  # none of those that were measured for its page
    means = {organ: float(np.mean(each)) for organ, each in dice.items() if each}
    assert np.mean(list(means.values())) >= 0.9, means


def test_its_pages_say_what_was_measured() -> None:
    metrics = json.loads((BUNDLE / "configs" / "metadata.json").read_text())["eval_metrics"]
    assert metrics["mean_dice"] >= 0.9
    for page in (BUNDLE / "docs" / "README.md", ROOT / "docs" / "models.md"):
        rows = re.findall(r"^\| ([a-z ]+) \| (\d\.\d{3}) \| (\d\.\d{3}) \|$", page.read_text(), re.MULTILINE)
        told = {
            name.replace(" ", "_"): {"mean": float(mean), "least": float(least)} for name, mean, least in rows
        }
        assert told == metrics["dice"], page
        assert f"| all | {metrics['mean_dice']:.3f} | |" in page.read_text(), page


def test_the_same_seed_gives_the_same_weights(training: Any) -> None:
    course = training.Course(phantoms=1, steps=2, batch=1, patch=(32, 32, 32), device=torch.device("cpu"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one, again = (training.trained(course).state_dict() for _ in range(2))
        other = training.trained(replace(course, seed=1)).state_dict()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
