"""The base of Isocenter's applications.

An application of ours is a MONAI Deploy `Application` that takes a `Run` and, besides `run()`, offers `execute()`.
Without a `Run` it reads the environment, as any MONAI Application Package does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application as DeployApplication
from monai.deploy.core import Operator

from isocenter_operators.dicom.deidentify import Pseudonyms
from isocenter_operators.dicom.findings import Box, MeasurementGroup
from isocenter_operators.dicomweb_source import DICOMwebSourceOperator
from isocenter_operators.dicomweb_store import DICOMwebStoreOperator
from isocenter_operators.errors import IsocenterError, NotApplicable
from isocenter_operators.folder_sink import FolderSinkOperator
from isocenter_operators.folder_source import FolderSourceOperator
from isocenter_operators.frames import empty_frames
from isocenter_operators.prior_source import PriorSourceOperator
from isocenter_operators.run import GROUP_KEYS, Archive, Outcome, Record, Run, StoredInstance

__all__ = ["Application"]


class Application(DeployApplication):
    """A graph between a source and a sink that the run chooses; `compose()` uses `task` and `record`.

    Where the run is de-identified, what lies between source and sink sees no identity, in the images or in `task`.
    """

    def __init__(self, task: Run | None = None) -> None:
        self._given = given = task or Run.from_environment()
        how = given.deidentification
        self._pseudonyms = Pseudonyms(how) if how is not None else None
        self.task = given if how is None else given.without_identity()
        self.record = Record(
            given.checkpoint,
            self.task.notes,
            algorithm=given.algorithm,
            predecessors=[self._concealed(each) for each in given.predecessors],
            instances=self._instances(given),
        )
        super().__init__(argv=[])

    def _instances(self, given: Run) -> Iterable[str] | None:
        """All that the run is for, by the UIDs that the graph knows."""
        uids, hidden = given.sop_instance_uids, self._pseudonyms
        return uids if uids is None or hidden is None else [hidden.uid(uid) for uid in uids]

    def source(self) -> Operator:
        """The operator that emits `dicom_study_list`, once."""
        once = CountCondition(self, 1)
        shared: dict[str, Any] = {"pseudonyms": self._pseudonyms, "record": self.record, "name": "source"}
        if isinstance(self._given.source, Archive):
            return DICOMwebSourceOperator(
                self,
                once,
                archive=self._given.source,
                sop_instance_uids=self._given.sop_instance_uids,
                **shared,
            )
        return FolderSourceOperator(self, once, input_folder=self._given.source.path, **shared)

    def prior_source(self) -> Operator:
        """The operator that emits `prior_study_list`, once: earlier studies of the patient, where the run has any."""
        once = CountCondition(self, 1)
        return PriorSourceOperator(
            self,
            once,
            priors=self._given.priors,
            pseudonyms=self._pseudonyms,
            record=self.record,
            name="priors",
        )

    def sink(self) -> Operator:
        """The operator that takes every writer's `dicom_instances`, checks them and stores them together."""
        given = self._given
        shared: dict[str, Any] = {
            "rejected": given.rejected,
            "form": given.form,
            "pseudonyms": self._pseudonyms,
            "record": self.record,
            "name": "sink",
        }
        if isinstance(given.sink, Archive):
            return DICOMwebStoreOperator(
                self,
                archive=given.sink,
                before_store=given.before_store,
                after_store=given.after_store,
                **shared,
            )
        return FolderSinkOperator(self, output_folder=given.sink.path, **shared)

    def execute(self) -> Outcome:
        """Run the graph once. Raises IsocenterError when it fails; being not applicable is an outcome."""
        reason = ""
        try:
            self.run()
        except NotApplicable as refusal:
            reason = self._told(str(refusal))
            empty_frames(refusal)
            refusal.__traceback__ = None  # it begins with this frame, which has not ended
        except IsocenterError as error:
            error.args = (self._told(str(error)),)
            error.series_uid = self._told(error.series_uid) if error.series_uid else None
            raise
        groups = tuple(
            {
                "label": group.label,
                "notes": [*map(self._told, group.notes)],
                **_place(group),
                **_said(group),
            }
            for group in self.record.findings.groups
        )
        hidden = () if self._pseudonyms is None else self._given.notes
        return Outcome(
            status="not_applicable" if reason else "done",
            reason=reason,
            groups=() if reason else groups,
            notes=tuple(map(self._told, (*self.record.findings.notes, *hidden, *self.record.notes))),
            results=tuple(self.record.results),
            seconds=dict(self.record.seconds),
        )

    def _concealed(self, stored: StoredInstance) -> StoredInstance:
        if self._pseudonyms is None:
            return stored
        uid = self._pseudonyms.uid
        return replace(
            stored,
            sop_instance_uid=uid(stored.sop_instance_uid),
            series_uid=uid(stored.series_uid),
            study_uid=uid(stored.study_uid),
        )

    def _told(self, text: str) -> str:
        """What a person is told, with the UIDs that they know."""
        return text if self._pseudonyms is None else self._pseudonyms.told(text)


def _said(group: MeasurementGroup) -> Mapping[str, Any]:
    """Its numbers and answers. A model names its outputs as it likes: one called "box" is not where a box lies."""
    said = group.as_dict()
    free = {name: value for name, value in said.items() if name not in GROUP_KEYS}
    taken = {name: value for name, value in said.items() if name in GROUP_KEYS}
    return {**free, "measurements": taken} if taken else free


def _place(group: MeasurementGroup) -> Mapping[str, Any]:
    """Where a box lies, LPS mm, and what it is one of: else nobody could say whether two results agree."""
    if not isinstance(group.region, Box):
        return {}
    kind, box = group.kind or group.finding.meaning, group.region
    return {"box": {"kind": kind, "centre_mm": [*box.centre_mm], "size_mm": [*box.size_mm]}}
