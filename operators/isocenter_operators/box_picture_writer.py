"""The operator that draws boxes for readers whose viewer shows neither reports nor presentation states."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from monai.deploy.core import ConditionType, OperatorSpec
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Box, Findings, MeasurementGroup, Segment
from isocenter_operators.dicom.header import DISCLAIMER
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.results.picture import overlay_pictures
from isocenter_operators.dicom.results.plane import Section, section_at
from isocenter_operators.dicom.results.region import corners_mm
from isocenter_operators.dicom.series.geometry import Volume
from isocenter_operators.result_writer import ResultWriter
from isocenter_operators.volume import lps_affine

__all__ = ["BoxPictureWriterOperator", "box_pictures"]

_MOST_PICTURES = 6
_MOST_BOXES = 255  # of a label map of uint8
_GOLDEN = 0.618034  # of the circle of hues: neighbours in the list never look alike


class BoxPictureWriterOperator(ResultWriter):
    """Draws axial sections through the surest findings that have a box, as Secondary Capture images.

    Named inputs: `image`; `findings`: Findings, the surest first; `study_selected_series_list`.
    Named output: `dicom_instances`: the pictures, one series; none where no finding has a box. At most six; a finding
    in whose middle half a section before was laid has none of its own.

    Raises InputError.
    """

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("image")
        spec.input("findings")
        spec.input("study_selected_series_list")
        spec.output("dicom_instances").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        image = op_input.receive("image")
        findings = op_input.receive("findings")
        selection = op_input.receive("study_selected_series_list")
        pictures: list[Dataset] = []
        if _boxes(findings):
            with self._record.step("picture"):
                frames = self._frames(selection)
                pictures += box_pictures(
                    volume=Volume(image.asnumpy(), lps_affine(image), frames),
                    findings=self._noted(selection, findings),
                    algorithm=self._algorithm,
                    identity=self._identity(frames),
                    disclaimer=self._form.disclaimer,
                )
        op_output.emit(pictures, "dicom_instances")


def box_pictures(
    *,
    volume: Volume,
    findings: Findings,
    algorithm: Algorithm,
    identity: JobIdentity,
    disclaimer: str = DISCLAIMER,
) -> Sequence[Dataset]:
    """Sections through the findings with a box, of which there has to be one; see `BoxPictureWriterOperator`."""
    boxes = _boxes(findings)
    return overlay_pictures(
        volume=volume,
        labels=_labels([box for _, box in boxes], volume),
        segments=[_segment(group, number) for number, (group, _) in enumerate(boxes, 1)],
        findings=_numbered(findings, boxes),
        algorithm=algorithm,
        identity=identity,
        disclaimer=disclaimer,
        sections=list(_sections(boxes, volume)),
    )


def _boxes(findings: Findings) -> list[tuple[MeasurementGroup, Box]]:
    found = [(group, group.region) for group in findings.groups if isinstance(group.region, Box)]
    return found[:_MOST_BOXES]


def _numbered(findings: Findings, boxes: Sequence[tuple[MeasurementGroup, Box]]) -> Findings:
    """Each group as one of the segments that are drawn."""
    groups = [
        replace(group, region=None, segment_numbers=(number,)) for number, (group, _) in enumerate(boxes, 1)
    ]
    return Findings(tuple(groups), findings.notes)


def _segment(group: MeasurementGroup, number: int) -> Segment:
    red, green, blue = colorsys.hsv_to_rgb((0.15 + number * _GOLDEN) % 1, 0.75, 1.0)
    rgb = round(255 * red), round(255 * green), round(255 * blue)
    return Segment(number, group.label, codes.ANATOMICAL_STRUCTURE, group.finding, rgb)


def _labels(boxes: Sequence[Box], volume: Volume) -> NDArray[np.uint8]:
    """Each box's number in the voxels whose middle it holds, at least one along each axis; the surest on top."""
    labels = np.zeros(volume.voxels.shape, np.uint8)
    for number in range(len(boxes), 0, -1):
        ends = _index_ends(boxes[number - 1], volume)
        labels[tuple(slice(low, high + 1) for low, high in ends)] = number
    return labels


def _index_ends(box: Box, volume: Volume) -> list[tuple[int, int]]:
    """The first and the last voxel along (Z, Y, X)."""
    beside = (corners_mm(box) - volume.affine[:3, 3]).T
    index = np.linalg.solve(volume.affine[:3, :3], beside)  # (x, y, z) of each corner
    middle = index.mean(axis=1)
    found = []
    for axis, count in zip((2, 1, 0), volume.voxels.shape, strict=True):
        low, high = int(np.ceil(index[axis].min())), int(np.floor(index[axis].max()))
        if low > high:
            low = high = round(float(middle[axis]))
        found.append((min(max(low, 0), count - 1), min(max(high, 0), count - 1)))
    return found


def _sections(boxes: Sequence[tuple[MeasurementGroup, Box]], volume: Volume) -> Iterator[Section]:
    depth, height, width = volume.voxels.shape
    heights_mm: list[float] = []
    for group, box in boxes:
        if len(heights_mm) == _MOST_PICTURES:
            return
        middle_mm, reach_mm = box.centre_mm[2], box.size_mm[2] / 4
        if any(abs(each - middle_mm) <= reach_mm for each in heights_mm):
            continue
        heights_mm.append(middle_mm)
        yield section_at(
            box.centre_mm, (depth, height, width), volume.affine, "axial", f"through {group.label}"
        )
