"""What shadow versions have found, kept apart from the archive: one folder for each job, and in it the comparison.

`shadow/<model>/<version>/<job_id>/` in the data folder holds the DICOM that the shadow wrote, which nobody is shown,
and `comparison.json`: how it agrees with the results that were stored.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from isocenter_operators.errors import ConfigurationError

__all__ = ["ComparedSegment", "Comparison", "Run", "Shadows"]

log = logging.getLogger("isocenter.shadows")

_COMPARISON = "comparison.json"
_DAY_S = 86_400.0
_MB = 1_000_000


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Run(_Part):
    """One version on one study. `inference_s`: of it, in the model; None where it did not get so far."""

    version: str
    state: Literal["done", "not_applicable", "failed"]
    reason: str = ""
    inference_s: float | None = None


class ComparedSegment(_Part):
    """`dice`: 0 to 1; None where neither has found any of it. Volumes in millilitres."""

    label: str
    dice: float | None
    shown_ml: float
    shadow_ml: float


class Comparison(_Part):
    """`shown`: the run whose results are the study's. `not_compared`: why there are no segments, "" where there are."""

    job_id: str
    study_uid: str
    ended: float  # seconds since 1970
    shown: Run
    shadow: Run
    segments: tuple[ComparedSegment, ...] = ()
    not_compared: str = ""


@dataclass(frozen=True)
class _Kept:
    path: Path
    changed_at: float  # seconds since 1970


class Shadows:
    """The folders of all models. Errors are ConfigurationError, naming what can not be written."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "shadow"

    def begin(self, model: str, version: str, job_id: str) -> Path | None:
        """The folder for this job's shadow, empty but for a mark; None where that was begun before."""
        folder = self._folder / model / version / job_id
        try:
            folder.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            return None
        except OSError as error:
            raise ConfigurationError(f"{folder}: can not be made: {error.strerror}") from error
        return folder

    def write(self, model: str, found: Comparison) -> None:
        folder = self._folder / model / found.shadow.version / found.job_id
        part = folder / f"{_COMPARISON}.part"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.write_text(found.model_dump_json(indent=2) + "\n")
            part.replace(folder / _COMPARISON)
        except OSError as error:
            raise ConfigurationError(f"{folder}: can not be written: {error.strerror}") from error

    def ended(self, model: str, version: str, job_id: str) -> bool:
        """Whether it is written down how this shadow ended."""
        return (self._folder / model / version / job_id / _COMPARISON).exists()

    def of(self, model: str, version: str) -> list[Comparison]:
        """All that is known of this version as a shadow, the oldest first. A broken file is left out, and told."""
        found = []
        for file in (self._folder / model / version).glob(f"*/{_COMPARISON}"):
            try:
                found.append(Comparison.model_validate_json(file.read_bytes()))
            except FileNotFoundError:
                continue  # it was removed this moment
            except (OSError, ValidationError) as error:
                log.warning("%s can not be read: %s", file, type(error).__name__)
        return sorted(found, key=lambda each: each.ended)

    def versions(self, model: str) -> tuple[str, ...]:
        """Those that were a shadow, in order."""
        place = self._folder / model
        names = [each.name for each in place.iterdir()] if place.is_dir() else []
        return tuple(sorted((name for name in names if name.isdecimal()), key=int))

    def trim(self, kept_days: float, kept_mb: int) -> None:
        """Remove what is older, and then the oldest until no more is left than that.

        Of what goes for its size the comparison stays where it can: it is small, and the report is made of it.
        """
        kept = sorted(self._kept(), key=lambda each: each.changed_at)
        old = [each for each in kept if time.time() - each.changed_at > kept_days * _DAY_S]
        for each in old:
            shutil.rmtree(each.path, ignore_errors=True)
        left = [each for each in kept if each not in old]
        for emptied in (_only_results, shutil.rmtree):
            excess = sum(_size(each.path) for each in left) - kept_mb * _MB
            for each in left:
                if excess <= 0:
                    return
                before = _size(each.path)
                emptied(each.path, ignore_errors=True)
                excess -= before - _size(each.path)

    def forget(self, model: str) -> None:
        """Remove all that is kept of this model."""
        shutil.rmtree(self._folder / model, ignore_errors=True)

    def _kept(self) -> Iterator[_Kept]:
        for path in self._folder.glob("*/*/*"):
            if path.is_dir():
                comparison = path / _COMPARISON
                dated = comparison if comparison.exists() else path
                yield _Kept(path, dated.stat().st_mtime)


def _only_results(folder: Path, ignore_errors: bool) -> None:
    for each in folder.iterdir():
        if each.is_dir():
            shutil.rmtree(each, ignore_errors=ignore_errors)
        elif each.name != _COMPARISON:
            each.unlink(missing_ok=ignore_errors)


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
