"""An application with spies: whatever a graph's operators are given between its source and its sink is noted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fuzz.mean_density.app import ALGORITHM, SEGMENTS, SELECTION, MeanOperator
from monai.deploy.core import ConditionType, Fragment, Operator, OperatorSpec
from pydicom.dataset import Dataset

from isocenter_operators.application import Application
from isocenter_operators.seg_writer import SegWriterOperator
from isocenter_operators.series_selector import SeriesSelectorOperator
from isocenter_operators.sr_writer import SRWriterOperator
from isocenter_operators.volume import VolumeOperator


class SpyOperator(Operator):
    """Keeps everything that passes."""

    def __init__(
        self, fragment: Fragment, *args: Any, port: str, seen: list[Any], out: bool = True, **kwargs: Any
    ) -> None:
        self._port, self._seen, self._out = port, seen, out
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input(self._port)
        if self._out:
            spec.output(self._port).condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        passing = op_input.receive(self._port)
        self._seen.extend(_datasets(passing))
        for study in passing if self._port.endswith("study_list") else ():
            self._seen.append(study)
            self._seen.extend(study.get_all_series())
        if self._out:
            op_output.emit(passing, self._port)


def _datasets(passing: Any) -> Iterator[Dataset]:
    for each in passing:
        if isinstance(each, Dataset):
            yield each
        else:
            for series in each.get_all_series():
                yield from (one.get_native_sop_instance() for one in series.get_sop_instances())


class Spied(Application):
    """Source, spy, selector, volume, a threshold, writers, one with a spy behind it, sink."""

    def compose(self) -> None:
        self.seen: list[Any] = [self.task, self.record.predecessors]
        self.results: list[Any] = []
        record, task = self.record, self.task
        made_by: dict[str, Any] = {"algorithm": ALGORITHM, "created": task.created, "record": record}
        source, priors, sink = self.source(), self.prior_source(), self.sink()
        spy = SpyOperator(self, port="dicom_study_list", seen=self.seen, name="spy")
        prior_spy = SpyOperator(self, port="prior_study_list", seen=self.seen, out=False, name="prior_spy")
        selector = SeriesSelectorOperator(self, rules=SELECTION, record=record, name="select")
        volume = VolumeOperator(self, record=record, name="volume")
        mean = MeanOperator(self, record=record, name="mean")
        seg = SegWriterOperator(self, segments=SEGMENTS, name="seg", **made_by)
        sr = SRWriterOperator(self, segments=SEGMENTS, name="sr", **made_by)
        result_spy = SpyOperator(
            self, port="dicom_instances", seen=self.results, out=False, name="result_spy"
        )
        selected = {("study_selected_series_list", "study_selected_series_list")}
        self.add_flow(source, spy, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(priors, prior_spy, {("prior_study_list", "prior_study_list")})
        self.add_flow(spy, selector, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(selector, volume, selected)
        self.add_flow(volume, mean, {("image", "image")})
        for writer in (seg, sr):
            self.add_flow(selector, writer, selected)
            self.add_flow(writer, sink, {("dicom_instances", "dicom_instances")})
        self.add_flow(seg, result_spy, {("dicom_instances", "dicom_instances")})
        self.add_flow(mean, seg, {("seg_image", "seg_image")})
        self.add_flow(mean, sr, {("findings", "findings")})
        self.add_flow(seg, sr, {("dicom_instances", "dicom_seg")})
