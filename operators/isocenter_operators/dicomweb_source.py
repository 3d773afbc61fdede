"""The source that reads series from a DICOMweb archive."""

from __future__ import annotations

from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec
from pydicom.dataset import Dataset

from isocenter_operators.dicom.deidentify import Pseudonyms, without_identity
from isocenter_operators.dicom.series.part10 import Seen
from isocenter_operators.dicom.series.read import read_bytes
from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.errors import ArchiveUnavailable, InputError
from isocenter_operators.run import Archive, Record
from isocenter_operators.study import studies_of

__all__ = ["DICOMwebSourceOperator", "only_wanted", "retrieve"]


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


def only_wanted(instances: list[Dataset], wanted: frozenset[str] | None, study_uid: str) -> list[Dataset]:
    """Those that a job is for: images that came later belong to the next job, images that went are missed.

    wanted: SOP Instance UIDs; None: whatever is there. Raises ArchiveUnavailable.
    """
    if wanted is None:
        return instances
    kept = [instance for instance in instances if str(instance.SOPInstanceUID) in wanted]
    if len(kept) < len(wanted):
        raise ArchiveUnavailable(
            f"study {study_uid}: {len(wanted) - len(kept)} of {len(wanted)} instances of this job are not in the "
            "archive any more"
        )
    return kept


def retrieve(archive: Archive) -> list[Dataset]:
    """Every instance of the archive's series, or of all series of its study.

    Raises InputError where it has none, ArchiveUnavailable or DeadlineExceeded.
    """
    instances: list[Dataset] = []
    with DICOMwebClient(archive.dicomweb_url, credentials=archive.credentials) as client:
        series_uids = archive.series_uids or tuple(
            str(found["0020000E"]["Value"][0]) for found in client.search_series(archive.study_uid)
        )
        for series_uid in series_uids:
            seen, origin = Seen(), f"an instance of series {series_uid}"
            for content in client.retrieve_series(archive.study_uid, series_uid):
                instance = read_bytes(content, origin=origin, seen=seen)
                if instance is not None:
                    instances.append(instance)
    if not instances:
        raise InputError(f"study {archive.study_uid} holds no instances in {archive.dicomweb_url}")
    return instances
