"""Every real series of the test data through a trivial segmentation to every kind of result, each of them checked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from read_back import found_by_dciodvfy
from result_cases import (
    ALGORITHM,
    SEGMENTS,
    SERIES,
    findings_of,
    identity_of,
    pictures_of,
    read_case,
    written,
)

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Findings, MeasurementGroup, Points
from isocenter_operators.dicom.results.derived_series import derived_series
from isocenter_operators.dicom.results.key_frames import key_frames
from isocenter_operators.dicom.results.key_objects import key_images, result_set
from isocenter_operators.dicom.results.parametric_map import PROBABILITY, parametric_map
from isocenter_operators.dicom.results.pdf_report import pdf_report
from isocenter_operators.dicom.results.presentation_state import presentation_states
from isocenter_operators.dicom.results.rtstruct import structure_set
from isocenter_operators.dicom.results.seg import fractional_segmentation, segmentation
from isocenter_operators.dicom.results.sr import measurement_report
from isocenter_operators.dicom.results.text_report import text_report
from isocenter_operators.dicom.rules.problem import Problem
from isocenter_operators.dicom.rules.validate import problems
from isocenter_operators.dicom.series.geometry import Volume

SLICES = 4
LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"  # which dciodvfy does not know


@pytest.mark.parametrize("series", SERIES)
def test_every_result_of_a_series_is_valid(series: str, test_data: Path, tmp_path: Path) -> None:
    volume, labels = part_of(*read_case(test_data / series))
    for name, result in results_of(volume, labels, findings_of(volume, labels)):
        found = problems(result)
        if result.SOPClassUID != LABELMAP:
            found += found_by_dciodvfy(written(result, tmp_path, name))
        assert errors_of(found) == [], name


def part_of(volume: Volume, labels: NDArray[np.uint8]) -> tuple[Volume, NDArray[np.uint8]]:
    """Of a long series some slices in its middle: each result of each slice is checked in the same way."""
    first = max(len(labels) - SLICES, 0) // 2
    part = slice(first, first + SLICES)
    affine = volume.affine.copy()
    affine[:3, 3] += first * affine[:3, 2]
    return Volume(volume.voxels[part], affine, volume.frames[part]), labels[part]


def errors_of(found: list[Problem]) -> list[str]:
    return [f"{each.where}: {each.message}" for each in found if each.severity == "error"]


def marked(volume: Volume) -> Findings:
    """A point in the middle of the volume, as a detection would be."""
    depth, height, width = volume.voxels.shape
    point = volume.affine @ (width // 2, height // 3, depth // 2, 1)
    where = Points(((float(point[0]), float(point[1]), float(point[2])),))
    return Findings((MeasurementGroup("A place", codes.LUNG, region=where),))


def results_of(
    volume: Volume, labels: NDArray[np.uint8], findings: Findings
) -> Iterator[tuple[str, Dataset]]:
    """(name, result) of each kind; of a derived series its first and last image."""
    made: dict[str, Any] = {"frames": volume.frames, "algorithm": ALGORITHM, "identity": identity_of(volume)}
    seg = segmentation(labels=labels, segments=SEGMENTS, **made)
    results = {
        "BINARY": seg,
        "LABELMAP": segmentation(labels=labels, segments=SEGMENTS, kind="LABELMAP", **made),
        "FRACTIONAL": fractional_segmentation(
            fractions=np.stack([(labels == n) * np.uint8(200) for n in (1, 2)]), segments=SEGMENTS, **made
        ),
        "SR": measurement_report(findings=findings, seg=seg, segments=SEGMENTS, **made),
        "text report": text_report(findings=findings, **made),
        "PDF": pdf_report(findings=findings, segments=SEGMENTS, **made),
        "picture": pictures_of(volume, labels, findings)[0],
        "map": parametric_map(
            values=np.where(labels > 0, np.float32(0.75), np.float32(0)), quantity=PROBABILITY, **made
        ),
        "structures": structure_set(labels=labels, segments=SEGMENTS, **made),
    }
    results["presentation"] = presentation_states(findings=marked(volume), **made)[0]
    modality = str(volume.frames[0].get("Modality"))
    derived = derived_series(
        voxels=volume.voxels,
        what="Copied",
        **made,
        **({} if modality in ("CT", "MR") else {"modality": "CT"}),
    )
    results |= {"derived, first": derived[0], "derived, last": derived[-1]}
    by = {"algorithm": ALGORITHM, "identity": identity_of(volume)}
    chosen = key_frames(frames=volume.frames, findings=findings, labels=labels, segments=SEGMENTS)
    results["key images"] = key_images(selected=chosen, **by)
    source = volume.frames[0].instance
    # A job makes one or the other: they have one UID.
    one_job = [result for name, result in results.items() if name != "LABELMAP"]
    results["result set"] = result_set(results=one_job, source=source, **by)
    yield from results.items()
