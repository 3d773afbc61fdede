"""Bundles that take or give more than one image or label map, by the commands of a user, on the real Triton."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from commands import in_this_process, isocenter, running_site
from detection_bundle import SIDE_MM, ball_bundle, boxes_as_the_author_gets_them, with_balls, with_scripts
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage, generate_uid
from zoo import as_the_author_runs_it, brain_tumour_bundle, whole_volume_bundle

from isocenter_operators.bundle_application import BundleApplication
from isocenter_operators.dicom.results.seg_reader import read_segmentation
from isocenter_operators.dicom.rules.validate import dciodvfy, problems
from isocenter_operators.dicom.series.alignment import aligned
from isocenter_operators.dicom.series.geometry import volume_of
from isocenter_operators.run import Folder, Run
from isocenter_operators.testing import abdomen_phantom, as_datasets, thorax_phantom, write_series

ROOT = Path(__file__).parents[2]
GRID: dict[str, Any] = {"size": (40, 36, 20), "spacing_mm": (6.0, 6.0, 6.0)}
FINER: dict[str, Any] = {"size": (90, 80, 26), "spacing_mm": (3.0, 3.0, 5.0)}
pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with running_site(tmp_path_factory.mktemp("running")) as place:
        yield place


def installed(running: Path, bundle: Path, name: str, *words: str) -> Any:
    """What the import of a bundle told; its model serves."""
    imported = in_this_process(running, "models", "import", bundle, "--name", name, *words)
    in_this_process(running, "models", "load", name)
    return imported


def valid(folder: Path) -> dict[str, Dataset]:
    """The results by modality, each without an error by our rules and by dciodvfy."""
    found = {}
    for file in folder.glob("*.dcm"):
        errors = [each for each in (*problems(file), *(dciodvfy(file) or ())) if each.severity == "error"]
        assert errors == [], file
        found[str(dcmread(file).Modality)] = dcmread(file)
    return found


def as_mr(number: int, description: str, grid: dict[str, Any], frame: str, study: str) -> list[Dataset]:
    """The phantom as an MR series: of one study and frame of reference with those of the same names."""
    instances = as_datasets(abdomen_phantom(**grid), uid_seed=description, series_number=number)
    for instance in instances:
        for keyword in (
            "KVP",
            "XRayTubeCurrent",
            "ExposureTime",
            "Exposure",
            "FilterType",
            "ConvolutionKernel",
        ):
            delattr(instance, keyword)
        for keyword in ("GantryDetectorTilt", "RotationDirection", "RescaleType", "ScanOptions"):
            delattr(instance, keyword)
        del instance.RescaleIntercept, instance.RescaleSlope
        instance.SOPClassUID = instance.file_meta.MediaStorageSOPClassUID = MRImageStorage
        instance.Modality, instance.SeriesDescription = "MR", description
        instance.StudyInstanceUID, instance.FrameOfReferenceUID = study, frame
        instance.ScanningSequence, instance.SequenceVariant, instance.ScanOptions = "SE", "NONE", ""
        instance.MRAcquisitionType, instance.EchoTrainLength = "2D", 1
        stored = np.frombuffer(instance.PixelData, "<i2").astype(np.int32)
        instance.PixelData = (stored * (1 + number / 4)).astype("<i2").tobytes()
    return instances


def save(folder: Path, series: list[list[Dataset]]) -> Path:
    folder.mkdir(parents=True)
    for each in (instance for instances in series for instance in instances):
        each.save_as(folder / f"{each.SOPInstanceUID}.dcm", enforce_file_format=True)
    return folder


def test_four_sequences_are_found_aligned_and_segmented(running: Path, tmp_path: Path) -> None:
    bundle = brain_tumour_bundle(tmp_path / "zoo")
    imported = installed(running, bundle, "tumour")
    assert (imported["plan"]["channels"], imported["plan"]["output"], imported["code"]) == (4, "masks", [])
    frame, study = generate_uid(), generate_uid()
    scans = [
        as_mr(2, "AX T2 FLAIR", GRID, frame, study),
        as_mr(3, "AX T1", GRID, frame, study),
        as_mr(4, "AX T2 TSE", FINER, frame, study),
        as_mr(5, "AX T1 POST GD", GRID, frame, study),
    ]
    done = isocenter(running, "run", "tumour", save(tmp_path / "all", scans), "--out", tmp_path / "results")
    assert done["status"] == "done", done["reason"]
    told = " ".join(done["notes"])
    assert "Made of 4 series: T1c is series 5, T1 is series 3, T2 is series 4, FLAIR is series 2" in told
    assert "T2 was brought to the grid of the first series" in told
    results = valid(tmp_path / "results")
    assert set(results) == {"SEG", "SR", "OT"}
    contrast = scans[3]
    assert results["SEG"].ReferencedSeriesSequence[0].SeriesInstanceUID == contrast[0].SeriesInstanceUID

    flair, t1, t2, t1c = (volume_of(instances) for instances in scans)
    channels = [t1c.voxels, t1.voxels, aligned(t2, t1c, "T2")[0], flair.voxels]
    theirs = as_the_author_runs_it(bundle, channels, t1c.affine, tmp_path / "author")
    seg = read_segmentation(results["SEG"])
    masks = {segment.label: seg.mask(segment.number) for segment in seg.segments}
    first = round(float(np.linalg.solve(t1c.affine, seg.grid.affine[:, 3])[2]))
    merged = np.zeros(theirs.shape, int)
    for name, number in (("Whole tumor", 2), ("Tumor core", 1), ("Enhancing tumor", 4)):
        for label, mask in masks.items():
            if label.lower().startswith(name.lower()[:5]):
                merged[first : first + len(mask)][mask] = number
    assert len(np.unique(theirs)) > 2
    assert (merged == theirs).mean() >= 0.999

    later = as_mr(6, "AX FLAIR", GRID, frame, study)
    moved = as_mr(5, "AX T1 POST GD", GRID, generate_uid(), study)
    for number, (series, reason) in enumerate(
        [
            (scans[:3], "no series is T1c: series "),
            ([*scans, later], "2 series are FLAIR: "),
            ([*scans[:3], moved], "lies in another frame of reference"),
        ]
    ):
        folder = save(tmp_path / f"images{number}", series)
        task = Run(source=Folder(folder), sink=Folder(tmp_path / "none"))
        outcome = BundleApplication(Path(imported["application"]), task).execute()
        assert outcome.status == "not_applicable"
        assert reason in outcome.reason


@pytest.mark.parametrize("said", ["classes", "regression"])
def test_what_is_said_of_the_images_as_a_whole_is_in_a_report(
    said: str, running: Path, tmp_path: Path
) -> None:
    softmax = {"_target_": "Activationsd", "keys": "pred", "softmax": True}
    decision = {"_target_": "AsDiscreted", "keys": "pred", "argmax": True, "to_onehot": 2}
    names = ["Normal", "Abnormal"] if said == "classes" else ["Liver volume (mL)", "Fat score"]
    after = [softmax, decision] if said == "classes" else []
    bundle = whole_volume_bundle(tmp_path / "zoo", after=after, names=names, said=said)
    assert installed(running, bundle, said)["code"] == []
    images = tmp_path / "images"
    write_series(abdomen_phantom(**GRID), images)
    done = isocenter(running, "run", said, images, "--out", tmp_path / "results")
    assert done["status"] == "done", done["reason"]
    results = valid(tmp_path / "results")
    assert set(results) == {"SR"}
    volume = volume_of([dcmread(file) for file in images.iterdir()])
    theirs = as_the_author_runs_it(bundle, volume.voxels, volume.affine, tmp_path / "author")
    (group,) = done["groups"]
    named = [(item.ConceptNameCodeSequence[0], item) for item in items(results["SR"], "NUM")]
    numbers = {name.CodeMeaning: item for name, item in named if name.CodingSchemeDesignator == "99ISOCENTER"}
    if said == "classes":
        assert set(numbers) == {"Probability of Normal", "Probability of Abnormal"}
        total = sum(float(item.MeasuredValueSequence[0].NumericValue) for item in numbers.values())
        assert total == pytest.approx(100)
        assert [group["normal"], group["abnormal"]] == ["Yes" if each else "No" for each in theirs]
        assert any("not calibrated" in item.TextValue for item in items(results["SR"], "TEXT"))
    else:
        assert set(numbers) == {"Liver volume", "Fat score"}
        assert [group["liver_volume_mL"], group["fat_score"]] == pytest.approx(list(theirs), rel=1e-4)


CHEST: dict[str, Any] = {"size": (60, 50, 24), "spacing_mm": (3.1, 3.3, 5.0)}


def test_boxes_are_found_reported_and_shown(running: Path, tmp_path: Path) -> None:
    bundle = ball_bundle(tmp_path / "zoo", named=False)
    imported = installed(running, bundle, "balls")
    assert (imported["plan"]["output"], imported["code"]) == ("boxes", [])
    phantom = with_balls(thorax_phantom(**CHEST), [((-60, 10, 0), 2000), ((50, -20, 20), 1800)])
    write_series(phantom, tmp_path / "images")
    done = isocenter(running, "run", "balls", tmp_path / "images", "--out", tmp_path / "results")
    assert done["status"] == "done", done["reason"]
    first, second = done["groups"]
    results = valid(tmp_path / "results")
    assert set(results) == {"SR", "PR", "OT"}

    volume = volume_of([dcmread(file) for file in (tmp_path / "images").iterdir()])
    theirs = boxes_as_the_author_gets_them(bundle, volume.voxels, volume.affine, tmp_path / "author")
    assert len(theirs["box"]) == 2
    certain = [group["certainty_percent"] for group in (first, second)]
    assert certain == pytest.approx(list(100 * theirs["label_scores"]), abs=1e-3)
    assert first["width_mm"] == pytest.approx(SIDE_MM, abs=1e-3)
    assert first["box"]["kind"] == "Lung nodule"
    assert [*first["box"]["centre_mm"], *first["box"]["size_mm"]] == pytest.approx(theirs["box"][0], abs=1e-3)

    (path,) = (file for file in (tmp_path / "results").glob("*.dcm") if dcmread(file).Modality == "SR")
    groups = highdicom.sr.srread(path).content.get_volumetric_roi_measurement_groups()
    assert [group.finding_type.meaning for group in groups] == ["Nodule", "Nodule"]
    assert len({group.tracking_uid for group in groups}) == 2
    for group, box in zip(groups, theirs["box"], strict=True):
        corners = np.concatenate(group.roi.graphic_data)
        assert np.abs(corners.min(axis=0) - (box[:3] - box[3:] / 2)).max() < 0.01
        assert np.abs(corners.max(axis=0) - (box[:3] + box[3:] / 2)).max() < 0.01
    told = " ".join(item.TextValue for item in items(results["SR"], "TEXT"))
    assert "It is not calibrated" in told
    assert "Intended use, by the model's makers: Balls in phantoms" in told
    drawn = {str(text.UnformattedTextValue) for text in texts_of(results["PR"])}
    assert drawn == {f"Lung nodule {number}: {value:.1f} %" for number, value in enumerate(certain, 1)}

    write_series(thorax_phantom(**CHEST), tmp_path / "healthy")
    nothing = isocenter(running, "run", "balls", tmp_path / "healthy", "--out", tmp_path / "nothing")
    assert (nothing["status"], nothing["groups"]) == ("done", [])
    assert set(valid(tmp_path / "nothing")) == {"SR"}
    assert any("Nothing was found of: Lung nodule." in note for note in nothing["notes"])
    oblique = thorax_phantom(size=(30, 25, 24), spacing_mm=(6, 6, 5), oblique_deg=5.0)
    write_series(oblique, tmp_path / "oblique")
    task = Run(source=Folder(tmp_path / "oblique"), sink=Folder(tmp_path / "none"))
    outcome = BundleApplication(Path(imported["application"]), task).execute()
    assert outcome.status == "not_applicable"
    assert "degrees askew to the patient's axes, at most 2.0 degrees is accepted" in outcome.reason


def test_scripts_that_are_not_the_zoos_run_where_they_are_trusted(running: Path, tmp_path: Path) -> None:
    bundle = with_scripts(ball_bundle(tmp_path / "zoo", above_hu=300), tmp_path)  # bones are bright too
    imported = installed(running, bundle, "trusted", "--trust-code")
    assert imported["code"][0] == "inferer: scripts.detection_inferer.RetinaNetInferer"
    phantom = with_balls(thorax_phantom(**CHEST), [((-60, 10, 0), 2000)])
    write_series(phantom, tmp_path / "images")
    done = isocenter(running, "run", "trusted", tmp_path / "images", "--out", tmp_path / "results")
    assert done["status"] == "done", done["reason"]
    assert done["groups"][0]["certainty_percent"] > 90
    checked = isocenter(running, "models", "check", "trusted")
    count = checked["answered"][0]
    assert (checked["output"], checked["answered"], checked["found"]) == ("boxes", [count, 6], {"1": count})
    assert (checked["same_twice"], len(checked["boxes"])) == (True, min(count, 10))
    assert checked["boxes"][0]["size_mm"] == pytest.approx([SIDE_MM] * 3)


def texts_of(state: Dataset) -> list[Dataset]:
    return [text for item in state.GraphicAnnotationSequence for text in item.TextObjectSequence]


def items(dataset: Dataset, kind: str) -> list[Dataset]:
    """Every content item of this value type."""
    found = [dataset] if dataset.get("ValueType") == kind else []
    return found + [item for child in dataset.get("ContentSequence", []) for item in items(child, kind)]
