"""Is this DICOM object right? Our own checks, run before every store; and dciodvfy, where it is installed.

The checks here are the ones whose failure a user meets: an archive that refuses the object, a viewer that shows it in
the wrong place or not at all. dciodvfy (dicom3tools) checks every attribute of the object's IOD.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import UID

from isocenter_operators.dicom.rules.capture import capture_problems
from isocenter_operators.dicom.rules.code import code_problems
from isocenter_operators.dicom.rules.document import encapsulated_pdf_problems
from isocenter_operators.dicom.rules.key_object import key_object_problems
from isocenter_operators.dicom.rules.link import link_problems
from isocenter_operators.dicom.rules.map import parametric_map_problems
from isocenter_operators.dicom.rules.placement import placement_problems
from isocenter_operators.dicom.rules.presentation import presentation_state_problems
from isocenter_operators.dicom.rules.problem import Problem, absent, error, warning
from isocenter_operators.dicom.rules.seg import segmentation_problems
from isocenter_operators.dicom.rules.sr import document_problems, report_problems
from isocenter_operators.dicom.rules.structure_set import structure_set_problems
from isocenter_operators.dicom.rules.text import text_problems
from isocenter_operators.dicom.series.frame_groups import with_groups_read
from isocenter_operators.dicom.series.read import read_file
from isocenter_operators.errors import InvalidResult, UnreadableInput

__all__ = ["check", "check_against", "dciodvfy", "problems"]

_UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_TYPE_2 = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
)
_DCIODVFY_LIMIT_S = 120.0


def check(dataset: Dataset, others: Mapping[str, Dataset] | None = None) -> None:
    """Raise InvalidResult where the object has an error; the message names the first and counts the others.

    others: what it may refer to, by SOP Instance UID; see `check_against`.
    """
    dataset = with_groups_read(dataset)
    found = problems(dataset)
    if others:
        found += check_against(dataset, others)
    errors = [problem for problem in found if problem.severity == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        uid = dataset.get("SOPInstanceUID", "an object without a SOP Instance UID")
        raise InvalidResult(
            f"{uid}: {errors[0].where} {errors[0].message}{more}",
            series_uid=str(dataset.get("SeriesInstanceUID", "")) or None,
        )


def problems(subject: Dataset | Path) -> list[Problem]:
    """All that our own checks find in an object or a file: of any kind, and in detail of the kinds of result."""
    if isinstance(subject, Path):
        try:
            dataset = read_file(subject)
        except UnreadableInput as unreadable:
            return [error("file", str(unreadable))]
        if dataset is None:
            return [error("file", "is not a DICOM object")]
        subject = dataset
    subject = with_groups_read(subject)
    found = [*_found(_identity_problems, subject), *_found(text_problems, subject)]
    rules = _RULES.get(str(subject.get("SOPClassUID", "")))
    if rules is not None:
        modality, check_kind = rules
        if modality and subject.get("Modality") != modality:
            found.append(error("Modality", f"is not {modality}"))
        found.extend(_found(check_kind, subject))
        found.extend(_found(code_problems, subject))
    return found


def check_against(result: Dataset, others: Iterable[Dataset] | Mapping[str, Dataset]) -> list[Problem]:
    """What is wrong with a result beside the objects that it refers to.

    The frames of a SEG or parametric map are compared with those that they were derived from, references are followed,
    tracking UIDs compared.

    others: in any order, or by SOP Instance UID; their pixels are not needed. What `result` refers to and is not among
    them is told only where other instances of its series are.
    """
    here = (
        others if isinstance(others, Mapping) else {str(each.get("SOPInstanceUID")): each for each in others}
    )
    result = with_groups_read(result)
    return [
        *_found(lambda subject: placement_problems(subject, here), result),
        *_found(lambda subject: link_problems(subject, here), result),
    ]


def _found(rules: Callable[[Dataset], Iterator[Problem]], dataset: Dataset) -> list[Problem]:
    """What the rules find; where they meet a value that is not of its kind, that, without the value."""
    found: list[Problem] = []
    try:
        found.extend(rules(dataset))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as wrong:
        found.append(
            error(
                "object", f"holds a value of the wrong kind ({type(wrong).__name__}); it was checked up to it"
            )
        )
    return found


def dciodvfy(path: Path) -> list[Problem] | None:
    """What dciodvfy says about a file; None where it is not installed (Debian: dicom3tools).

    Raises UnreadableInput where it gives no answer in time.
    """
    program = shutil.which("dciodvfy")
    if program is None:
        return None
    try:
        run = subprocess.run(
            [program, str(path)], capture_output=True, timeout=_DCIODVFY_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as expired:
        raise UnreadableInput(
            f"{path}: dciodvfy gave no answer within {_DCIODVFY_LIMIT_S:.0f} s", path=str(path)
        ) from expired
    lines = (run.stdout + run.stderr).decode("latin-1").splitlines()
    if any(line.startswith("Error") and "Information Object Not found" in line for line in lines):
        return [warning("dciodvfy", "does not know this kind of object; nothing was checked")]
    return [problem for line in lines if (problem := _dciodvfy_problem(line)) is not None]


def _dciodvfy_problem(line: str) -> Problem | None:
    kind, _, message = line.partition(" - ")
    if kind not in ("Error", "Warning") or not message:
        return None
    if "(0x0010," in message or " PN " in message:
        message = re.sub(r"<[^>]*>", "<...>", message)  # a patient's name or ID
    return error("dciodvfy", message) if kind == "Error" else warning("dciodvfy", message)


def _identity_problems(dataset: Dataset) -> Iterator[Problem]:
    yield from absent(dataset, (*_UIDS, "Modality"))
    for keyword in _UIDS:
        uid = dataset.get(keyword)
        if uid and not UID(str(uid)).is_valid:
            # Scanners write components with leading zeros, and archives keep such studies: their results belong there.
            lenient = keyword == "StudyInstanceUID" and re.fullmatch(r"[0-9.]{1,64}", str(uid))
            yield (warning if lenient else error)(keyword, "is not a valid UID (PS3.5, 9)")
    for keyword in _TYPE_2:
        if keyword not in dataset:
            yield error(keyword, "has to be there, if only empty")
    meta = getattr(dataset, "file_meta", None)
    if meta is None or not meta.get("TransferSyntaxUID"):
        yield error("TransferSyntaxUID", "is missing: the object can not be written as a file")
    elif meta.get("MediaStorageSOPInstanceUID") != dataset.get("SOPInstanceUID"):
        yield error("MediaStorageSOPInstanceUID", "is not the SOP Instance UID")


_Rules = tuple[str, Callable[[Dataset], Iterator[Problem]]]
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_RULES: dict[str, _Rules] = {  # by SOP Class: the modality that it has to have, and its rules
    f"{_STORAGE}66.4": ("SEG", segmentation_problems),
    f"{_STORAGE}66.7": ("SEG", segmentation_problems),  # label map
    f"{_STORAGE}7": ("", capture_problems),
    f"{_STORAGE}88.11": ("SR", document_problems),  # Basic Text
    f"{_STORAGE}88.22": ("SR", report_problems),  # Enhanced
    f"{_STORAGE}88.33": ("SR", report_problems),  # Comprehensive
    f"{_STORAGE}88.34": ("SR", report_problems),  # Comprehensive 3D
    f"{_STORAGE}88.59": ("KO", key_object_problems),
    f"{_STORAGE}30": ("", parametric_map_problems),
    f"{_STORAGE}481.3": ("RTSTRUCT", structure_set_problems),
    f"{_STORAGE}104.1": ("", encapsulated_pdf_problems),
    f"{_STORAGE}11.1": ("PR", presentation_state_problems),  # Grayscale Softcopy
}
