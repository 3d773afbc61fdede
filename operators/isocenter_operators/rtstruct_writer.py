"""The operator that writes a label map as an RT Structure Set."""

from __future__ import annotations

from typing import Any

from monai.deploy.core import ConditionType, Fragment, OperatorSpec

from isocenter_operators.dicom.codes import ARTIFICIAL_INTELLIGENCE
from isocenter_operators.dicom.findings import Code
from isocenter_operators.dicom.results.rtstruct import structure_set
from isocenter_operators.result_writer import ResultWriter, array_of

__all__ = ["RTStructWriterOperator"]


class RTStructWriterOperator(ResultWriter):
    """Writes the outlines of a label map, for planning systems and viewers that show structure sets.

    Named inputs: `seg_image`: the label map, or the masks, as the SEG writer gets it; `study_selected_series_list`: the
    series it was made from.
    Named output: `dicom_instances`: a list with one RT Structure Set.

    Parameters
    ----------
    segments, algorithm, created
        See `ResultWriter`.
    algorithm_family
        What kind of algorithm it is (PS3.16, CID 7162).

    Raises InputError, GeometryError or InvalidResult.

    Example: `RTStructWriterOperator(self, segments=[HEART, AORTA], algorithm=MANIFEST.algorithm, record=self.record)`
    """

    def __init__(
        self, fragment: Fragment, *args: Any, algorithm_family: Code = ARTIFICIAL_INTELLIGENCE, **kwargs: Any
    ) -> None:
        self._algorithm_family = algorithm_family
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("seg_image")
        spec.input("study_selected_series_list")
        spec.output("dicom_instances").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        seg_image = op_input.receive("seg_image")
        selection = op_input.receive("study_selected_series_list")
        labels = array_of(seg_image)
        with self._record.step("RTSTRUCT"):
            frames = self._frames(selection)
            structures = structure_set(
                labels=self._found_on_frames(selection, labels),
                frames=frames,
                segments=self._segments,
                algorithm=self._algorithm,
                algorithm_family=self._algorithm_family,
                identity=self._identity(frames),
                disclaimer=self._form.disclaimer,
            )
        op_output.emit(self._form.given([structures]), "dicom_instances")
