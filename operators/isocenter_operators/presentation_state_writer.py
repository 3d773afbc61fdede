"""The operator that draws detections on the images, as presentation states."""

from __future__ import annotations

from typing import Any

from monai.deploy.core import ConditionType, OperatorSpec
from pydicom.dataset import Dataset

from isocenter_operators.dicom.results.presentation_state import presentation_states
from isocenter_operators.result_writer import ResultWriter

__all__ = ["PresentationStateWriterOperator"]


class PresentationStateWriterOperator(ResultWriter):
    """Draws each finding that has a place or an outline on the images where it is seen, with its name.

    Named inputs: `findings`: Findings; `study_selected_series_list`.
    Named output: `dicom_instances`: a list of Grayscale Softcopy Presentation States, most often of one; empty where no
    finding has a region, and so there is nothing to draw.

    Raises InputError or InvalidResult.

    Example: `PresentationStateWriterOperator(self, algorithm=MANIFEST.algorithm, record=self.record)`
    """

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("findings")
        spec.input("study_selected_series_list")
        spec.output("dicom_instances").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        findings = op_input.receive("findings")
        selection = op_input.receive("study_selected_series_list")
        states: list[Dataset] = []
        if any(group.region is not None for group in findings.groups):
            with self._record.step("presentation state"):
                frames = self._frames(selection)
                states.extend(
                    presentation_states(
                        findings=findings,
                        frames=frames,
                        algorithm=self._algorithm,
                        identity=self._identity(frames),
                        disclaimer=self._form.disclaimer,
                    )
                )
        op_output.emit(self._form.given(states), "dicom_instances")
