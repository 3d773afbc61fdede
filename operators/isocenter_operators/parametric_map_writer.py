"""The operator that writes numbers of each voxel as a DICOM Parametric Map."""

from __future__ import annotations

from functools import partial
from typing import Any

from monai.deploy.core import ConditionType, Fragment, OperatorSpec

from isocenter_operators.dicom.findings import Code
from isocenter_operators.dicom.results.parametric_map import NO_UNITS, parametric_map
from isocenter_operators.result_writer import ResultWriter, array_of

__all__ = ["ParametricMapWriterOperator"]


class ParametricMapWriterOperator(ResultWriter):
    """Writes a probability, saliency or uncertainty on the grid of its series.

    Named inputs: `values`: an SDK Image or an array, float32 (Z, Y, X); `study_selected_series_list`: the series it was
    made from.
    Named output: `dicom_instances`: a list with one Parametric Map.

    Parameters
    ----------
    segments, algorithm, created
        See `ResultWriter`.
    quantity, unit, label, value_range, window, number
        What the values are: see `parametric_map`.
    segment_number
        The segment that they are about, as in the label map; None where they are about none.

    Raises InputError, GeometryError or InvalidResult.

    Example: `ParametricMapWriterOperator(self, quantity=PROBABILITY, segment_number=1, value_range=(0, 1), ...)`
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        quantity: Code,
        unit: Code = NO_UNITS,
        label: str | None = None,
        segment_number: int | None = None,
        value_range: tuple[float, float] | None = None,
        window: tuple[float, float] | None = None,
        number: int = 1,
        **kwargs: Any,
    ) -> None:
        self._written = partial(
            parametric_map,
            quantity=quantity,
            unit=unit,
            label=label,
            value_range=value_range,
            window=window,
            number=number,
        )
        self._segment_number = segment_number
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("values")
        spec.input("study_selected_series_list")
        spec.output("dicom_instances").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        given = op_input.receive("values")
        selection = op_input.receive("study_selected_series_list")
        values = array_of(given)
        about = [segment for segment in self._segments if segment.number == self._segment_number]
        with self._record.step("parametric map"):
            frames = self._frames(selection)
            made = self._written(
                values=self._on_frames(selection, values),
                frames=frames,
                segment=about[0] if about else None,
                algorithm=self._algorithm,
                identity=self._identity(frames),
                disclaimer=self._form.disclaimer,
            )
        op_output.emit(self._form.given([made]), "dicom_instances")
