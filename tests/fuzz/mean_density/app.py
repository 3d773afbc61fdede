"""The least that an application does: a volume, a label map and a number of it, written as SEG and SR."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
from monai.deploy.core import Fragment, Operator, OperatorSpec

from isocenter_operators.application import Application
from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Findings, Measurement, MeasurementGroup, Segment
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.run import Record, Run
from isocenter_operators.seg_writer import SegWriterOperator
from isocenter_operators.series_selector import SeriesSelectorOperator
from isocenter_operators.sr_writer import SRWriterOperator
from isocenter_operators.volume import VolumeOperator

ALGORITHM = Algorithm("mean_density", "1.0", {})
SEGMENTS = (Segment(1, "Bright", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (92, 156, 219)),)
SELECTION = json.dumps({"selections": [{"name": "slices", "conditions": {"Modality": "^(CT|MR)$"}}]})


class MeanDensity(Application):
    def compose(self) -> None:
        task, record = self.task, self.record
        made_by: dict[str, Any] = {"algorithm": ALGORITHM, "created": task.created, "record": record}
        source, sink = self.source(), self.sink()
        selector = SeriesSelectorOperator(self, rules=SELECTION, record=record, name="select")
        volume = VolumeOperator(self, release_pixels=True, record=record, name="volume")
        mean = MeanOperator(self, record=record, name="mean")
        seg = SegWriterOperator(self, segments=SEGMENTS, name="seg", **made_by)
        sr = SRWriterOperator(self, segments=SEGMENTS, name="sr", **made_by)
        selected = {("study_selected_series_list", "study_selected_series_list")}
        self.add_flow(source, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, volume, selected)
        self.add_flow(volume, mean, {("image", "image")})
        for writer in (seg, sr):
            self.add_flow(selector, writer, selected)
            self.add_flow(writer, sink, {("dicom_instances", "dicom_instances")})
        self.add_flow(mean, seg, {("seg_image", "seg_image")})
        self.add_flow(mean, sr, {("findings", "findings")})
        self.add_flow(seg, sr, {("dicom_instances", "dicom_seg")})


class MeanOperator(Operator):
    """Named input: `image`. Named outputs: `seg_image`, the brighter voxels; `findings`, the mean of all."""

    def __init__(self, fragment: Fragment, *args: Any, record: Record, **kwargs: Any) -> None:
        self._record = record
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("image")
        spec.output("seg_image")
        spec.output("findings")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        voxels = op_input.receive("image").asnumpy()
        _ = bytearray(int(os.environ.get("MEAN_DENSITY_WASTES_MB", "0")) << 20)
        mean = float(voxels.mean(dtype=np.float64))
        density = Measurement(
            "mean_density_HU", codes.ATTENUATION, mean, codes.HOUNSFIELD_UNIT, derivation=codes.MEAN
        )
        group = MeasurementGroup("All", codes.LUNG, (1,), (density,))
        self._record.findings = Findings(groups=(group,))
        labels = (voxels > mean).astype(np.uint8)
        labels[:, :1, :1] = 1  # a segment of nothing is not written
        op_output.emit(labels, "seg_image")
        op_output.emit(self._record.findings, "findings")


def application(task: Run | None = None) -> Application:
    return MeanDensity(task or Run.from_environment())
