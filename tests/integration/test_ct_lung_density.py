"""ct_lung_density as a whole, a folder in and a folder out: DICOM, graph, Triton, results read back by others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from read_back import found_by_dciodvfy, on_grid, read_report, read_seg

from isocenter.worker import runner
from isocenter_operators.errors import InputError
from isocenter_operators.manifest import read_manifest
from isocenter_operators.run import Folder, Outcome, Run
from isocenter_operators.testing import LungTruth, ThoraxPhantom, as_datasets, thorax_phantom, write_series

pytestmark = pytest.mark.integration

APP = Path(__file__).parents[2] / "apps" / "ct_lung_density"
AXIAL = {"size": (150, 120, 100), "spacing_mm": (2.3, 2.3, 3.0)}
CORONAL = {"size": (150, 100, 120), "spacing_mm": (2.3, 3.0, 2.3)}


def executed(source: Path, sink: Path, triton_url: str, **others: Any) -> Outcome:
    return runner.run(
        read_manifest(APP), Run(source=Folder(source), sink=Folder(sink), triton_url=triton_url, **others)
    )


def stored(outcome: Outcome, modality: str) -> Path:
    (path,) = [each.path for each in outcome.results if each.modality == modality]
    assert path is not None
    return path


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float(2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)))


@pytest.mark.parametrize(
    ("orientation", "grid"), [("LPS", AXIAL), ("RAS", AXIAL), ("LPI", AXIAL), ("LIP", CORONAL)]
)
def test_the_phantoms_truth_is_in_the_results(
    orientation: str, grid: dict[str, Any], triton_url: str, tmp_path: Path
) -> None:
    phantom = thorax_phantom(orientation=orientation, emphysema_fraction=0.15, **grid)
    write_series(phantom, tmp_path / "in")
    outcome = executed(tmp_path / "in", tmp_path / "out", triton_url)
    assert (outcome.status, outcome.notes) == ("done", ())
    _assert_segments(read_seg(stored(outcome, "SEG"), tmp_path), phantom)
    truths = (phantom.truth.right, phantom.truth.left, phantom.truth.both)
    report = read_report(stored(outcome, "SR"), tmp_path)
    for group, measured, truth in zip(outcome.groups, report, truths, strict=True):
        _assert_numbers(group, truth)
        numbers = [float(item["value"]) for item in measured["measurementItems"]]
        said = ("volume_mL", "mean_density_HU", "laa_950_percent", "percentile_15_HU")
        assert numbers == pytest.approx([group[name] for name in said], rel=1e-12)
    sides = [measured["Laterality"]["CodeMeaning"] for measured in report]
    assert sides == ["Right", "Left", "Bilateral"]


def _assert_segments(placed: Any, phantom: ThoraxPhantom) -> None:
    labels = on_grid(placed, phantom.labels.shape, phantom.affine)
    for number in (1, 2):
        assert dice(labels == number, phantom.labels == number) >= 0.98


def _assert_numbers(group: Any, truth: LungTruth) -> None:
    assert group["volume_mL"] == pytest.approx(truth.volume_mL, rel=0.01)
    assert group["laa_950_percent"] == pytest.approx(truth.laa_950_percent, abs=0.5)
    assert group["mean_density_HU"] == pytest.approx(truth.mean_hu, abs=4)
    assert group["percentile_15_HU"] == pytest.approx(truth.p15_hu, abs=2)


def test_the_same_images_give_the_same_objects(triton_url: str, tmp_path: Path) -> None:
    phantom = thorax_phantom(**AXIAL)
    write_series(phantom, tmp_path / "in")
    for number, instance in enumerate(as_datasets(phantom)):  # the same images under other names
        (tmp_path / "renamed").mkdir(exist_ok=True)
        instance.save_as(tmp_path / "renamed" / f"{number}", enforce_file_format=True)
    pixels = []
    for folder, day in (("in", 1), ("renamed", 2)):
        created = datetime(2026, 3, day, tzinfo=UTC)
        outcome = executed(tmp_path / folder, tmp_path / f"{folder}-out", triton_url, created=created)
        files = [dcmread(each.path) for each in outcome.results if each.path]
        assert len(files) == 4
        pixels.append({file.SOPInstanceUID: file.get("PixelData") for file in files})
    assert pixels[0] == pixels[1]


def test_what_was_made_is_said_as_it_is(triton_url: str, tmp_path: Path) -> None:
    """No network was trained for this: the standard's word for the algorithm is another."""
    write_series(thorax_phantom(**AXIAL), tmp_path / "in")
    outcome = executed(tmp_path / "in", tmp_path / "out", triton_url)
    segments = dcmread(stored(outcome, "SEG")).SegmentSequence
    families = [
        item.SegmentationAlgorithmIdentificationSequence[0].AlgorithmFamilyCodeSequence[0].CodeMeaning
        for item in segments
    ]
    assert families == ["Morphological Operations"] * 2


def test_of_several_series_the_largest_is_measured_and_the_others_are_mentioned(
    triton_url: str, tmp_path: Path
) -> None:
    small = thorax_phantom(size=(150, 120, 60), spacing_mm=(2.3, 2.3, 5.0), seed=1)
    write_series(small, tmp_path / "in" / "a", uid_seed="another study")
    large = thorax_phantom(**AXIAL)
    write_series(large, tmp_path / "in" / "b")
    outcome = executed(tmp_path / "in", tmp_path / "out", triton_url)
    assert {each.study_uid for each in outcome.results} == {as_datasets(large)[0].StudyInstanceUID}
    assert outcome.notes == ("1 more series matched the selection rules and were left alone",)
    report = dcmread(stored(outcome, "SR"))
    assert "left alone" not in str(report), "it is no finding in the patient"


@pytest.mark.parametrize(
    ("series", "said"),
    [
        ("ct-abdomen-41/image", "the lungs are cut off at the top of the scan"),
        ("ct-head-phantom/S2010", "the scan shows a head, this application is for the chest"),
        ("ct-head-phantom/S3010", "the scan shows a head, this application is for the chest"),
        (
            "ct-head-phantom/S1000",
            "none of the series is of the kind that this application is for",
        ),  # a localizer
        (
            "ct-head-phantom/S4010",
            "none of the series is of the kind that this application is for",
        ),  # an exam summary
        ("mr-abdomen/adc_image", "there is MR of 36 images"),
        ("mr-abdomen/t2_image", "there is MR of 33 images"),
        ("transfer-syntaxes/In", "there is MR of 9 images"),
        (
            "reference-results/dcmqi/segmentations/ct-3slice",
            "mm from head to foot, at least 80 mm is accepted",
        ),
        ("reference-results/dcmqi/segmentations/24x38x3/image", "their Rescale Type is US"),
        ("reference-results/dcmqi/segmentations/23x38x3/image", "their Rescale Type is US"),
    ],
)
def test_what_holds_no_lungs_is_not_applicable_and_leaves_nothing(
    series: str, said: str, test_data: Path, triton_url: str, tmp_path: Path
) -> None:
    outcome = executed(test_data / series, tmp_path / "out", triton_url)
    assert outcome.status == "not_applicable"
    assert said in outcome.reason
    assert (outcome.groups, outcome.results) == ((), ())
    assert not (tmp_path / "out").exists()


def test_a_material_map_is_not_measured(triton_url: str, tmp_path: Path) -> None:
    for file in write_series(thorax_phantom(**AXIAL), tmp_path / "in"):
        instance = dcmread(file)
        instance.RescaleType = "MGML"  # iodine, of a dual-energy CT
        instance.save_as(file)
    outcome = executed(tmp_path / "in", tmp_path / "out", triton_url)
    assert outcome.status == "not_applicable"
    assert "not in HU: their Rescale Type is MGML" in outcome.reason


def test_a_series_with_a_gap_is_an_error(test_data: Path, triton_url: str, tmp_path: Path) -> None:
    source = test_data / "reference-results" / "highdicom" / "ct-4-slices"
    with pytest.raises(InputError, match=r"gap .* 202\.50 mm after slice 1 of 4"):
        executed(source, tmp_path / "out", triton_url)
    assert not (tmp_path / "out").exists()


def test_a_real_chest_gives_valid_results(test_data: Path, triton_url: str, tmp_path: Path) -> None:
    outcome = executed(test_data / "ct-chest-275" / "image", tmp_path / "out", triton_url)
    assert [each.modality for each in outcome.results] == ["SEG", "SR", "OT", "OT"]
    for result in outcome.results:
        assert result.path is not None
        found = found_by_dciodvfy(result.path)
        assert [problem for problem in found if problem.severity == "error"] == []
    right, left, both = (group["volume_mL"] for group in outcome.groups)
    assert (right, left) == (pytest.approx(927, rel=0.02), pytest.approx(1905, rel=0.02))
    assert both == pytest.approx(right + left)


def test_as_a_map_it_reads_its_environment(triton_url: str, tmp_path: Path) -> None:
    write_series(thorax_phantom(**AXIAL), tmp_path / "in")
    environment = os.environ | {
        "HOLOSCAN_INPUT_PATH": str(tmp_path / "in"),
        "HOLOSCAN_OUTPUT_PATH": str(tmp_path / "out"),
        "TRITON_SERVER_NETLOC": triton_url,
        "PYTHONWARNINGS": "ignore",  # Holoscan's, of this test's small stack
    }
    start = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True, check=False)
    done = start([sys.executable, APP], env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert [group["label"] for group in json.loads(done.stdout)] == ["Right lung", "Left lung", "Both lungs"]
    assert len(list((tmp_path / "out").glob("*.dcm"))) == 4

    # As the SDK's own applications are started by hand: the options win.
    by_hand = partial(start, [sys.executable, APP, "-i", str(tmp_path / "in"), "-o", str(tmp_path / "other")])
    assert by_hand(env=environment | {"HOLOSCAN_INPUT_PATH": "nowhere"}).returncode == 0
    assert len(list((tmp_path / "other").glob("*.dcm"))) == 4

    failed = start(
        [sys.executable, APP], env=environment | {"HOLOSCAN_INPUT_PATH": str(tmp_path / "nowhere")}
    )
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr == f"ct_lung_density: {tmp_path / 'nowhere'} does not exist\n"
