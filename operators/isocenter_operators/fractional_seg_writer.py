"""The operator that writes probabilities or occupancies of segments as a DICOM Segmentation."""

from __future__ import annotations

from typing import Any

from monai.deploy.core import ConditionType, Fragment, OperatorSpec

from isocenter_operators.dicom.results.seg import FractionalKind, fractional_segmentation
from isocenter_operators.result_writer import ResultWriter, array_of

__all__ = ["FractionalSegWriterOperator"]


class FractionalSegWriterOperator(ResultWriter):
    """Writes how likely each voxel belongs to each segment, or how much of it, on the grid of its series.

    Named inputs: `fractions`: an SDK Image or an array, float32 (segments, Z, Y, X) in 0..1, or uint8 of the stored
    values; `study_selected_series_list`: the series it was made from.
    Named output: `dicom_instances`: a list with one FRACTIONAL Segmentation, in a series of its own.

    Parameters
    ----------
    segments, algorithm, created
        See `ResultWriter`.
    kind
        What the fractions mean: "PROBABILITY" or "OCCUPANCY" (PS3.3, C.8.20.2.3).
    maximum_fractional_value
        The stored value that stands for 1, in 1..255.

    Raises InputError, GeometryError or InvalidResult.

    Example: `FractionalSegWriterOperator(self, segments=[LESION], algorithm=Algorithm("lesions", "1.0"))`
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        kind: FractionalKind = "PROBABILITY",
        maximum_fractional_value: int = 255,
        **kwargs: Any,
    ) -> None:
        self._kind = kind
        self._maximum_fractional_value = maximum_fractional_value
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("fractions")
        spec.input("study_selected_series_list")
        spec.output("dicom_instances").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        given = op_input.receive("fractions")
        selection = op_input.receive("study_selected_series_list")
        fractions = array_of(given)
        with self._record.step("fractional SEG"):
            frames = self._frames(selection)
            seg = fractional_segmentation(
                fractions=self._found_on_frames(selection, fractions),
                frames=frames,
                segments=self._segments,
                algorithm=self._algorithm,
                identity=self._identity(frames),
                kind=self._kind,
                maximum_fractional_value=self._maximum_fractional_value,
                transfer_syntax_uid=self._form.profile.transfer_syntax("FRACTIONAL"),
                disclaimer=self._form.disclaimer,
            )
        op_output.emit(self._form.given([seg]), "dicom_instances")
