"""The operator that picks the series an application is for."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from monai.deploy.core import Fragment
from monai.deploy.core.domain.dicom_series import DICOMSeries
from monai.deploy.core.domain.dicom_series_selection import SelectedSeries, StudySelectedSeries
from monai.deploy.core.domain.dicom_study import DICOMStudy

from isocenter_operators.dicom.value import term
from isocenter_operators.errors import ConfigurationError, NotApplicable
from isocenter_operators.run import Record
from isocenter_operators.sdk_module import sdk_module

if TYPE_CHECKING:
    from monai.deploy.operators import dicom_series_selector_operator
    from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
else:
    dicom_series_selector_operator = sdk_module("monai.deploy.operators.dicom_series_selector_operator")
    DICOMSeriesSelectorOperator = dicom_series_selector_operator.DICOMSeriesSelectorOperator

__all__ = ["SeriesSelectorOperator"]


class SeriesSelectorOperator(DICOMSeriesSelectorOperator):
    """The SDK's selector, with its rules in JSON, that says why when it selects nothing.

    Named input: `dicom_study_list`. Named output: `study_selected_series_list`, never empty.

    Of several series that match, in whichever study, the one with the most instances comes first: localizers match the
    same rules as the scan they belong to. The operators after this one take the first alone; the record says how many
    were left.

    Unlike the SDK's it logs no attribute values. Raises NotApplicable where no series matches, ConfigurationError where
    the rules are no JSON or can not be applied.

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
        if self._selections is not None and not _is_selection(self._selections):
            raise ConfigurationError(
                'series selection rules: {"selections": [{"conditions": {...}}]} is expected'
            )
        super().__init__(
            fragment, *args, rules=rules, all_matched=True, sort_by_sop_instance_count=True, **kwargs
        )

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        studies: list[DICOMStudy] = op_input.receive("dicom_study_list")
        with self._record.step("select"):
            selected = self._matching(studies)
        if not selected:
            raise NotApplicable(
                f"none of the series is of the kind that this application is for; there is {_seen(studies)}"
            )
        matching = {each.series.SeriesInstanceUID for study in selected for each in study.selected_series}
        if len(matching) > 1:
            left = len(matching) - 1
            self._record.notes.append(f"{left} more series matched the selection rules and were left alone")
        op_output.emit(selected, "study_selected_series_list")

    def _matching(self, studies: list[DICOMStudy]) -> list[StudySelectedSeries]:
        try:
            with _no_attributes_logged():
                selected: list[StudySelectedSeries] = self.filter(
                    self._selections, studies, self._all_matched, self._sort_by_sop_instance_count
                )
        except (NotImplementedError, ValueError, TypeError, AttributeError, re.error) as error:
            raise ConfigurationError(f"series selection rules can not be applied: {error}") from error
        for study in selected:
            for series in study.series_by_selection_name.values():
                series.sort(key=_largest_first)
        return sorted(selected, key=lambda study: _largest_first(study.selected_series[0]))


def _is_selection(rules: Any) -> bool:
    selections = rules.get("selections") if isinstance(rules, dict) else None
    if not isinstance(selections, list) or not selections:
        return False
    return all(isinstance(each, dict) and isinstance(each.get("conditions"), dict) for each in selections)


def _largest_first(selected: SelectedSeries) -> tuple[int, str]:
    """A sort key that no order of files changes."""
    return -len(selected.series.get_sop_instances()), str(selected.series.SeriesInstanceUID)


@contextmanager
def _no_attributes_logged() -> Iterator[None]:
    """The SDK logs the value of each attribute that a rule looks at, to the root logger: it may name the patient."""
    source = dicom_series_selector_operator.__file__

    def others(record: logging.LogRecord) -> bool:
        return bool(record.pathname != source)

    root = logging.getLogger()
    root.addFilter(others)
    try:
        yield
    finally:
        root.removeFilter(others)


def _modality(series: DICOMSeries) -> str:
    return term(series.Modality) if series.Modality else "no modality"


def _counted(instances: int) -> str:
    return "1 image" if instances == 1 else f"{instances} images"


def _seen(studies: list[DICOMStudy]) -> str:
    kinds = Counter(
        f"{_modality(series)} of {_counted(len(series.get_sop_instances()))}"
        for study in studies
        for series in study.get_all_series()
    )
    shown = [f"{count} times {kind}" if count > 1 else kind for kind, count in kinds.most_common(5)]
    return ", ".join([*shown, f"{len(kinds) - 5} other kinds"] if len(kinds) > 5 else shown)
