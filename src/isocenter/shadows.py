"""What shadow versions have found, kept apart from the archive: one folder for each job, and in it the comparison.

`shadow/<model>/<version>/<job_id>/` in the data folder holds the DICOM that the shadow wrote, which nobody is shown,
and `comparison.json`: how it agrees with the results that were stored.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from isocenter_operators.errors import ConfigurationError

__all__ = [
    "ComparedAnswer",
    "ComparedBoxes",
    "ComparedNumber",
    "ComparedSegment",
    "Comparison",
    "Run",
    "Shadows",
]

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


class ComparedBoxes(_Part):
    """Boxes of one kind. `ious`: intersection over union of those that both have found, 0 to 1, the largest first."""

    kind: str
    shown_only: int
    shadow_only: int
    ious: tuple[float, ...] = ()


class ComparedNumber(_Part):
    """One measurement of one region. None where one of the two has none."""

    label: str
    name: str
    shown: float | None
    shadow: float | None


class ComparedAnswer(_Part):
    """One answer of a classifier. None where one of the two does not say it."""

    label: str
    name: str
    shown: str | None
    shadow: str | None


class Comparison(_Part):
    """`shown`: the run whose results are the study's. `not_compared`: why nothing is, "" where what there is was.

    `whole`: False of what earlier releases have written, which compared segmentations only.
    """

    job_id: str
    study_uid: str
    ended: float  # seconds since 1970
    shown: Run
    shadow: Run
    segments: tuple[ComparedSegment, ...] = ()
    boxes: tuple[ComparedBoxes, ...] = ()
    numbers: tuple[ComparedNumber, ...] = ()
    answers: tuple[ComparedAnswer, ...] = ()
    whole: bool = False
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
        oldest_at = time.time() - kept_days * _DAY_S
        for each in kept:
            if each.changed_at < oldest_at:
                _remove(each.path)
        left = [each for each in kept if each.changed_at >= oldest_at]
        for emptied in (_remove_results, _remove):
            excess = sum(_size(each.path) for each in left) - kept_mb * _MB
            for each in left:
                if excess <= 0:
                    return
                before = _size(each.path)
                emptied(each.path)
                excess -= before - _size(each.path)

    def forget(self, model: str, version: str = "") -> None:
        """Remove all that is kept of this model, or of one version of it."""
        _remove(self._folder / model / version)

    def _kept(self) -> Iterator[_Kept]:
        for path in self._folder.glob("*/*/*"):
            with suppress(FileNotFoundError):  # the gateway and a worker may trim at once
                if path.is_dir():
                    comparison = path / _COMPARISON
                    dated = comparison if comparison.exists() else path
                    yield _Kept(path, dated.stat().st_mtime)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _remove_results(folder: Path) -> None:
    with suppress(OSError):  # what could not be removed is looked at the next time
        for each in folder.iterdir():
            if each.is_dir():
                _remove(each)
            elif each.name != _COMPARISON:
                each.unlink(missing_ok=True)


def _size(folder: Path) -> int:
    """In bytes, of what is there."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += (Path(place) / name).lstat().st_size
    return size
