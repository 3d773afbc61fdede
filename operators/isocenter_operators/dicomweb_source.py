"""The source that reads series from a DICOMweb archive."""

from __future__ import annotations

from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from isocenter_operators.archive import only_wanted, retrieve
from isocenter_operators.dicom.deidentify import Pseudonyms, without_identity
from isocenter_operators.run import Archive, Record
from isocenter_operators.study import studies_of

__all__ = ["DICOMwebSourceOperator"]


class DICOMwebSourceOperator(Operator):
    """Retrieves series by WADO-RS, whole and untranscoded. The network's counterpart of `FolderSourceOperator`.

    Named output: `dicom_study_list`: list of DICOMStudy.

    Parameters
    ----------
    archive
        The archive, the study and the series; no series means every series of the study.
    sop_instance_uids
        The instances that must be there, no more and no fewer: a job is one exact set of instances. None: any.
    pseudonyms
        Under which the images go on, without their identity. None: they go on as they are.

    Raises InputError, ArchiveUnavailable or DeadlineExceeded.

    Example: `DICOMwebSourceOperator(self, CountCondition(self, 1), archive=Archive("http://pacs/dicom-web", study))`
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        archive: Archive,
        sop_instance_uids: frozenset[str] | None = None,
        pseudonyms: Pseudonyms | None = None,
        record: Record | None = None,
        **kwargs: Any,
    ) -> None:
        self._archive = archive
        self._wanted = sop_instance_uids
        self._pseudonyms = pseudonyms
        self._record = record or Record()
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.output("dicom_study_list")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        with self._record.step("fetch"):
            instances = only_wanted(retrieve(self._archive), self._wanted, self._archive.study_uid)
            studies = studies_of(without_identity(instances, self._pseudonyms))
        op_output.emit(studies, "dicom_study_list")
