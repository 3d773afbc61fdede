"""A bundle of the Model Zoo from its import to its results, by the commands that a user types."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from commands import isocenter, site
from monai.bundle import ConfigParser
from pydicom import dcmread
from threshold_bundle import threshold_bundle

from isocenter_operators.dicom.rules.validate import dciodvfy, problems

ROOT = Path(__file__).parents[2]
ZOO = ROOT.parent / "shared" / "model-zoo"
NAME = "ventricular_short_axis_3label"
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and a bundle whose weights were drawn by chance."""
    folder = tmp_path_factory.mktemp("models")
    bundle = folder / "bundle"
    shutil.copytree(ZOO / NAME, bundle)
    (bundle / "models").mkdir()
    config = ConfigParser.load_config_file(str(bundle / "configs" / "inference.json"))
    torch.manual_seed(0)
    network = ConfigParser({"network": config["network_def"]}).get_parsed_content("network")
    torch.save({"model": network.state_dict(), "epoch": 3}, bundle / "models" / "model.pt")
    threshold_bundle(folder / "bones", 250)
    return site(folder)


@pytest.mark.parametrize(
    ("name", "bundle", "series"),  # one that it is for, and one that it is not for
    [
        ("bones", "bones", ("ct-abdomen-41/image", "mr-abdomen/t2_image")),
        pytest.param(NAME, "bundle", ("mr-abdomen/t2_image", "ct-abdomen-41/image"), marks=pytest.mark.slow),
    ],
)
def test_a_bundle_is_imported_checked_and_run(
    name: str, bundle: str, series: tuple[str, str], place: Path, test_data: Path
) -> None:
    imported = isocenter(place, "models", "import", place / bundle, "--name", name)
    assert imported["code"] == []
    listed = {row["model"]: row for row in isocenter(place, "models", "list")["models"]}
    assert {"ct_lung_density", "thorax_organs", name} <= set(listed)
    assert len(listed[name]["weights_sha256"]) == 64

    checked = isocenter(place, "models", "check", name)
    assert checked["given"] == checked["answered"]
    assert checked["same_twice"]
    assert checked["peak_mb"] > 100

    results = place / f"results of {name}"
    done = isocenter(place, "run", name, test_data / series[0], "--out", results)
    assert done["status"] == "done"
    files = {dcmread(file).Modality: file for file in results.glob("*.dcm")}
    assert set(files) == {"SEG", "SR", "OT"}
    for file in files.values():
        assert [each for each in (*problems(file), *(dciodvfy(file) or ())) if each.severity == "error"] == []
    labels = [segment.SegmentLabel for segment in dcmread(files["SEG"]).SegmentSequence]
    assert labels == [group["label"] for group in done["groups"]]
    volumes_ml = [group["volume_mL"] for group in done["groups"]]
    assert all(volume > 0 for volume in volumes_ml)
    assert not isocenter(place, "run", name, test_data / series[1], "--out", results)["groups"]
