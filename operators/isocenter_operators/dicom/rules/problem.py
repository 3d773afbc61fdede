"""One thing that is wrong with a DICOM object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydicom.dataset import Dataset

from isocenter_operators.dicom.series.part10 import tag_of
from isocenter_operators.dicom.value import value_of

__all__ = ["Problem", "absent", "error", "incomplete_code", "warning"]


@dataclass(frozen=True)
class Problem:
    """`where` names the attribute or item; neither text holds a value that could identify a patient."""

    severity: Literal["error", "warning"]
    where: str
    message: str


def error(where: str, message: str) -> Problem:
    """What makes the object wrong by the standard, or unusable."""
    return Problem("error", where, message)


def warning(where: str, message: str) -> Problem:
    """What is allowed, but costs a reader something."""
    return Problem("warning", where, message)


def absent(dataset: Dataset, keywords: tuple[str, ...], where: str = "") -> Iterator[Problem]:
    """An error for each type 1 attribute that is not there or has no value."""
    for keyword in keywords:
        tag = tag_of(keyword)
        if dataset.get_item(tag) is None or dataset[tag].is_empty:
            yield error(f"{where}{keyword}", "is required and has no value")


def incomplete_code(dataset: Dataset, keyword: str, where: str = "") -> Iterator[Problem]:
    """An error where a code sequence does not hold one complete code (PS3.3, 8.8)."""
    items = value_of(dataset, keyword) or []
    if len(items) != 1:
        yield error(f"{where}{keyword}", f"holds {len(items)} codes, not one")
        return
    code = items[0]
    if not (value_of(code, "CodeValue") or code.get("LongCodeValue") or code.get("URNCodeValue")):
        yield error(f"{where}{keyword}", "has no Code Value")
    if not value_of(code, "CodeMeaning") or (
        value_of(code, "CodeValue") and not value_of(code, "CodingSchemeDesignator")
    ):
        yield error(f"{where}{keyword}", "has no Code Meaning or Coding Scheme Designator")
