"""The findings in plain sentences: the numbers as they are, nothing invented, and readable by others."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from read_back import found_by_dciodvfy, lacking
from result_cases import ALGORITHM, findings_of, identity_of, phantom_case, written

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import (
    Code,
    Evaluation,
    Findings,
    Measurement,
    MeasurementGroup,
    Points,
)
from isocenter_operators.dicom.results.text_report import text_report
from isocenter_operators.dicom.results.wording import sentence, unit
from isocenter_operators.dicom.rules.validate import problems
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.series.geometry import Volume, volume_of
from isocenter_operators.errors import GeometryError
from isocenter_operators.testing import thorax_phantom
from isocenter_operators.testing.enhanced import as_enhanced

Case = tuple[Volume, NDArray[np.uint8]]
NODULE = Code("27925004", "SCT", "Nodule")


@pytest.fixture(scope="module")
def phantom() -> Case:
    return phantom_case()


@pytest.fixture(scope="module")
def findings(phantom: Case) -> Findings:
    found = findings_of(*phantom, note="cut off at the lower end of the scan")
    return replace(found, notes=("slices of 12 mm",))


def report_of(volume: Volume, findings: Findings, **others: object) -> Dataset:
    return text_report(
        findings=findings,
        frames=volume.frames,
        algorithm=ALGORITHM,
        identity=identity_of(volume),
        **others,  # type: ignore[arg-type]
    )


def texts(report: Dataset, heading: str) -> Iterator[str]:
    for section in report.ContentSequence:
        if section.ConceptNameCodeSequence[0].CodeMeaning == heading:
            yield from (str(item.TextValue) for item in section.ContentSequence if item.ValueType == "TEXT")


def rendered(path: Path) -> str:
    """The report as DCMTK shows it, without markup."""
    if shutil.which("dsr2html") is None:
        lacking("dsr2html is not installed (Debian package dcmtk)")
    run = subprocess.run(["dsr2html", str(path)], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", run.stdout))


def test_others_read_every_number_note_and_word(phantom: Case, findings: Findings, tmp_path: Path) -> None:
    path = written(report_of(phantom[0], findings), tmp_path, "text")
    assert [problem for problem in found_by_dciodvfy(path) if problem.severity == "error"] == []
    assert problems(path) == []
    shown = rendered(path)
    for group in findings.groups:
        volume_ml, mean_hu, laa_percent = (measurement.value for measurement in group.measurements)
        assert f"{group.label}: Volume is {volume_ml:.0f} mL." in shown
        assert f"Attenuation coefficient (mean) is {mean_hu:.1f} HU." in shown
        assert f"share of volume, is {laa_percent:.1f} %." in shown
    assert "Note: cut off at the lower end of the scan." in shown
    assert "Slices of 12 mm." in shown
    assert "ct_lung_density 1.2.0" in shown
    assert "lungs 3" in shown
    assert f"CT series {phantom[0].sources[0].SeriesNumber}, 24 images" in shown
    assert "Research use only, not for clinical diagnosis" in shown


def test_it_follows_the_template(phantom: Case, findings: Findings) -> None:
    report = report_of(phantom[0], findings)
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "2000"
    names = [
        (str(item.RelationshipType), str(item.ConceptNameCodeSequence[0].CodeMeaning))
        for item in report.ContentSequence
    ]
    assert names[0] == ("HAS CONCEPT MOD", "Language of Content Item and Descendants")
    assert [name for relation, name in names if relation == "CONTAINS"] == [
        "Current Procedure Descriptions",
        "Findings",
        "Conclusions",
    ]
    (series,) = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert [each.ReferencedSOPInstanceUID for each in series.ReferencedSOPSequence] == [
        source.SOPInstanceUID for source in phantom[0].sources
    ]


def test_nothing_found_is_said_and_is_not_called_normal(phantom: Case, tmp_path: Path) -> None:
    path = written(report_of(phantom[0], Findings(())), tmp_path, "empty")
    report = dcmread(path)
    assert list(texts(report, "Findings")) == ["Nothing was found."]
    (said, *_) = texts(report, "Conclusions")
    assert "does not mean that the images are normal" in said
    assert [problem for problem in found_by_dciodvfy(path) if problem.severity == "error"] == []


def test_a_region_is_named_by_the_image_it_lies_on(phantom: Case) -> None:
    volume, _ = phantom
    where = volume.frames[7]
    point = where.position_mm + 30 * where.directions[0] + 40 * where.directions[1]
    group = MeasurementGroup("Nodule 1", NODULE, region=Points((tuple(point.tolist()),)))
    report = report_of(volume, Findings((group,)))
    (said,) = texts(report, "Findings")
    assert said.endswith(f"It lies at image {where.instance.InstanceNumber}.")
    (item,) = report.ContentSequence[-2].ContentSequence
    (image,) = item.ContentSequence
    assert image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == where.instance.SOPInstanceUID

    beyond = replace(group, region=Points((tuple((point + np.array([0, 0, 4000])).tolist()),)))
    with pytest.raises(GeometryError, match="beyond the images"):
        report_of(volume, Findings((beyond,)))


def test_of_a_multi_frame_image_the_frame_is_named(tmp_path: Path) -> None:
    phantom = thorax_phantom(size=(48, 40, 8), spacing_mm=(7.6, 7.6, 36.0), noise_hu=0.0)
    volume = volume_of(as_enhanced(phantom))
    where: Frame = volume.frames[5]
    group = MeasurementGroup("Nodule 1", NODULE, region=Points((tuple(where.position_mm.tolist()),)))
    path = written(report_of(volume, Findings((group,))), tmp_path, "enhanced")
    report = dcmread(path)
    image = report.ContentSequence[-2].ContentSequence[0].ContentSequence[0].ReferencedSOPSequence[0]
    assert image.ReferencedFrameNumber == where.number
    assert f"frame {where.number}." in next(texts(report, "Findings"))
    assert "1 image object" in list(texts(report, "Current Procedure Descriptions"))[1]
    assert [problem for problem in found_by_dciodvfy(path) if problem.severity == "error"] == []


def test_words_that_the_source_can_not_hold_are_in_utf_8_and_others_are_not(phantom: Case) -> None:
    group = MeasurementGroup("Lunge, größter Durchmesser", codes.LUNG)
    assert report_of(phantom[0], Findings((group,))).SpecificCharacterSet == "ISO_IR 192"
    plain = report_of(phantom[0], Findings((replace(group, label="Lung"),)))
    assert plain.get("SpecificCharacterSet") == phantom[0].sources[0].get("SpecificCharacterSet")


def test_a_number_that_is_none_and_an_answer_are_sentences(phantom: Case) -> None:
    missing = Measurement("mean", codes.ATTENUATION, math.nan, codes.HOUNSFIELD_UNIT, codes.MEAN)
    answer = Evaluation(
        "pneumothorax", Code("36118008", "SCT", "Pneumothorax"), Code("2667000", "SCT", "Absent")
    )
    group = MeasurementGroup("Right lung", codes.LUNG, measurements=(missing,), evaluations=(answer,))
    assert list(texts(report_of(phantom[0], Findings((group,))), "Findings")) == [
        "Right lung: Attenuation coefficient (mean) could not be measured. Pneumothorax: absent."
    ]


@pytest.mark.parametrize(
    ("ucum", "shown"),
    [
        ("[hnsf'U]", "HU"),
        ("mm2", "mm²"),
        ("um2/s", "µm²/s"),
        ("10*-6.mm2/s", "10⁻⁶ mm²/s"),
        ("g/mL{SUVbw}", "g/mL SUVbw"),
        ("{nodules}", "nodules"),
        ("1", ""),
        ("%", "%"),
        ("kg/m2", "kg/m²"),
    ],
)
def test_units_are_as_people_write_them(ucum: str, shown: str) -> None:
    assert unit(Code(ucum, "UCUM", "")) == shown


def test_a_number_keeps_its_decimals_and_zero_has_no_sign() -> None:
    angle = Measurement("angle", Code("1", "L", "Cobb Angle"), -0.02, Code("deg", "UCUM", "degree"))
    assert sentence(angle) == "Cobb angle is 0.0°."
    assert sentence(replace(angle, value=12.345, decimals=2)) == "Cobb angle is 12.35°."  # no rounding down
