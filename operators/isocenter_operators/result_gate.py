"""What stands between the writers and the archive: no result that fails its checks gets past."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from isocenter_operators.dicom.validate import check
from isocenter_operators.errors import InvalidResult, StorageFull
from isocenter_operators.run import StoredInstance

__all__ = ["checked", "stored_instance", "write_instance"]


def checked(batches: Iterable[Sequence[Dataset]], rejected: Path | None) -> list[Dataset]:
    """All instances of all writers, each of them valid.

    Raises InvalidResult naming what is wrong; then every instance lies in `rejected`, where given, for whoever has to
    find out why.
    """
    instances = [instance for batch in batches for instance in batch]
    try:
        for instance in instances:
            check(instance)
    except InvalidResult:
        if rejected is not None:
            for instance in instances:
                write_instance(instance, rejected)
        raise
    return instances


def write_instance(instance: Dataset, folder: Path) -> Path:
    """Write `<SOP Instance UID>.dcm` whole or not at all. Raises StorageFull."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{instance.SOPInstanceUID}.dcm"
    unfinished = path.with_suffix(".part")
    try:
        instance.save_as(unfinished, enforce_file_format=True)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise StorageFull(
            f"{folder}: {instance.SOPInstanceUID} could not be written: {error.strerror}"
        ) from error
    return path


def stored_instance(instance: Dataset, path: Path | None = None) -> StoredInstance:
    """What is remembered of a stored result."""
    return StoredInstance(
        sop_class_uid=str(instance.SOPClassUID),
        sop_instance_uid=str(instance.SOPInstanceUID),
        series_uid=str(instance.SeriesInstanceUID),
        study_uid=str(instance.StudyInstanceUID),
        modality=str(instance.Modality),
        path=path,
    )
