"""The base of Isocenter's applications.

An application of ours is a MONAI Deploy `Application` that takes a `Run` and, besides `run()`, offers `execute()`.
Without a `Run` it reads the environment, as any MONAI Application Package does.
"""

from __future__ import annotations

from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application as DeployApplication
from monai.deploy.core import Operator

from isocenter_operators.dicomweb_source import DICOMwebSourceOperator
from isocenter_operators.dicomweb_store import DICOMwebStoreOperator
from isocenter_operators.errors import NotApplicable
from isocenter_operators.folder_sink import FolderSinkOperator
from isocenter_operators.folder_source import FolderSourceOperator
from isocenter_operators.frames import empty_frames
from isocenter_operators.prior_source import PriorSourceOperator
from isocenter_operators.run import Archive, Outcome, Record, Run

__all__ = ["Application"]


class Application(DeployApplication):
    """A graph between a source and a sink that the run chooses; `compose()` uses `task` and `record`."""

    def __init__(self, task: Run | None = None) -> None:
        self.task = task or Run.from_environment()
        self.record = Record(
            self.task.checkpoint,
            self.task.notes,
            weights=self.task.weights,
            predecessors=self.task.predecessors,
        )
        super().__init__(argv=[])

    def source(self) -> Operator:
        """The operator that emits `dicom_study_list`, once."""
        once = CountCondition(self, 1)
        if isinstance(self.task.source, Archive):
            return DICOMwebSourceOperator(
                self,
                once,
                archive=self.task.source,
                sop_instance_uids=self.task.sop_instance_uids,
                record=self.record,
                name="source",
            )
        return FolderSourceOperator(
            self, once, input_folder=self.task.source.path, record=self.record, name="source"
        )

    def prior_source(self) -> Operator:
        """The operator that emits `prior_study_list`, once: earlier studies of the patient, where the run has any."""
        once = CountCondition(self, 1)
        return PriorSourceOperator(self, once, priors=self.task.priors, record=self.record, name="priors")

    def sink(self) -> Operator:
        """The operator that takes every writer's `dicom_instances`, checks them and stores them together."""
        if isinstance(self.task.sink, Archive):
            return DICOMwebStoreOperator(
                self,
                archive=self.task.sink,
                rejected=self.task.rejected,
                form=self.task.form,
                before_store=self.task.before_store,
                after_store=self.task.after_store,
                record=self.record,
                name="sink",
            )
        return FolderSinkOperator(
            self,
            output_folder=self.task.sink.path,
            rejected=self.task.rejected,
            form=self.task.form,
            record=self.record,
            name="sink",
        )

    def execute(self) -> Outcome:
        """Run the graph once. Raises IsocenterError when it fails; being not applicable is an outcome."""
        reason = ""
        try:
            self.run()
        except NotApplicable as refusal:
            reason = str(refusal)
            empty_frames(refusal)
            refusal.__traceback__ = None  # it begins with this frame, which has not ended
        groups = tuple(
            {"label": group.label, "notes": list(group.notes), **group.as_dict()}
            for group in self.record.findings.groups
        )
        return Outcome(
            status="not_applicable" if reason else "done",
            reason=reason,
            groups=() if reason else groups,
            notes=(*self.record.findings.notes, *self.record.notes),
            results=tuple(self.record.results),
            seconds=dict(self.record.seconds),
        )
