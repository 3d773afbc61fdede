"""A site's own cases, as folders: the images of each, what others have drawn on them, and what is expected of it."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from isocenter_operators.errors import ConfigurationError, UnreadableInput

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from isocenter_operators.dicom.results.seg_overlap import Segmented

__all__ = ["COLUMNS", "STATUS", "Case", "Expectation", "cases_below", "expectations", "reference_of"]

COLUMNS = ("case", "region", "measurement", "expected", "tolerance")
STATUS = "status"  # in the place of a measurement: how the case should end
_STATUSES = ("done", "not_applicable", "refused")
_REFERENCES = ("SEG", "RTSTRUCT")
_HEADER = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "Modality")


@dataclass(frozen=True)
class Expectation:
    """One line of the CSV. `tolerance`: how far a value may lie from `expected`; None: the difference is only told."""

    region: str
    measurement: str
    expected: float
    tolerance: float | None


@dataclass(frozen=True)
class Case:
    """One folder. `digest`: SHA-256 over the images' bytes, in the order of their SOP Instance UIDs."""

    name: str
    images: Mapping[str, Path] = field(repr=False)  # by SOP Instance UID
    references: tuple[Path, ...]
    study_uids: tuple[str, ...]
    digest: str
    expected_status: str | None = None
    expectations: tuple[Expectation, ...] = ()


def cases_below(folder: Path, expected: Path | None) -> list[Case]:
    """One for each folder in `folder`, by name, or `folder` itself where it holds no folders.

    Raises UnreadableInput for a case without images, ConfigurationError where the CSV names none of the cases.
    """
    inside = sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))
    found = [_case(each) for each in inside or [folder]]
    said = expectations(expected) if expected else {}
    unknown = sorted(said.keys() - {case.name for case in found})
    if unknown:
        raise ConfigurationError(
            f"{expected}: there is no case {unknown[0]!r} in {folder}, only {', '.join(case.name for case in found)}"
        )
    return [_with(case, said.get(case.name, ())) for case in found]


def expectations(file: Path) -> dict[str, list[dict[str, str]]]:
    """The lines of the CSV by their case. Raises ConfigurationError, naming the line that is wrong."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{file} can not be read as a CSV in UTF-8: {error}") from error
    lines: dict[str, list[dict[str, str]]] = {}
    for number, row in enumerate(rows, 2):
        if None in row or not set(COLUMNS[:-1]) <= row.keys() <= set(COLUMNS):
            raise ConfigurationError(f"{file}:{number}: the columns are {','.join(COLUMNS)}")
        line = {name: (row.get(name) or "").strip() for name in COLUMNS}
        lines.setdefault(line["case"], []).append({**line, "place": f"{file}:{number}"})
    if not lines:
        raise ConfigurationError(f"{file}: no line below the header {','.join(COLUMNS)}")
    return lines


def reference_of(case: Case, labels: Mapping[str, str]) -> Segmented | None:
    """What others have drawn on the case; None where it has no reference. labels: their name to the application's.

    Raises UnreadableInput where there are several references, or one can not be read, and GeometryError where it does
    not lie on the images.
    """
    from pydicom import dcmread

    from isocenter_operators.dicom.results.rtstruct_reader import read_structure_set, referenced_series
    from isocenter_operators.dicom.results.seg_reader import read_segmentation

    if not case.references:
        return None
    if len(case.references) > 1:
        names = ", ".join(sorted(each.name for each in case.references))
        raise UnreadableInput(
            f"case {case.name}: one reference is compared with, and there are several: {names}"
        )
    stored = dcmread(case.references[0])
    drawn: Segmented
    if stored.Modality == "SEG":
        drawn = read_segmentation(stored)
    else:
        series = referenced_series(stored)
        drawn = read_structure_set(
            stored, [each for each in _headers(case) if each.SeriesInstanceUID == series]
        )
    named = tuple(replace(each, label=labels.get(each.label, each.label)) for each in drawn.segments)
    return replace(drawn, segments=named)


def _headers(case: Case) -> Iterator[Dataset]:
    from pydicom import dcmread

    for file in case.images.values():
        yield dcmread(file, stop_before_pixels=True)


def _case(folder: Path) -> Case:
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    images: dict[str, Path] = {}
    references, studies = [], set()
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        try:
            header = dcmread(file, stop_before_pixels=True, specific_tags=[*_HEADER])
        except InvalidDicomError:
            continue  # notes, a licence
        except (OSError, EOFError, ValueError) as error:
            raise UnreadableInput(f"{file} can not be read as DICOM", path=str(file)) from error
        if header.get("Modality") in _REFERENCES:
            references.append(file)
        elif header.get("SOPInstanceUID"):
            images[str(header.SOPInstanceUID)] = file
            studies.add(str(header.get("StudyInstanceUID", "")))
    if not images:
        raise UnreadableInput(f"case {folder.name}: there are no DICOM images in {folder}", path=str(folder))
    return Case(folder.name, images, tuple(references), tuple(sorted(studies)), _digest(images))


def _digest(images: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for uid in sorted(images):
        with images[uid].open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _with(case: Case, lines: Sequence[Mapping[str, str]]) -> Case:
    status = None
    numbers = []
    for line in lines:
        if line["measurement"] == STATUS:
            status = line["expected"]
            if status not in _STATUSES:
                raise ConfigurationError(f"{line['place']}: a status is one of {', '.join(_STATUSES)}")
        else:
            tolerance = _number(line, "tolerance") if line["tolerance"] else None
            expected = _number(line, "expected")
            numbers.append(Expectation(line["region"], line["measurement"], expected, tolerance))
    return replace(case, expected_status=status, expectations=tuple(numbers))


def _number(line: Mapping[str, str], column: str) -> float:
    try:
        number = float(line[column])
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or (column == "tolerance" and number < 0):
        raise ConfigurationError(f"{line['place']}: {column} {line[column]!r} is no number")
    return number
