"""The operator that writes findings as a TID 1500 Structured Report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.deploy.core import ConditionType, Fragment, OperatorSpec
from pydicom.dataset import Dataset

from isocenter_operators.dicom.results.sr import measurement_report
from isocenter_operators.errors import InvalidResult
from isocenter_operators.result_writer import ResultWriter
from isocenter_operators.run import StoredInstance

__all__ = ["SRWriterOperator"]


class SRWriterOperator(ResultWriter):
    """Writes each number with its unit and what it was measured in, each answer, or that nothing was found.

    Named inputs: `findings`: Findings; `dicom_seg`: what the SEG writer emitted, a list that may be empty;
    `study_selected_series_list`.
    Named output: `dicom_instances`: a list with one Comprehensive 3D SR (PS3.16, TID 1500). It names the priors that
    the run's prior source read, and the reports that this one replaces.

    Parameters
    ----------
    segments, algorithm, created
        See `ResultWriter`.
    takes_seg
        False: there is no input `dicom_seg`, because the findings are about no segments.

    Raises InputError or InvalidResult.

    Example: `SRWriterOperator(self, takes_seg=False, algorithm=MANIFEST.algorithm, record=self.record)`
    """

    _takes_seg = True

    def __init__(self, fragment: Fragment, *args: Any, takes_seg: bool = True, **kwargs: Any) -> None:
        self._takes_seg = takes_seg
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("findings")
        if self._takes_seg:
            spec.input("dicom_seg")
        spec.input("study_selected_series_list")
        spec.output("dicom_instances").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        findings = op_input.receive("findings")
        seg = _the_only(op_input.receive("dicom_seg")) if self._takes_seg else None
        selection = op_input.receive("study_selected_series_list")
        with self._record.step("SR"):
            frames = self._frames(selection)
            report = measurement_report(
                findings=self._noted(selection, findings),
                frames=frames,
                seg=seg,
                segments=self._segments,
                algorithm=self._algorithm,
                identity=self._identity(frames),
                priors=self._record.priors,
                predecessors=[_reference(each) for each in self._record.predecessors],
                disclaimer=self._form.disclaimer,
            )
        op_output.emit([report], "dicom_instances")


def _the_only(segs: Sequence[Dataset]) -> Dataset | None:
    if len(segs) > 1:
        raise InvalidResult(f"a report is about one segmentation, and {len(segs)} were given")
    return segs[0] if segs else None


def _reference(stored: StoredInstance) -> dict[str, str]:
    return {
        "sop_class_uid": stored.sop_class_uid,
        "sop_instance_uid": stored.sop_instance_uid,
        "series_uid": stored.series_uid,
        "study_uid": stored.study_uid,
    }
