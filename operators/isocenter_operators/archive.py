"""A DICOMweb archive, from which images come and to which results go: of MONAI Deploy's graphs, or of others."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydicom.dataset import Dataset

from isocenter_operators.dicom.encoding import encoded
from isocenter_operators.dicom.series.part10 import Seen
from isocenter_operators.dicom.series.read import read_bytes
from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.errors import ArchiveUnavailable, InputError
from isocenter_operators.result_gate import stored_instance
from isocenter_operators.run import Archive, Record, StoredInstance

__all__ = ["only_wanted", "retrieve", "store"]


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
    with DICOMwebClient(archive.dicomweb_url, credentials=archive.credentials, tls=archive.tls) as client:
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


def store(
    instances: Sequence[Dataset],
    archive: Archive,
    record: Record,
    *,
    before_store: Callable[[Sequence[StoredInstance]], None] | None,
    after_store: Callable[[Sequence[StoredInstance]], None] | None,
) -> None:
    """Store results that were checked, and note them in `record`. Raises Cancelled, and what storing meets.

    before_store, after_store: see `Run`.
    """
    stored = [stored_instance(instance) for instance in instances]
    if before_store is not None:
        before_store(stored)
    try:
        with (
            record.step("store"),
            DICOMwebClient(archive.dicomweb_url, credentials=archive.credentials, tls=archive.tls) as client,
        ):
            client.store(instances, encoded)
    finally:
        if after_store is not None:
            after_store(stored)
    record.results += stored
