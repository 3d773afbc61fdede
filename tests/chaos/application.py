"""The applications of the fault test and the load run: the same few lines under several names (see `installation`).

They find a bright ball in a small volume, by a threshold or by the model `self_test` on Triton, and write a real
Segmentation and a real Structured Report that name every image they were made from.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
from monai.deploy.core import Fragment, Operator, OperatorSpec
from monai.deploy.core.domain.image import Image

from isocenter_operators.application import Application
from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Findings, Measurement, MeasurementGroup, Segment
from isocenter_operators.dicom.results.seg import segmentation
from isocenter_operators.dicom.results.sr import measurement_report
from isocenter_operators.dicom.series.frame import instances_of
from isocenter_operators.dicom.series.geometry import slices_of, volume_of
from isocenter_operators.inference.triton import TritonClient
from isocenter_operators.manifest import read_manifest
from isocenter_operators.run import Record, Run
from isocenter_operators.seg_writer import SegWriterOperator
from isocenter_operators.series_selector import SeriesSelectorOperator
from isocenter_operators.sr_writer import SRWriterOperator
from isocenter_operators.study import identity_of
from isocenter_operators.volume import VolumeOperator

MANIFEST = read_manifest(Path(__file__).parent)
RULES = '{"selections": [{"name": "CT", "conditions": {"Modality": "^CT$"}}]}'
AIR = Segment(1, "Air", codes.ANATOMICAL_STRUCTURE, codes.LUNG, (92, 156, 219))


class OneSeries(Application):
    """source -> select -> volume -> air -> SEG, SR -> sink."""

    def compose(self) -> None:
        made_by: dict[str, Any] = {
            "segments": (AIR,),
            "algorithm": MANIFEST.algorithm,
            "created": self.task.created,
            "record": self.record,
        }
        source, sink = self.source(), self.sink()
        selector = SeriesSelectorOperator(self, rules=RULES, record=self.record, name="select")
        volume = VolumeOperator(self, record=self.record, name="volume")
        air = AirOperator(self, task=self.task, record=self.record, name="air")
        seg = SegWriterOperator(self, name="seg", **made_by)
        sr = SRWriterOperator(self, name="sr", **made_by)
        selected = {("study_selected_series_list", "study_selected_series_list")}
        self.add_flow(source, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, volume, selected)
        self.add_flow(volume, air, {("image", "image")})
        for writer in (seg, sr):
            self.add_flow(selector, writer, selected)
            self.add_flow(writer, sink, {("dicom_instances", "dicom_instances")})
        self.add_flow(air, seg, {("seg_image", "seg_image")})
        self.add_flow(air, sr, {("findings", "findings")})
        self.add_flow(seg, sr, {("dicom_instances", "dicom_seg")})


class AirOperator(Operator):
    """Labels what is below 0 HU: by itself, or by the model that app.yaml names."""

    def __init__(self, fragment: Fragment, *args: Any, task: Run, record: Record, **kwargs: Any) -> None:
        self._task = task
        self._record = record
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("image")
        spec.output("seg_image")
        spec.output("findings")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        image = op_input.receive("image")
        voxels = np.ascontiguousarray(image.asnumpy(), np.int16)  # (Z, Y, X), HU
        if MANIFEST.name == "poison" and "poison" in str(image.metadata()["sources"][0].StudyDescription):
            os.kill(os.getpid(), signal.SIGKILL)
        with self._record.step("air"):
            labels = self._by_model(voxels) if MANIFEST.models else (voxels < 0).astype(np.uint8)
        self._record.findings = findings_of(labels)
        op_output.emit(Image(labels, image.metadata()), "seg_image")
        op_output.emit(self._record.findings, "findings")

    def _by_model(self, voxels: np.ndarray[Any, np.dtype[np.int16]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        outputs: dict[str, int | None] = {"mask": voxels.size}
        arguments: dict[str, Any] = {"outputs": outputs, "deadline_s": self._task.deadline_s}
        if self._task.inference is not None:
            mask = self._task.inference.infer("self_test", {"int16": voxels}, **arguments)["mask"]
        else:
            with TritonClient(self._task.triton_url) as client:
                mask = client.infer("self_test", {"int16": voxels}, **arguments)["mask"]
        return np.array(mask.reshape(voxels.shape), np.uint8)


class WholeStudy(Application):
    """source -> both -> sink: one report on every series of the study."""

    def compose(self) -> None:
        source, sink = self.source(), self.sink()
        both = BothOperator(self, task=self.task, record=self.record, name="both")
        self.add_flow(source, both, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(both, sink, {("dicom_instances", "dicom_instances")})


class BothOperator(Operator):
    """A Segmentation of the first series, and a report that names the images of all."""

    def __init__(self, fragment: Fragment, *args: Any, task: Run, record: Record, **kwargs: Any) -> None:
        self._task = task
        self._record = record
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("dicom_study_list")
        spec.output("dicom_instances")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        (study,) = op_input.receive("dicom_study_list")
        series = sorted(study.get_all_series(), key=lambda each: str(each.SeriesInstanceUID))
        images = [[one.get_native_sop_instance() for one in each.get_sop_instances()] for each in series]
        with self._record.step("both"):
            first = slices_of(images[0])
            frames = [*first, *(frame for each in images[1:] for frame in slices_of(each))]
            identity = identity_of(instances_of(frames), MANIFEST.algorithm, self._task.created)
            labels = (volume_of(images[0]).voxels < 0).astype(np.uint8)
            made_by: dict[str, Any] = {
                "segments": (AIR,),
                "algorithm": MANIFEST.algorithm,
                "identity": identity,
            }
            self._record.findings = findings_of(labels)
            seg = segmentation(labels=labels, frames=first, **made_by)
            report = measurement_report(findings=self._record.findings, seg=seg, frames=frames, **made_by)
        op_output.emit([seg, report], "dicom_instances")


def findings_of(labels: np.ndarray[Any, np.dtype[np.uint8]]) -> Findings:
    share = 100.0 * float(labels.mean())
    measured = (Measurement("air_percent", codes.LAA_950, share, codes.PERCENT),)
    return Findings(groups=(MeasurementGroup("Air", codes.LUNG, (1,), measured),))


def application(task: Run | None = None) -> Application:
    """One run of the application, ready to be executed."""
    return (WholeStudy if MANIFEST.name == "pair" else OneSeries)(task)
