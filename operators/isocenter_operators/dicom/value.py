"""Single values of an instance's attributes, of the kind they have to be, or a refusal that does not quote them.

pydicom converts a value when it is first asked for, and raises whatever its conversion meets. A value of the wrong kind
may come from another attribute of a damaged file: a patient's name, so messages say what is wrong with it and no more.
"""

from __future__ import annotations

import re
from collections.abc import MutableSequence
from typing import Any

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from isocenter_operators.dicom.series.part10 import tag_of
from isocenter_operators.errors import UnreadableInput

__all__ = ["converted", "named", "term", "value_of", "whole", "whole_number"]

_TERM = re.compile(r"[A-Z][A-Z0-9_]{1,8}")


def converted(dataset: Dataset, keyword: str, origin: object) -> Any:
    """The attribute's value, None where it is absent or empty.

    origin: what names the dataset, as text; asked for its text in a refusal alone. Raises UnreadableInput where the
    value can not be read.
    """
    try:
        value = dataset.get(keyword)
        # Not asked of a sequence: highdicom's own can not be compared with anything else.
        empty = value is None or (not isinstance(value, MutableSequence) and value == "")
        return None if empty else value
    except MemoryError:
        raise
    except Exception as error:
        raise UnreadableInput(
            f"{origin} is damaged: its {keyword} can not be read ({type(error).__name__})", path=str(origin)
        ) from error


def value_of(dataset: Dataset, keyword: str) -> Any:
    """As `dataset.get(keyword)`, for what is asked of thousands of items: that takes pydicom three times as long."""
    tag = tag_of(keyword)
    element = dataset.get_item(tag)
    if isinstance(element, RawDataElement):
        element = dataset[tag]
    return None if element is None else element.value


def whole_number(
    dataset: Dataset, keyword: str, origin: object, default: int | None = None, *, bits: int = 16
) -> int:
    """The attribute as one whole number of so many bits, a VR of US as most have: so messages may tell it.

    Raises UnreadableInput where it is none, or absent with no default.
    """
    return whole(converted(dataset, keyword, origin), keyword, origin, default, bits=bits)


def whole(value: Any, keyword: str, origin: object, default: int | None = None, *, bits: int = 16) -> int:
    """As `whole_number`, of a value that was read."""
    if value is None and default is not None:
        return default
    try:
        number = int(value)
        if number == float(value) and abs(number) < 1 << bits:
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise UnreadableInput(f"{origin} is damaged: its {keyword} is not one whole number", path=str(origin))


def term(value: object) -> str:
    """A coded value (VR CS) as messages may tell it: as it is where it looks like one, else that it does not."""
    text = str(value)
    return text if _TERM.fullmatch(text) else "no defined term"


def named(instance: Dataset) -> str:
    """The instance as messages name it."""
    return f"series {instance.SeriesInstanceUID}, instance {instance.SOPInstanceUID}"
