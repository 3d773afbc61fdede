"""Runs one MONAI Application Package as a job: a container for each, and its results stored as any other's.

The container may have been started in advance (`spare`). A job that went wrong in such a one is run again in one of its
own: what is told of it is never the fault of the wait.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from isocenter.maps.package import Package
from isocenter.maps.sandbox import Folders, Report, Wish, run_package
from isocenter.maps.store import StoredMap
from isocenter.maps.written import collect, looks_like_dicom
from isocenter.settings import Settings
from isocenter.worker import runner
from isocenter.worker.run_folder import another_try, run_folder, store_of
from isocenter.worker.spare import Spare, Spares
from isocenter_operators.archive import only_wanted, retrieve, store
from isocenter_operators.dicom.deidentify import (
    Pseudonyms,
    sources_with_identity,
    with_identity,
    without_identity,
)
from isocenter_operators.dicom.identity import JobIdentity
from isocenter_operators.dicom.results.package_results import as_results
from isocenter_operators.dicom.results.sr_reader import measured_in
from isocenter_operators.errors import ConfigurationError, InvalidResult, IsocenterError
from isocenter_operators.frames import empty_frames
from isocenter_operators.manifest import AppManifest
from isocenter_operators.result_gate import checked
from isocenter_operators.run import GROUP_KEYS, Archive, Outcome, Record, Run

__all__ = ["run"]

log = logging.getLogger("isocenter.worker")

_LOG = "log.txt"
_PIXELS = 0x7FE00000  # from this tag on
_MOST_GROUPS = 200  # told of a job; its report has them all


def run(settings: Settings, spares: Spares, stored: StoredMap, app: AppManifest, task: Run) -> Outcome:
    """Give the package the job's images in a folder, and store what it makes of them.

    De-identified images, and results with the identity again, as everywhere. Raises IsocenterError with a reason.
    """
    maps = settings.maps
    wish = Wish(maps.engine, gpus=maps.gpus, time_s=app.deadline_s, output=maps.output_mb << 20)
    try:
        with spares.run():
            package = store_of(settings).open(stored)
            outcome = _run(_Means(settings, spares, package, wish), stored, app, task)
        spares.prepare(package, wish)
        return outcome
    except IsocenterError as error:
        empty_frames(error)
        raise
    except Exception as error:
        empty_frames(error)
        raise runner.translated(app, error) from error


@dataclass(frozen=True)
class _Means:
    """By which a package is run."""

    settings: Settings
    spares: Spares
    package: Package
    wish: Wish


def _run(means: _Means, stored: StoredMap, app: AppManifest, task: Run) -> Outcome:
    record = Record(task.checkpoint, task.notes)
    pseudonyms = Pseudonyms(task.deidentification) if task.deidentification is not None else None
    with record.step("fetch"):
        given = list(without_identity(_images(task), pseudonyms))
    sources = _without_pixels(given)
    with _executed(means, given, record, task.checkpoint) as (report, folders):
        if report.reason:
            raise IsocenterError(f"{app.name} {app.version}: {report.reason}{_kept(folders, task)}")
        with record.step("check"):
            with _kept_where_wrong(folders, task):
                objects = _written(folders)
            if not objects and report.not_applicable and store_of(means.settings).believed(stored):
                return _not_applicable(report.not_applicable, record, pseudonyms)
            if not objects:
                raise IsocenterError(f"{app.name} {app.version} wrote no DICOM{_advice(stored, report)}")
            with _kept_where_wrong(folders, task):
                written = as_results(
                    objects,
                    sources,
                    identity=_identity(app, task, sources, pseudonyms),
                    algorithm=task.algorithm or app.algorithm,
                    digest=stored.digest,
                    disclaimer=task.form.disclaimer,
                )
            results = checked(
                with_identity([written], pseudonyms),
                task.rejected,
                task.form,
                sources_with_identity(sources, pseudonyms),
            )
            # Before they are stored: whatever a stranger's report has in it, no job ends badly whose results are there.
            groups = _groups(results, words=pseudonyms is None and store_of(means.settings).believed(stored))
    _store(results, task, record)
    return Outcome(
        status="done",
        reason="",
        groups=groups,
        notes=(*record.notes, *(f"{app.name}: {note}" for note in report.notes)),
        results=tuple(record.results),
        seconds=dict(record.seconds),
    )


def _groups(results: Iterable[Dataset], *, words: bool) -> tuple[Mapping[str, Any], ...]:
    """What its reports have measured, as any other application tells it: it hands over nothing but its files.

    words: whether free text is told too, of an application of ours that is believed.
    """
    found = [group for each in results for group in measured_in(each, words=words)]
    return tuple(
        {
            "label": group.label,
            "notes": [*group.notes],
            # One that is named as something else of a group stands below it.
            **{name: value for name, value in group.said.items() if name not in GROUP_KEYS},
            **({"measurements": taken} if (taken := _taken(group.said)) else {}),
        }
        for group in found[:_MOST_GROUPS]
    )


def _taken(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name in GROUP_KEYS}


def _without_pixels(images: Sequence[Dataset]) -> dict[str, Dataset]:
    """All that results are compared with: also where the frames of a multi-frame image lie."""
    return {str(each.SOPInstanceUID): each[:_PIXELS] for each in images}


@contextmanager
def _kept_where_wrong(folders: Folders, task: Run) -> Iterator[None]:
    """What can be no result stays with the job, as it was written, for whoever has to find out why."""
    try:
        yield
    except InvalidResult as problem:
        if task.rejected is None:
            raise
        kept = f"what it wrote is kept in {task.rejected}"
        try:
            shutil.copytree(_collected(folders), task.rejected, dirs_exist_ok=True)
        except (OSError, shutil.Error):
            kept = f"what it wrote could not be kept in {task.rejected}"
        raise InvalidResult(f"{problem}; {kept}{_kept(folders, task)}") from problem


def _collected(folders: Folders) -> Path:
    return folders.work / "written"


def _identity(
    app: AppManifest, task: Run, sources: Mapping[str, Dataset], pseudonyms: Pseudonyms | None
) -> JobIdentity:
    """Where more is hidden it is other work, with other UIDs: as everywhere, by the UIDs that the application knows."""
    uids: Iterable[str] = sources if task.sop_instance_uids is None else task.sop_instance_uids
    if pseudonyms is not None and task.sop_instance_uids is not None:
        uids = [pseudonyms.uid(uid) for uid in task.sop_instance_uids]
    return JobIdentity.of(uids, task.algorithm or app.algorithm, task.created)


def _images(task: Run) -> list[Dataset]:
    if not isinstance(task.source, Archive):
        raise ConfigurationError(
            "a package is given images of the archive; `isocenter map run` takes a folder"
        )
    return only_wanted(retrieve(task.source), task.sop_instance_uids, task.source.study_uid)


@contextmanager
def _executed(
    means: _Means, given: list[Dataset], record: Record, checkpoint: Callable[[], None] | None
) -> Iterator[tuple[Report, Folders]]:
    """The package is run on the images; its folders are there for the block. The images are forgotten."""
    with ExitStack() as held:
        with record.step("package"):
            spare = means.spares.take(means.package, means.wish, checkpoint)
            folders = held.enter_context(run_folder(means.settings) if spare is None else spare)
        with record.step("write"):
            _write(given, folders.read)
        given.clear()
        with record.step("package"):
            report, folders = _reported(means, spare, folders, checkpoint)
        yield report, folders


def _reported(
    means: _Means, spare: Spare | None, folders: Folders, checkpoint: Callable[[], None] | None
) -> tuple[Report, Folders]:
    """How it went, and the folders that are to be looked into."""
    wish, began = means.wish, time.monotonic()
    if spare is not None:
        report = spare.run(checkpoint)
        if report is not None and _counts(report, folders):
            return report, folders
        said = "it had ended" if report is None else report.reason or "it wrote nothing"
        log.warning("%s, started in advance: %s; it is run again", means.package.digest, said)
        folders = another_try(folders)
        if wish.time_s is not None:
            wish = replace(wish, time_s=max(1.0, wish.time_s - (time.monotonic() - began)))
    return run_package(means.package, folders, wish, checkpoint=checkpoint), folders


def _counts(report: Report, folders: Folders) -> bool:
    """Whether a run that was started in advance went as any other would have. For one more there is no time left."""
    if report.execution.ending == "timed out":
        return True
    return report.reason is None and (report.not_applicable is not None or any(folders.write.iterdir()))


def _write(images: Sequence[Dataset], folder: Path) -> None:
    for image in images:
        image.save_as(folder / f"{image.SOPInstanceUID}.dcm", enforce_file_format=True)


def _advice(stored: StoredMap, report: Report) -> str:
    if stored.ours and report.not_applicable:  # its words may be about the patient, or meant to mislead
        return (
            ": it says that it is not applicable, which is believed of an application of Isocenter that is signed "
            "with a key of maps.trusted_keys, or was added with --vouch"
        )
    return ": are the images of the kind that it takes?"


def _not_applicable(reason: str, record: Record, pseudonyms: Pseudonyms | None) -> Outcome:
    return Outcome(
        status="not_applicable",
        reason=reason if pseudonyms is None else pseudonyms.told(reason),
        groups=(),
        notes=tuple(record.notes),
        results=(),
        seconds=dict(record.seconds),
    )


def _written(folders: Folders) -> list[tuple[str, Dataset]]:
    """The DICOM objects that it wrote, each with what messages call its file. Raises InvalidResult for a damaged one.

    A file's name may be the patient's: it stands in the log that stays with the job, and nowhere else.
    """
    files = collect(folders.write, _collected(folders))
    told = {file: f"file {number} of what it wrote" for number, file in enumerate(files, start=1)}
    with (folders.work / _LOG).open("a") as log:
        log.writelines(
            f"{what}: {str(file.relative_to(_collected(folders)))!a}\n" for file, what in told.items()
        )
    return [(what, dataset) for file, what in told.items() if (dataset := _read(file, what)) is not None]


def _read(file: Path, what: str) -> Dataset | None:
    try:
        dataset: Dataset = dcmread(file)
    except (InvalidDicomError, EOFError) as error:
        if looks_like_dicom(file):  # the others would be stored without it, and nobody would miss it
            raise InvalidResult(f"{what}: it can not be read as DICOM: is it whole?") from error
        return None
    except OSError as error:
        raise InvalidResult(f"{what}: it can not be read: {error.strerror}") from error
    return dataset


def _store(results: Sequence[Dataset], task: Run, record: Record) -> None:
    assert isinstance(task.sink, Archive)
    store(results, task.sink, record, before_store=task.before_store, after_store=task.after_store)


def _kept(folders: Folders, task: Run) -> str:
    """Its log stays with the job: it may name the patient, so it goes nowhere else."""
    source = folders.work / _LOG
    if task.rejected is None or not source.exists():
        return ""
    place = task.rejected.parent / "package.log"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(source.read_bytes())
        place.chmod(0o600)
    except OSError as error:
        return f" (which could not be kept: {error.strerror})"
    return f" ({place})"
