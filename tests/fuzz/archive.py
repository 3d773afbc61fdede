"""Cases through a real Orthanc: what it takes is read back by DICOMweb, as a worker reads it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import httpx

from fuzz.mutations import Case
from fuzz.run import Ending, Report, Worker
from isocenter.settings import Settings
from isocenter.stack.orthanc import running_orthanc

__all__ = ["through_archive"]


def through_archive(cases: Iterable[Case], settings: Settings, folder: Path) -> Report:
    """Store each case, run the application on the series that the archive then has of it, and take it out again.

    Of a case that became several series the largest is run. One that the archive took nothing of is refused by it. An
    archive that a case ends is started again: Orthanc follows sequences as deep as they are, until its stack is full.
    """
    report = Report()
    worker = Worker(folder / "worker.log")
    (folder / "out").mkdir()
    left = list(cases)
    while left:
        with running_orthanc(settings), _client(settings) as archive:
            while left:
                case = left.pop(0)
                try:
                    ending = _ended(case, archive, settings, worker, folder / "out")
                except httpx.TransportError:
                    report.endings.append(Ending(case, "ended the archive", "the archive ended on it", 0))
                    break
                report.endings.append(ending)
                if not worker.alive:
                    worker.end()
                    worker = Worker(folder / "worker.log")
    report.grown_mb = worker.last_mb - worker.first_mb
    report.decoders_peak_mb = worker.end()
    return report


def _client(settings: Settings) -> httpx.Client:
    return httpx.Client(base_url=settings.orthanc.rest_url, timeout=120, trust_env=False)


def _ended(case: Case, archive: httpx.Client, settings: Settings, worker: Worker, out: Path) -> Ending:
    instances = [taken for content in case.files if (taken := _stored(archive, content)) is not None]
    if not instances:
        return Ending(case, "refused by the archive", f"it took none of {len(case.files)} files", 0)
    study_uid, series_uid = _largest_series(archive, instances)
    answer = worker.ask(
        {"archive": settings.orthanc.dicomweb_url, "uids": [study_uid, series_uid], "sink": str(out)}
    )
    for patient in {each["ParentPatient"] for each in instances}:
        archive.delete(f"/patients/{patient}")
    archive.get("/system").raise_for_status()
    return Ending(case, answer["outcome"], answer["reason"], int(answer.get("peak_mb", 0)))


def _stored(archive: httpx.Client, content: bytes) -> dict[str, Any] | None:
    answer = archive.post("/instances", content=content)
    if answer.is_error:
        return None
    stored: dict[str, Any] = answer.json()
    return stored if "ID" in stored else None


def _largest_series(archive: httpx.Client, instances: list[dict[str, Any]]) -> tuple[str, str]:
    series = [each["ParentSeries"] for each in instances]
    largest = archive.get(f"/series/{max(series, key=series.count)}").json()
    study = archive.get(f"/studies/{largest['ParentStudy']}").json()
    uids = (
        study["MainDicomTags"].get("StudyInstanceUID", ""),
        largest["MainDicomTags"].get("SeriesInstanceUID", ""),
    )
    return str(uids[0]), str(uids[1])
