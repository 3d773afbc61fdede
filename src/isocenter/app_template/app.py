"""How much of a CT is as dense as bone: its volume and its mean density, drawn into the images and reported.

source -> select -> volume -> input gate -> dense -> SEG, SR -> sink

A threshold is no diagnosis: this is where a model of your own goes. `DenseOperator` is the place, and
`isocenter_operators.triton_inference` asks a model on Triton instead.
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
from isocenter_operators.dicom.findings import Code, Findings, Measurement, MeasurementGroup, Segment
from isocenter_operators.errors import NotApplicable
from isocenter_operators.input_gate import InputGateOperator
from isocenter_operators.manifest import read_manifest
from isocenter_operators.run import Record, Run
from isocenter_operators.seg_writer import SegWriterOperator
from isocenter_operators.series_selector import SeriesSelectorOperator
from isocenter_operators.sr_writer import SRWriterOperator
from isocenter_operators.volume import VolumeOperator

MANIFEST = read_manifest(Path(__file__).parent)
AT_LEAST_HU = 300
TISSUE = Code("85756007", "SCT", "Tissue")  # PS3.16, CID 7150
BONE = Code("3138006", "SCT", "Bone")  # CID 7166
DENSE = Segment(number=1, label="Dense", category=TISSUE, type=BONE, display_rgb=(241, 214, 145))
NOTE = f"all voxels of at least {AT_LEAST_HU} HU were counted: contrast medium, metal and the table too"
# Which series of a study it is for: every condition is a regular expression, as the SDK has them.
SELECTION = json.dumps(
    {"selections": [{"name": "CT", "conditions": {"Modality": "^CT$", "ImageType": "!LOCALIZER"}}]}
)


class DenseTissue(Application):
    """The graph: which operator gives what to which."""

    def compose(self) -> None:
        task, record = self.task, self.record
        made_by: dict[str, Any] = {"algorithm": MANIFEST.algorithm, "created": task.created, "record": record}
        source, sink = self.source(), self.sink()
        selector = SeriesSelectorOperator(self, rules=SELECTION, record=record, name="select")
        volume = VolumeOperator(self, rescale_type="HU", release_pixels=True, record=record, name="volume")
        gate = InputGateOperator(self, accepts=MANIFEST.accepts, record=record, name="gate")
        dense = DenseOperator(self, record=record, name="dense")
        seg = SegWriterOperator(self, segments=(DENSE,), name="seg", **made_by)
        sr = SRWriterOperator(self, segments=(DENSE,), name="sr", **made_by)

        selected = {("study_selected_series_list", "study_selected_series_list")}
        self.add_flow(source, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, volume, selected)
        self.add_flow(volume, gate, {("image", "image")})
        self.add_flow(gate, dense, {("image", "image")})
        for writer in (seg, sr):
            self.add_flow(selector, writer, selected)
            self.add_flow(writer, sink, {("dicom_instances", "dicom_instances")})
        self.add_flow(dense, seg, {("seg_image", "seg_image")})
        self.add_flow(dense, sr, {("findings", "findings")})
        self.add_flow(seg, sr, {("dicom_instances", "dicom_seg")})


class DenseOperator(Operator):
    """Finds the dense voxels and measures them.

    Named input: `image`, Hounsfield units. Named outputs: `seg_image`, uint8 (Z, Y, X); `findings`.
    Raises NotApplicable.
    """

    def __init__(self, fragment: Fragment, *args: Any, record: Record, **kwargs: Any) -> None:
        self._record = record
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("image")
        spec.output("seg_image")
        spec.output("findings")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        image = op_input.receive("image")
        with self._record.step("measure"):
            affine = np.asarray(image.metadata()["affine"])  # index (x, y, z, 1) to mm
            labels, findings = measured(image.asnumpy(), abs(float(np.linalg.det(affine[:3, :3]))))
        self._record.findings = findings
        op_output.emit(labels, "seg_image")
        op_output.emit(findings, "findings")


def measured(hu: NDArray[np.int16], voxel_mm3: float) -> tuple[NDArray[np.uint8], Findings]:
    """The label map (Z, Y, X) of the dense voxels, and what is to be said of them. Raises NotApplicable."""
    dense = hu >= AT_LEAST_HU
    count = int(np.count_nonzero(dense))
    if count == 0:
        raise NotApplicable(f"no voxel of the images has {AT_LEAST_HU} HU or more")
    volume = Measurement("volume_mL", codes.VOLUME, count * voxel_mm3 / 1000, codes.MILLILITER)
    mean_hu = float(hu[dense].mean(dtype=np.float64))
    density = Measurement(
        "mean_density_HU", codes.ATTENUATION, mean_hu, codes.HOUNSFIELD_UNIT, derivation=codes.MEAN
    )
    group = MeasurementGroup("Dense", BONE, (1,), (volume, density), notes=(NOTE,))
    return dense.astype(np.uint8), Findings(groups=(group,))


def application(task: Run | None = None) -> Application:
    """One run of the application, ready to be executed; without a task, the one that the environment names."""
    return DenseTissue(task or Run.from_environment(deadline_s=MANIFEST.deadline_s))
