"""The operator that writes measurements as a TID 1500 Structured Report."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from monai.deploy.core import ConditionType, Fragment, Operator, OperatorSpec

from isocenter_operators.dicom.findings import Segment
from isocenter_operators.dicom.geometry import slices_of
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.dicom.sr import measurement_report
from isocenter_operators.run import Record
from isocenter_operators.study import identity_of, selected_instances

__all__ = ["SRWriterOperator"]


class SRWriterOperator(Operator):
    """Writes each number with its unit and its reference to the segment it was measured in.

    Named inputs: `findings`: Findings; `dicom_seg`: what the SEG writer emitted; `study_selected_series_list`.
    Named output: `dicom_instances`: a list with one Comprehensive 3D SR (PS3.16, TID 1500).

    Raises InputError or InvalidResult.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        segments: Sequence[Segment],
        algorithm: Algorithm,
        created: datetime | None = None,
        record: Record | None = None,
        **kwargs: Any,
    ) -> None:
        self._segments = tuple(segments)
        self._algorithm = algorithm
        self._created = created
        self._record = record or Record()
        super().__init__(fragment, *args, **kwargs)

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
            sources = slices_of(selected_instances(selection))
            report = measurement_report(
                findings=findings,
                seg=seg,
                sources=sources,
                segments=self._segments,
                algorithm=self._algorithm,
                identity=identity_of(sources, self._algorithm, self._created),
            )
        op_output.emit([report], "dicom_instances")
