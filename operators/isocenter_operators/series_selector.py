"""The operator that picks the series an application is for."""

from __future__ import annotations

import json
from typing import Any

from monai.deploy.core import Fragment
from monai.deploy.core.domain.dicom_study import DICOMStudy
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator

from isocenter_operators.errors import ConfigurationError, NotApplicable
from isocenter_operators.run import Record

__all__ = ["SeriesSelectorOperator"]


class SeriesSelectorOperator(DICOMSeriesSelectorOperator):
    """The SDK's selector, with its rules in JSON, that says why when it selects nothing.

    Named input: `dicom_study_list`. Named output: `study_selected_series_list`, never empty.

    Of several series that match, the one with the most instances is taken: localizers match the same rules as the
    scan they belong to. Raises NotApplicable where no series matches, ConfigurationError where the rules are no JSON.

    Example: `SeriesSelectorOperator(self, rules='{"selections": [{"name": "CT", "conditions": {"Modality": "CT"}}]}')`
    """

    def __init__(
        self, fragment: Fragment, *args: Any, rules: str = "", record: Record | None = None, **kwargs: Any
    ) -> None:
        self._record = record or Record()
        try:
            self._selections = json.loads(rules) if rules.strip() else None
        except json.JSONDecodeError as error:
            raise ConfigurationError(f"series selection rules: not valid JSON: {error}") from error
        super().__init__(
            fragment, *args, rules=rules, all_matched=True, sort_by_sop_instance_count=True, **kwargs
        )

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        studies: list[DICOMStudy] = op_input.receive("dicom_study_list")
        with self._record.step("select"):
            selected = self.filter(
                self._selections, studies, self._all_matched, self._sort_by_sop_instance_count
            )
        if not selected:
            raise NotApplicable(f"no series matches the selection rules; there were {_seen(studies)}")
        op_output.emit(selected, "study_selected_series_list")


def _seen(studies: list[DICOMStudy]) -> str:
    series = [series for study in studies for series in study.get_all_series()]
    return ", ".join(
        f"{one.Modality or 'no modality'} with {len(one.get_sop_instances())} instances" for one in series
    )
