"""The operator that writes the findings in plain sentences."""

from __future__ import annotations

from typing import Any

from monai.deploy.core import ConditionType, OperatorSpec

from isocenter_operators.dicom.results.text_report import text_report
from isocenter_operators.result_writer import ResultWriter

__all__ = ["TextReportWriterOperator"]


class TextReportWriterOperator(ResultWriter):
    """Writes what was found, of which images and by what, for a reader without a viewer for measurements.

    Named inputs: `findings`: Findings; `study_selected_series_list`.
    Named output: `dicom_instances`: a list with one Basic Text SR (PS3.16, TID 2000).

    Raises InputError or InvalidResult.
    """

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("findings")
        spec.input("study_selected_series_list")
        spec.output("dicom_instances").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        findings = op_input.receive("findings")
        selection = op_input.receive("study_selected_series_list")
        with self._record.step("text report"):
            frames = self._frames(selection)
            report = text_report(
                findings=self._noted(selection, findings),
                frames=frames,
                algorithm=self._algorithm,
                identity=self._identity(frames),
                disclaimer=self._form.disclaimer,
            )
        op_output.emit(self._form.given([report]), "dicom_instances")
