"""Quantitative CT of the lungs: volume, mean density, low-attenuation area and 15th percentile of each lung.

source -> select -> volume -> input gate -> model on Triton -> density -> SEG, SR, pictures -> sink
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from monai.deploy.core import Fragment, Operator, OperatorSpec
from numpy.typing import NDArray

from isocenter_operators.application import Application
from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Findings, Measurement, MeasurementGroup, Segment
from isocenter_operators.errors import NotApplicable
from isocenter_operators.input_gate import InputGateOperator
from isocenter_operators.manifest import read_manifest
from isocenter_operators.picture_writer import PictureWriterOperator
from isocenter_operators.run import Record, Run
from isocenter_operators.seg_writer import SegWriterOperator
from isocenter_operators.series_selector import SeriesSelectorOperator
from isocenter_operators.sr_writer import SRWriterOperator
from isocenter_operators.triton_inference import TritonInferenceOperator
from isocenter_operators.volume import VolumeOperator

MANIFEST = read_manifest(Path(__file__).parent)
MODEL = "ct_lung_density"
SELECTION = json.dumps(
    {
        "selections": [
            {
                "name": "chest CT",
                "conditions": {
                    "Modality": "^CT$",
                    # CT Image Storage, also Enhanced: exam summaries call themselves CT too.
                    "SOPClassUID": r"^1\.2\.840\.10008\.5\.1\.4\.1\.1\.2(\.1)?$",
                    "ImageType": "!LOCALIZER",
                },
            }
        ]
    }
)

RIGHT_LUNG = Segment(
    number=1,
    label="Right lung",
    category=codes.ANATOMICAL_STRUCTURE,
    type=codes.LUNG,
    laterality=codes.RIGHT,
    display_rgb=(92, 156, 219),
)
LEFT_LUNG = Segment(
    number=2,
    label="Left lung",
    category=codes.ANATOMICAL_STRUCTURE,
    type=codes.LUNG,
    laterality=codes.LEFT,
    display_rgb=(236, 167, 84),
)


class CTLungDensity(Application):
    """The graph. Its model measures; everything here is only about saying it in DICOM."""

    def compose(self) -> None:
        task, record = self.task, self.record
        made_by: dict[str, Any] = {"algorithm": MANIFEST.algorithm, "created": task.created, "record": record}
        source, sink = self.source(), self.sink()
        selector = SeriesSelectorOperator(self, rules=SELECTION, record=record, name="select")
        volume = VolumeOperator(self, rescale_type="HU", release_pixels=True, record=record, name="volume")
        gate = InputGateOperator(self, accepts=MANIFEST.accepts, record=record, name="gate")
        model = TritonInferenceOperator(
            self,
            model_name=MODEL,
            further_outputs=("measurements", "findings"),
            client=task.inference,
            triton_url=task.triton_url,
            deadline_s=task.deadline_s,
            priority=task.priority,
            record=record,
            name="inference",
        )
        density = LungDensityOperator(self, record=record, name="density")
        segments = (RIGHT_LUNG, LEFT_LUNG)
        seg = SegWriterOperator(
            self, segments=segments, algorithm_family=codes.MORPHOLOGICAL_OPERATIONS, name="seg", **made_by
        )
        sr = SRWriterOperator(self, segments=segments, name="sr", **made_by)
        picture = PictureWriterOperator(self, segments=segments, name="picture", **made_by)

        selected = {("study_selected_series_list", "study_selected_series_list")}
        self.add_flow(source, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, volume, selected)
        self.add_flow(volume, gate, {("image", "image")})
        self.add_flow(gate, model, {("image", "image")})
        self.add_flow(model, density, {("pred", "pred"), ("tensors", "tensors")})
        for writer in (seg, sr, picture):
            self.add_flow(selector, writer, selected)
            self.add_flow(writer, sink, {("dicom_instances", "dicom_instances")})
        self.add_flow(density, seg, {("seg_image", "seg_image")})
        self.add_flow(density, sr, {("findings", "findings")})
        self.add_flow(seg, sr, {("dicom_instances", "dicom_seg")})
        self.add_flow(density, picture, {("seg_image", "seg_image"), ("findings", "findings")})
        self.add_flow(volume, picture, {("image", "image")})


class LungDensityOperator(Operator):
    """Gives the model's numbers their meaning; stops the graph where the model found no lungs.

    Named inputs: `pred`, `tensors`. Named outputs: `seg_image`, `findings`. Raises NotApplicable.
    """

    def __init__(self, fragment: Fragment, *args: Any, record: Record, **kwargs: Any) -> None:
        self._record = record
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("pred")
        spec.input("tensors")
        spec.output("seg_image")
        spec.output("findings")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        labels = op_input.receive("pred")
        tensors = op_input.receive("tensors")
        said = json.loads(tensors["findings"].tobytes())
        if not said["applicable"]:
            raise NotApplicable(said["reason"], model=MODEL)
        findings = findings_of(tensors["measurements"], tuple(said["notes"]))
        self._record.findings = findings
        op_output.emit(labels, "seg_image")
        op_output.emit(findings, "findings")


def findings_of(measurements: NDArray[np.float64], notes: tuple[str, ...]) -> Findings:
    """The model's table, (3, 4): rows right, left, both; columns mL, mean HU, LAA-950 %, 15th percentile HU."""
    regions = (
        ("Right lung", (1,), codes.RIGHT),
        ("Left lung", (2,), codes.LEFT),
        ("Both lungs", (1, 2), codes.BILATERAL),
    )
    return Findings(
        groups=tuple(
            MeasurementGroup(
                label=label,
                segment_numbers=numbers,
                finding=codes.LUNG,
                laterality=laterality,
                measurements=_measurements(row.tolist()),
            )
            for (label, numbers, laterality), row in zip(regions, measurements, strict=True)
        ),
        notes=notes,
    )


def _measurements(row: list[float]) -> tuple[Measurement, ...]:
    volume_ml, mean_hu, laa_950_percent, p15_hu = row
    return (
        Measurement("volume_mL", codes.VOLUME, volume_ml, codes.MILLILITER, decimals=0),
        Measurement(
            "mean_density_HU", codes.ATTENUATION, mean_hu, codes.HOUNSFIELD_UNIT, derivation=codes.MEAN
        ),
        Measurement("laa_950_percent", codes.LAA_950, laa_950_percent, codes.PERCENT),
        Measurement(
            "percentile_15_HU",
            codes.ATTENUATION,
            p15_hu,
            codes.HOUNSFIELD_UNIT,
            derivation=codes.PERCENTILE_15,
            decimals=0,
        ),
    )


def application(task: Run | None = None) -> Application:
    """One run of the application, ready to be executed; without a task, the one that the environment names."""
    return CTLungDensity(task or Run.from_environment(deadline_s=MANIFEST.deadline_s))
