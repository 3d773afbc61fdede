"""What stands between the writers and the archive: no result that fails its checks gets past."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from isocenter_operators.dicom.encoding import encoded
from isocenter_operators.dicom.rules.validate import check
from isocenter_operators.errors import ConfigurationError, InvalidResult, IsocenterError, StorageFull
from isocenter_operators.form import ResultForm
from isocenter_operators.run import StoredInstance

__all__ = ["checked", "stored_instance", "write_instances"]

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def checked(
    batches: Iterable[Sequence[Dataset]],
    rejected: Path | None = None,
    form: ResultForm | None = None,
    sources: Mapping[str, Dataset] | None = None,
) -> list[Dataset]:
    """All instances of all writers that the destination wants, each valid and in the form that the site asks for.

    sources: the images that the results are about, by their SOP Instance UID. Whether frames lie on the images they
    were made from, and references between the results lead where they say, is checked too.

    Raises InvalidResult naming what is wrong; then every instance lies in `rejected`, where given, for whoever has to
    find out why.
    """
    instances = [instance for batch in batches for instance in batch]
    try:
        if form is not None:
            instances = form.given(instances)
        others = {**(sources or {}), **{str(each.SOPInstanceUID): each for each in instances}}
        for instance in instances:
            check(instance, others)
    except InvalidResult as problem:
        if rejected is None:
            raise
        raise InvalidResult(
            f"{problem}; {_kept(instances, rejected)}", series_uid=problem.series_uid
        ) from problem
    return instances


def _kept(instances: Sequence[Dataset], folder: Path) -> str:
    try:
        write_instances(instances, folder)
    except IsocenterError as error:
        return f"the results could not be kept: {error}"
    return f"the results are kept in {folder}"


def write_instances(instances: Sequence[Dataset], folder: Path) -> list[Path]:
    """Write each as `<SOP Instance UID>.dcm`: all of them, or none.

    What lay there under these names before is replaced only when all are written. Raises StorageFull, or
    ConfigurationError where the folder can not be written.
    """
    paths = [folder / f"{instance.SOPInstanceUID}.dcm" for instance in instances]
    unfinished = [path.with_suffix(".part") for path in paths]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for instance, part in zip(instances, unfinished, strict=True):
            part.write_bytes(encoded(instance))
        for part, path in zip(unfinished, paths, strict=True):
            part.replace(path)
    except OSError as error:
        for part in unfinished:
            _discard(part)
        number = _errno(error)
        kind = StorageFull if number in _FULL else ConfigurationError
        why = os.strerror(number) if number else "the system does not say why"
        raise kind(f"{folder}: results could not be written: {why}", path=str(folder)) from error
    return paths


def _errno(error: BaseException | None) -> int | None:
    """Of the first error that has one: pydicom raises an OSError without, with the element's value in its text."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def _discard(path: Path) -> None:
    if path.parent.is_dir():
        path.unlink(missing_ok=True)


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
