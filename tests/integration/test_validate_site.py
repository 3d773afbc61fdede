"""`isocenter validate-site` with the lung application on phantoms, whose truth is known."""

from __future__ import annotations

import csv
import json
from datetime import datetime
from pathlib import Path

import pytest
from commands import isocenter, site

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Segment
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.rtstruct import structure_set
from isocenter_operators.dicom.results.seg import segmentation
from isocenter_operators.dicom.series.geometry import volume_of
from isocenter_operators.testing import ThoraxPhantom, as_datasets, head_phantom, thorax_phantom, write_series

pytestmark = pytest.mark.integration

DRAWN = Algorithm("a reader", "1", {})
LUNGS = (
    Segment(1, "Lung R", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (90, 160, 220), codes.RIGHT),
    Segment(2, "Lung L", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (240, 180, 90), codes.LEFT),
)


def put(phantom: ThoraxPhantom, folder: Path, *, outlined: bool) -> None:
    """The images, and the truth as somebody would have drawn it."""
    write_series(phantom, folder / "images")
    volume = volume_of(as_datasets(phantom))
    labels = phantom.labels if phantom.affine[2, 2] * volume.affine[2, 2] > 0 else phantom.labels[::-1].copy()
    write = structure_set if outlined else segmentation
    drawn = write(
        labels=labels,
        frames=volume.frames,
        segments=LUNGS,
        algorithm=DRAWN,
        identity=JobIdentity.of(
            (str(each.SOPInstanceUID) for each in volume.sources), DRAWN, datetime(2026, 11, 1)
        ),
    )
    drawn.save_as(folder / "drawn.dcm", enforce_file_format=True)


def test_phantoms_are_validated_against_their_truth(tmp_path: Path) -> None:
    place = site(tmp_path)
    lines = [["case", "region", "measurement", "expected", "tolerance"]]
    for number, outlined in enumerate((False, True)):
        phantom = thorax_phantom(size=(160, 160, 75), spacing_mm=(2.24, 2.24, 4.0), seed=number)
        put(phantom, place / "cases" / f"p{number}", outlined=outlined)
        for region, lung in (("Right lung", phantom.truth.right), ("Left lung", phantom.truth.left)):
            lines.append([f"p{number}", region, "volume_mL", str(lung.volume_mL), str(0.01 * lung.volume_mL)])
    write_series(head_phantom(), place / "cases" / "head")
    lines.append(["head", "", "status", "not_applicable", ""])
    with (place / "expected.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)

    report = isocenter(
        place,
        "validate-site",
        "cases",
        "--app",
        "ct_lung_density",
        "--expected",
        "expected.csv",
        *("--label", "Lung R=Right lung", "--label", "Lung L=Left lung"),
        "--out",
        "report",
    )

    assert report["summary"]["states"] == {"done": 2, "not_applicable": 1}
    assert report["summary"]["as_expected"]["count"] == 3
    assert (report["summary"]["within"]["count"], report["summary"]["within"]["of"]) == (4, 4)
    assert report["summary"]["dice"].keys() == {"Right lung", "Left lung"}
    assert all(each["smallest"] > 0.98 for each in report["summary"]["dice"].values())
    assert report["models"] == {"ct_lung_density": "1"}
    assert len(report["weights"]["ct_lung_density"]) == 64
    assert "torch" in report["machine"]["models computed by"]
    by_name = {case["case"]: case for case in report["cases"]}
    assert "this application is for the chest" in by_name["head"]["reason"]
    for name in ("p0", "p1"):
        assert {each["modality"] for each in by_name[name]["results"]} >= {"SEG", "SR"}
        assert all((place / each["path"]).is_file() for each in by_name[name]["results"])
    assert json.loads((place / "report" / "report.json").read_text()) == report
