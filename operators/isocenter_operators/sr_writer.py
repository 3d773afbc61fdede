"""The operator that writes measurements as a TID 1500 Structured Report."""

from __future__ import annotations

from typing import Any

from monai.deploy.core import ConditionType, OperatorSpec

from isocenter_operators.dicom.sr import measurement_report
from isocenter_operators.result_writer import ResultWriter

__all__ = ["SRWriterOperator"]


class SRWriterOperator(ResultWriter):
    """Writes each number with its unit and its reference to the segment it was measured in.

    Named inputs: `findings`: Findings; `dicom_seg`: what the SEG writer emitted; `study_selected_series_list`.
    Named output: `dicom_instances`: a list with one Comprehensive 3D SR (PS3.16, TID 1500).

    Raises InputError or InvalidResult.
    """

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("findings")
        spec.input("dicom_seg")
        spec.input("study_selected_series_list")
        spec.output("dicom_instances").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        findings = op_input.receive("findings")
        (seg,) = op_input.receive("dicom_seg")
        selection = op_input.receive("study_selected_series_list")
        with self._record.step("SR"):
            frames = self._frames(selection)
            report = measurement_report(
                findings=findings,
                seg=seg,
                frames=frames,
                segments=self._segments,
                algorithm=self._algorithm,
                identity=self._identity(frames),
                disclaimer=self._form.disclaimer,
            )
        op_output.emit([report], "dicom_instances")
