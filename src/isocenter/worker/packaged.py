"""Runs one MONAI Application Package as a job: a container for each, and its results stored as any other's."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from tempfile import TemporaryDirectory

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from isocenter.maps.sandbox import Folders, Report, Wish, run_package
from isocenter.maps.store import MapStore, StoredMap
from isocenter.maps.written import collect, discard, looks_like_dicom
from isocenter.settings import Settings
from isocenter.worker import runner
from isocenter_operators.archive import only_wanted, retrieve, store
from isocenter_operators.dicom.deidentify import (
    Pseudonyms,
    sources_with_identity,
    with_identity,
    without_identity,
)
from isocenter_operators.dicom.identity import JobIdentity
from isocenter_operators.dicom.results.package_results import as_results
from isocenter_operators.errors import ConfigurationError, InvalidResult, IsocenterError
from isocenter_operators.frames import empty_frames
from isocenter_operators.manifest import AppManifest
from isocenter_operators.result_gate import checked
from isocenter_operators.run import Archive, Outcome, Record, Run

__all__ = ["run"]

_LOCK, _DOOR, _LOG = ".lock", ".runs.lock", "log.txt"
_PIXELS = 0x7FE00000  # from this tag on


def run(settings: Settings, stored: StoredMap, app: AppManifest, task: Run) -> Outcome:
    """Give the package the job's images in a folder, and store what it makes of them.

    De-identified images, and results with the identity again, as everywhere. Raises IsocenterError with a reason.
    """
    try:
        return _run(settings, stored, app, task)
    except IsocenterError as error:
        empty_frames(error)
        raise
    except Exception as error:
        empty_frames(error)
        raise runner.translated(app, error) from error


def _run(settings: Settings, stored: StoredMap, app: AppManifest, task: Run) -> Outcome:
    record = Record(task.checkpoint, task.notes)
    pseudonyms = Pseudonyms(task.deidentification) if task.deidentification is not None else None
    with record.step("fetch"):
        given = without_identity(_images(task), pseudonyms)
    sources = _without_pixels(given)
    with _folders(settings) as folders:
        with record.step("write"):
            _write(given, folders.read)
        del given
        with record.step("package"):
            report = _execute(settings, stored, app, task, folders)
        if report.reason:
            raise IsocenterError(f"{app.name} {app.version}: {report.reason}{_kept(folders, task)}")
        with record.step("check"):
            with _kept_where_wrong(folders, task):
                objects = _written(folders)
            if not objects and report.not_applicable and _store_of(settings).believed(stored):
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
    _store(results, task, record)
    return Outcome(
        status="done",
        reason="",
        groups=(),
        notes=(*record.notes, *(f"{app.name}: {note}" for note in report.notes)),
        results=tuple(record.results),
        seconds=dict(record.seconds),
    )


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
def _folders(settings: Settings) -> Iterator[Folders]:
    """This run's, for its time alone: images lie here in files, so nobody else may read them."""
    place = settings.maps_dir / "runs"
    place.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        # Together, so that nobody clears a folder away whose lock is not held yet.
        with (settings.maps_dir / _DOOR).open("w") as door:
            flock(door, LOCK_EX)
            _clear(place)
            _store_of(settings).forget_unpacked()
            folder = Path(held.enter_context(TemporaryDirectory(prefix="run-", dir=place.resolve())))
            flock(held.enter_context((folder / _LOCK).open("w")), LOCK_EX)
        made = Folders(
            folder / "input", folder / "output", folder / "work", _store_of(settings).cache.resolve()
        )
        for each in (made.read, made.write, made.work):
            each.mkdir()
        made.read.chmod(0o755)  # an engine's user has to come in
        made.write.chmod(0o777)
        held.callback(discard, made.write)
        yield made


def _clear(place: Path) -> None:
    """Remove what workers that died have left: their locks are nobody's any more."""
    for folder in place.glob("run-*"):
        try:
            with (folder / _LOCK).open("w") as lock:
                flock(lock, LOCK_EX | LOCK_NB)
                discard(folder)
        except OSError:
            continue  # somebody's


def _write(images: Sequence[Dataset], folder: Path) -> None:
    for image in images:
        image.save_as(folder / f"{image.SOPInstanceUID}.dcm", enforce_file_format=True)


def _execute(settings: Settings, stored: StoredMap, app: AppManifest, task: Run, folders: Folders) -> Report:
    package = _store_of(settings).open(stored)
    maps = settings.maps
    wish = Wish(maps.engine, gpus=maps.gpus, time_s=app.deadline_s, output=maps.output_mb << 20)
    return run_package(package, folders, wish, checkpoint=task.checkpoint)


def _store_of(settings: Settings) -> MapStore:
    return MapStore(settings.maps_dir, settings.maps.trusted_keys)


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
