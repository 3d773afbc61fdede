"""Measurement reports: every number with its unit and its segments, read back by others."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import highdicom
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from read_back import read_report
from result_cases import findings_of, identity_of, phantom_case, report_of, seg_of, written

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Findings
from isocenter_operators.dicom.rules.validate import check
from isocenter_operators.dicom.series.geometry import Volume
from isocenter_operators.errors import InvalidResult

Case = tuple[Volume, NDArray[np.uint8]]
NOTE = "cut off at the lower end of the scan"


@pytest.fixture(scope="module")
def phantom() -> Case:
    return phantom_case()


@pytest.fixture(scope="module")
def findings(phantom: Case) -> Findings:
    found = findings_of(*phantom, note=NOTE)
    return dataclasses.replace(found, notes=("slices of 12 mm",))


@pytest.fixture(scope="module")
def seg(phantom: Case) -> Dataset:
    return seg_of(*phantom)


@pytest.fixture
def path(phantom: Case, findings: Findings, seg: Dataset, tmp_path: Path) -> Path:
    return written(report_of(phantom[0], findings, seg), tmp_path, "sr")


def content(item: Dataset, concept: str) -> list[Dataset]:
    """The children with this concept's code value."""
    return [c for c in item.ContentSequence if c.ConceptNameCodeSequence[0].CodeValue == concept]


def groups(report: Dataset) -> list[Dataset]:
    return content(content(report, "126010")[0], "125007")


def test_dcmqi_reads_the_same_numbers(
    path: Path, findings: Findings, phantom: Case, seg: Dataset, tmp_path: Path
) -> None:
    read = read_report(path, tmp_path)
    assert len(read) == len(findings.groups)
    for group, got in zip(findings.groups, read, strict=True):
        assert got["ReferencedSegment"] in group.segment_numbers
        assert got["segmentationSOPInstanceUID"] == seg.SOPInstanceUID
        assert got["SourceSeriesForImageSegmentation"] == phantom[0].sources[0].SeriesInstanceUID
        assert got["Laterality"]["CodeMeaning"] == (group.laterality or codes.BILATERAL).meaning
        for wanted, number in zip(group.measurements, got["measurementItems"], strict=True):
            assert float(number["value"]) == pytest.approx(wanted.value, rel=1e-12)
            assert (number["quantity"]["CodeValue"], number["units"]["CodeValue"]) == (
                wanted.concept.value,
                wanted.unit.value,
            )
            derivation = number.get("derivationModifier", {}).get("CodeValue")
            assert derivation == (wanted.derivation.value if wanted.derivation else None)


def test_highdicom_finds_the_groups_of_one_segment_and_of_several(
    path: Path, findings: Findings, seg: Dataset
) -> None:
    report = highdicom.sr.srread(path).content
    references = [group.referenced_segment for group in report.get_volumetric_roi_measurement_groups()]
    assert [reference.referenced_segment_numbers for reference in references] == [[1], [2]]
    assert {reference.referenced_sop_instance_uid for reference in references} == {seg.SOPInstanceUID}
    (both,) = report.get_image_measurement_groups()
    wanted = [measurement.value for measurement in findings.groups[2].measurements]
    assert [measurement.value for measurement in both.get_measurements()] == pytest.approx(wanted)


def test_each_group_points_at_its_segments_and_shares_their_tracking_uid(
    phantom: Case, findings: Findings, seg: Dataset
) -> None:
    report = report_of(phantom[0], findings, seg)
    tracked = {int(item.SegmentNumber): item.TrackingUID for item in seg.SegmentSequence}
    for group, item in zip(findings.groups, groups(report), strict=True):
        references = content(item, "121191")
        numbers = tuple(int(r.ReferencedSOPSequence[0].ReferencedSegmentNumber) for r in references)
        assert numbers == group.segment_numbers
        template = item.ContentTemplateSequence[0].TemplateIdentifier
        assert template == ("1411" if len(numbers) == 1 else "1501")
        uid = content(item, "112040")[0].UID
        if len(numbers) == 1:
            assert uid == tracked[numbers[0]]
        else:
            assert uid == identity_of(phantom[0]).uid("tracking.1+2")


def test_report_stands_as_tid_1500_wants(phantom: Case, findings: Findings, seg: Dataset) -> None:
    volume = phantom[0]
    report = report_of(volume, findings, seg)
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    order = [item.ConceptNameCodeSequence[0].CodeValue for item in report.ContentSequence]
    assert order.index("121058") < order.index("111028") < order.index("126010")
    library = content(content(report, "111028")[0], "126200")[0]
    images = [item for item in library.ContentSequence if item.ValueType == "IMAGE"]
    assert [i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in images] == [
        source.SOPInstanceUID for source in volume.sources
    ]
    private = report.CodingSchemeIdentificationSequence[0]
    assert private.CodingSchemeDesignator == codes.PRIVATE_SCHEME


def test_notes_and_disclaimer_are_in_the_words_given(phantom: Case, findings: Findings, seg: Dataset) -> None:
    report = report_of(phantom[0], findings, seg, disclaimer="Nur zur Forschung")
    assert [item.TextValue for item in content(report, "121106")] == ["slices of 12 mm", "Nur zur Forschung"]
    assert [item.TextValue for item in content(groups(report)[0], "121106")] == [NOTE]
    assert content(groups(report)[1], "121106") == []


def test_a_number_that_is_none_is_left_out_and_said_so(
    phantom: Case, findings: Findings, seg: Dataset, tmp_path: Path
) -> None:
    right = findings.groups[0]
    gone = dataclasses.replace(right.measurements[1], value=math.nan)
    group = dataclasses.replace(right, measurements=(right.measurements[0], gone))
    report = report_of(phantom[0], Findings((group,)), seg)
    check(report)
    (item,) = groups(report)
    assert len(content(item, "118565006")) == 1
    assert content(item, "112031") == []
    assert "mean_density_HU: there is no value" in content(item, "121106")[-1].TextValue
    assert highdicom.sr.srread(written(report, tmp_path, "sr")).content is not None


def test_refuses_a_segment_that_is_not_there(phantom: Case, findings: Findings, seg: Dataset) -> None:
    lost = dataclasses.replace(findings.groups[0], segment_numbers=(7,))
    with pytest.raises(InvalidResult, match="segment 7"):
        report_of(phantom[0], Findings((lost,)), seg)
