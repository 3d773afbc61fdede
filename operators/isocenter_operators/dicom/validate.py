"""Is this DICOM object right? Our own checks, run before every store; and dciodvfy, where it is installed.

The checks here are the ones whose failure a user meets: an archive that refuses the object, a viewer that shows it in
the wrong place or not at all. dciodvfy (dicom3tools) checks every attribute of the object's IOD.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from pydicom import charset
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from isocenter_operators.dicom.problem import Problem, absent, error, warning
from isocenter_operators.dicom.read import read_file
from isocenter_operators.dicom.seg_rules import segmentation_problems
from isocenter_operators.dicom.sr_rules import report_problems
from isocenter_operators.errors import InvalidResult, UnreadableInput

__all__ = ["check", "dciodvfy", "problems"]

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
_TEXT_VRS = {"LO", "LT", "PN", "SH", "ST", "UC", "UT"}
_PER_FRAME = 0x52009230  # Per-frame Functional Groups Sequence: long, and without text
_SEG, _LABELMAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
_SC = "1.2.840.10008.5.1.4.1.1.7"
_REPORTS = ("1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.88.34")
_DCIODVFY_LIMIT_S = 120.0


def check(dataset: Dataset) -> None:
    """Raise InvalidResult where the object has an error; the message names the first and counts the others."""
    errors = [problem for problem in problems(dataset) if problem.severity == "error"]
    if errors:
        others = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        uid = dataset.get("SOPInstanceUID", "an object without a SOP Instance UID")
        raise InvalidResult(
            f"{uid}: {errors[0].where} {errors[0].message}{others}",
            series_uid=str(dataset.get("SeriesInstanceUID", "")) or None,
        )


def problems(subject: Dataset | Path) -> list[Problem]:
    """All that our own checks find in an object or a file: of any kind, and in detail of SEG, TID 1500 SR and SC."""
    if isinstance(subject, Path):
        try:
            dataset = read_file(subject)
        except UnreadableInput as unreadable:
            return [error("file", str(unreadable))]
        if dataset is None:
            return [error("file", "is not a DICOM object")]
        subject = dataset
    found = [*_identity_problems(subject), *_text_problems(subject)]
    rules = _RULES.get(str(subject.get("SOPClassUID", "")))
    if rules is not None:
        modality, check_kind = rules
        if modality and subject.get("Modality") != modality:
            found.append(error("Modality", f"is not {modality}"))
        found.extend(check_kind(subject))
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
            yield error(keyword, "is not a valid UID (PS3.5, 9)")
    for keyword in _TYPE_2:
        if keyword not in dataset:
            yield error(keyword, "has to be there, if only empty")
    meta = getattr(dataset, "file_meta", None)
    if meta is None or not meta.get("TransferSyntaxUID"):
        yield error("TransferSyntaxUID", "is missing: the object can not be written as a file")
    elif meta.get("MediaStorageSOPInstanceUID") != dataset.get("SOPInstanceUID"):
        yield error("MediaStorageSOPInstanceUID", "is not the SOP Instance UID")


def _text_problems(dataset: Dataset) -> Iterator[Problem]:
    declared = dataset.get("SpecificCharacterSet") or ""
    terms = [declared] if isinstance(declared, str) else list(declared)
    unknown = [term for term in terms if term and term not in charset.python_encoding]
    if unknown:
        yield error("SpecificCharacterSet", f"{unknown[0]!r} is no character set of PS3.3, C.12.1.1.2")
        return
    encodings = ["ascii" if not terms[0] else charset.python_encoding[terms[0]]]
    encodings += [charset.python_encoding[term] for term in terms[1:]]
    for keyword in sorted(set(_unreadable_texts(dataset, encodings))):
        yield error(
            keyword, f"can not be written in the character set {terms[0] or 'ISO_IR 6 (none is declared)'}"
        )


def _unreadable_texts(dataset: Dataset, encodings: list[str]) -> Iterator[str]:
    for tag in dataset.keys():  # noqa: SIM118
        if tag == _PER_FRAME:
            continue
        element = dataset.get_item(tag)
        if element.VR == "SQ" and not isinstance(element, RawDataElement):
            for item in element.value:
                yield from _unreadable_texts(item, encodings)
        elif element.VR in _TEXT_VRS and element.value and not _fits(element.value, encodings):
            yield dataset[tag].keyword or str(tag)


def _fits(value: object, encodings: list[str]) -> bool:
    if isinstance(value, bytes):
        if len(encodings) > 1:
            return True  # code extensions: escape sequences decide from which set each character is
        try:
            value.decode(encodings[0])
        except UnicodeDecodeError:
            return False
        return True
    return all(any(_encodes(character, encoding) for encoding in encodings) for character in set(str(value)))


def _encodes(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _capture_problems(image: Dataset) -> Iterator[Problem]:
    """SC Equipment and Image Pixel (PS3.3, C.8.6.1, C.7.6.3)."""
    required = (
        "Rows",
        "Columns",
        "SamplesPerPixel",
        "BitsAllocated",
        "PhotometricInterpretation",
        "PixelData",
    )
    missing = list(absent(image, (*required, "ConversionType")))
    yield from missing
    if missing:
        return
    samples = int(image.SamplesPerPixel)
    if samples == 3 and "PlanarConfiguration" not in image:
        yield error("PlanarConfiguration", "is required of a colour image")
    if not image.get("BurnedInAnnotation"):
        yield warning("BurnedInAnnotation", "does not say whether the picture shows who the patient is")
    meta = getattr(image, "file_meta", Dataset())
    if "TransferSyntaxUID" in meta and not meta.TransferSyntaxUID.is_encapsulated:
        expected = int(image.Rows) * int(image.Columns) * samples * int(image.BitsAllocated) // 8
        if len(image.PixelData) not in (expected, expected + expected % 2):
            yield error("PixelData", f"has {len(image.PixelData)} bytes, not {expected}")


_Rules = tuple[str, Callable[[Dataset], Iterator[Problem]]]
_RULES: dict[str, _Rules] = {
    _SEG: ("SEG", segmentation_problems),
    _LABELMAP: ("SEG", segmentation_problems),
    _SC: ("", _capture_problems),
    **dict.fromkeys(_REPORTS, ("SR", report_problems)),
}
