"""The operator that draws the result for readers whose viewer shows no SR numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.deploy.core import ConditionType, OperatorSpec
from numpy.typing import NDArray

from isocenter_operators.dicom.results.picture import overlay_pictures
from isocenter_operators.dicom.series.geometry import Volume
from isocenter_operators.result_writer import ResultWriter, array_of
from isocenter_operators.volume import lps_affine

__all__ = ["PictureWriterOperator"]


class PictureWriterOperator(ResultWriter):
    """Draws a coronal and an axial overlay with the numbers beside it, as Secondary Capture images.

    Named inputs: `image`; `seg_image`: labels, or masks that may overlap; `findings`; `study_selected_series_list`.
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
        labels = _one_map(array_of(seg_image))
        if self._skips(labels):
            op_output.emit([], "dicom_instances")
            return
        with self._record.step("picture"):
            frames = self._frames(selection)
            pictures = overlay_pictures(
                volume=Volume(image.asnumpy(), lps_affine(image), frames),
                labels=labels,
                segments=self._segments,
                findings=self._noted(selection, findings),
                algorithm=self._algorithm,
                identity=self._identity(frames),
                disclaimer=self._form.disclaimer,
            )
        op_output.emit(list(pictures), "dicom_instances")


def _one_map(found: NDArray[Any]) -> NDArray[Any]:
    """Labels (Z, Y, X); of masks that overlap (segments, Z, Y, X) the smallest lies on top, or it would not be seen."""
    if found.ndim == 3:
        return found
    labels = np.zeros(found.shape[1:], np.uint8)
    for place in sorted(range(len(found)), key=lambda place: -int(np.count_nonzero(found[place]))):
        labels[found[place] != 0] = place + 1
    return labels
