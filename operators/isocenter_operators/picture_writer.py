"""The operator that draws the result for readers whose viewer shows no SR numbers."""

from __future__ import annotations

from typing import Any

from monai.deploy.core import ConditionType, OperatorSpec

from isocenter_operators.dicom.results.picture import overlay_pictures
from isocenter_operators.dicom.series.geometry import Volume
from isocenter_operators.result_writer import ResultWriter
from isocenter_operators.volume import lps_affine

__all__ = ["PictureWriterOperator"]


class PictureWriterOperator(ResultWriter):
    """Draws a coronal and an axial overlay with the numbers beside it, as Secondary Capture images.

    Named inputs: `image`; `seg_image`; `findings`; `study_selected_series_list`.
    Named output: `dicom_instances`: the pictures, one series.

    Raises InputError.
    """

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("image")
        spec.input("seg_image")
        spec.input("findings")
        spec.input("study_selected_series_list")
        spec.output("dicom_instances").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        image = op_input.receive("image")
        seg_image = op_input.receive("seg_image")
        findings = op_input.receive("findings")
        selection = op_input.receive("study_selected_series_list")
        with self._record.step("picture"):
            frames = self._frames(selection)
            pictures = overlay_pictures(
                volume=Volume(image.asnumpy(), lps_affine(image), frames),
                labels=seg_image.asnumpy(),
                segments=self._segments,
                findings=self._noted(selection, findings),
                algorithm=self._algorithm,
                identity=self._identity(frames),
                disclaimer=self._form.disclaimer,
            )
        op_output.emit(list(pictures), "dicom_instances")
