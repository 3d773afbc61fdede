"""The operator that finds the one series for each sequence that a model takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from monai.deploy.core import ConditionType, Fragment, Operator, OperatorSpec
from monai.deploy.core.domain.dicom_series import DICOMSeries
from monai.deploy.core.domain.dicom_series_selection import SelectedSeries, StudySelectedSeries
from monai.deploy.core.domain.dicom_study import DICOMStudy

from isocenter_operators.dicom.gate.sequence import SequenceRule, speaks_against
from isocenter_operators.dicom.series.frame import Frame, frames_of
from isocenter_operators.errors import NotApplicable
from isocenter_operators.run import Record

__all__ = ["SequenceSelectorOperator"]

_IMAGES = {"1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.4.1"}  # MR and Enhanced MR Image Storage


class SequenceSelectorOperator(Operator):
    """Selects, in one study, one MR series for each rule, in the rules' order.

    Named input: `dicom_study_list`. Named output: `study_selected_series_list`: one study with one selected series for
    each rule, each with the rule's name as its selection's.

    Raises NotApplicable where a sequence is missing, several series are the same one, or one series is two: with what
    speaks against each series there is. It never chooses between two.

    Example: `SequenceSelectorOperator(self, rules=[rule_of("T1c"), rule_of("FLAIR")], record=self.record)`
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        rules: Sequence[SequenceRule],
        record: Record | None = None,
        **kwargs: Any,
    ) -> None:
        self._rules = tuple(rules)
        self._record = record or Record()
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("dicom_study_list")
        spec.output("study_selected_series_list").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        studies: list[DICOMStudy] = op_input.receive("dicom_study_list")
        with self._record.step("select"):
            found, reasons = [], []
            for study in studies:
                try:
                    found.append(self._of_study(study))
                except NotApplicable as refusal:
                    reasons.append(str(refusal))
            if len(found) != 1:
                raise NotApplicable(
                    f"{len(found)} studies have all of {self._names}; the images of one are needed"
                    if found
                    else "; ".join(reasons) or "there are no images"
                )
        op_output.emit(found, "study_selected_series_list")

    @property
    def _names(self) -> str:
        return ", ".join(rule.name for rule in self._rules)

    def _of_study(self, study: DICOMStudy) -> StudySelectedSeries:
        scans = list(_scans(study))
        selected = StudySelectedSeries(study)
        taken: dict[str, str] = {}
        for rule in self._rules:
            series = _the_one(scans, rule)
            uid = str(series.SeriesInstanceUID)
            if uid in taken:
                raise NotApplicable(f"series {uid} is {taken[uid]} and {rule.name}: it can be one of them")
            taken[uid] = rule.name
            selected.add_selected_series(SelectedSeries(rule.name, series, None))
        return selected


def _scans(study: DICOMStudy) -> Iterator[tuple[DICOMSeries, Frame]]:
    for series in study.get_all_series():
        first = series.get_sop_instances()[0].get_native_sop_instance()
        if str(first.get("SOPClassUID")) in _IMAGES:
            yield series, frames_of([first])[0]


def _the_one(scans: Sequence[tuple[DICOMSeries, Frame]], rule: SequenceRule) -> DICOMSeries:
    against = {id(series): speaks_against(frame, rule) for series, frame in scans}
    matching = [series for series, _ in scans if not against[id(series)]]
    if len(matching) == 1:
        return matching[0]
    if matching:
        uids = ", ".join(sorted(str(series.SeriesInstanceUID) for series in matching))
        raise NotApplicable(
            f"{len(matching)} series are {rule.name}: {uids}; which one is meant is not known"
        )
    told = "; ".join(f"series {series.SeriesInstanceUID}: {against[id(series)]}" for series, _ in scans)
    raise NotApplicable(f"no series is {rule.name}: {told or 'there is no MR series'}")
