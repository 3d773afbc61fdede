"""The SDK's series selections as a condition: `{"selections": [{"name": ..., "conditions": {...}}]}`.

The meaning is that of monai.deploy's DICOMSeriesSelectorOperator: of an attribute with several values, terms are
looked for in the text of all of them; an empty condition is no condition, and a selection without any selects nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from isocenter.rules.attribute import Attribute, Values, attribute
from isocenter.rules.comparison import SDK_PLANES, Comparison, expression, sdk_plane
from isocenter.rules.condition import All, AnyOf, Condition, OfAttribute, Ruling, Subject
from isocenter.rules.geometry import number
from isocenter.rules.number import is_number, is_range, is_relation, number_test
from isocenter.rules.problem import Place, WrongCondition

__all__ = ["selection"]

_POSITIONS = ("HFP", "HFS", "HFDL", "HFDR", "FFP", "FFS", "FFDL", "FFDR")
_SHAPE = '{"selections": [{"name": ..., "conditions": {...}}]} is expected'


def selection(content: Any, place: Place) -> Condition:
    """One of the selections matches. `content` is the JSON, or the path of a file with it.

    Raises WrongCondition where it can not be read, or where the SDK's operator could not apply it.
    """
    document = _read(Path(content), place) if isinstance(content, str) else content
    selections = document.get("selections") if isinstance(document, Mapping) else None
    if not isinstance(selections, list) or not selections:
        raise WrongCondition(place, _SHAPE)
    names, choices = [], []
    for index, each in enumerate(selections):
        inside: Place = place if isinstance(content, str) else (*place, "selections", index)
        conditions = each.get("conditions") if isinstance(each, Mapping) else None
        if not isinstance(conditions, Mapping):
            raise WrongCondition(inside, f"selection {index + 1}: {_SHAPE}")
        if conditions:  # the SDK's operator passes over a selection without any
            names.append(str(each.get("name") or f"selection {index + 1}").strip())
            choices.append(_all(conditions, inside, isinstance(content, str)))
    if not choices:
        raise WrongCondition(place, "no selection has any conditions, so nothing would be selected")
    return AnyOf(tuple(choices), "selection", tuple(names))


def _read(file: Path, place: Place) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongCondition(place, f"{file} can not be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise WrongCondition(place, f"{file}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from error
    except ValueError as error:
        raise WrongCondition(place, f"{file}: not JSON in UTF-8") from error


def _all(conditions: Mapping[str, Any], place: Place, in_file: bool) -> All:
    found: list[Condition] = []
    for key, wanted in conditions.items():
        if not wanted:
            continue  # as the SDK does
        inside: Place = place if in_file else (*place, "conditions", key)
        try:
            found.append(_condition(str(key), wanted, inside))
        except WrongCondition as wrong:
            raise WrongCondition(wrong.place, f"{key}: {wrong}" if in_file else str(wrong)) from wrong
    return All(tuple(found))


@dataclass(frozen=True)
class _Oriented:
    """The SDK's operator refuses images whose PatientPosition it does not know (PS3.3, C.7.3.1.1.2)."""

    inner: OfAttribute

    @property
    def stated(self) -> str:
        return self.inner.stated

    def ask(self, subject: Subject) -> Ruling:
        position = str(subject.attributes.get("PatientPosition") or "")
        if position not in _POSITIONS:
            return Ruling(
                None, f"PatientPosition is {position!r}, and the SDK's selector needs one like 'HFS'"
            )
        return self.inner.ask(subject)

    def seen(self, subject: Subject) -> str:
        return self.inner.seen(subject)


def _condition(keyword: str, wanted: Any, place: Place) -> Condition:
    if "." in keyword:
        raise WrongCondition(place, "the SDK's selections know no attributes inside sequences")
    of = attribute(keyword, place)
    if of.vr == "SQ":
        raise WrongCondition(place, "the SDK's selections can not look at a sequence")
    if of.path == ("ImageOrientationPatient",):
        return _Oriented(OfAttribute(of, (_plane(wanted, place),)))
    if is_number(wanted):
        told = str(wanted)
    elif isinstance(wanted, str):
        told = f"like {wanted!r}"
    elif isinstance(wanted, list):
        told = "with " + ", ".join(map(str, wanted))
    else:
        raise WrongCondition(place, f"{wanted!r} is no condition of the SDK: a text, a number or a list is")
    _refuse_impossible(of, wanted, place)
    return OfAttribute(of, (Comparison(told, partial(_matches, of, wanted, _pattern(wanted, place))),))


def _plane(wanted: Any, place: Place) -> Comparison:
    plane = wanted.strip().lower() if isinstance(wanted, str) else None
    if plane not in SDK_PLANES:
        raise WrongCondition(place, f"{wanted!r} is none of Axial, Coronal, Sagittal")
    return Comparison(f"like {wanted!r}", lambda values: plane in map(sdk_plane, values.whole))


def _pattern(wanted: Any, place: Place) -> re.Pattern[str] | None:
    return expression(wanted, place) if isinstance(wanted, str) else None


def _refuse_impossible(of: Attribute, wanted: Any, place: Place) -> None:
    if of.numeric and isinstance(wanted, list) and not (is_range(wanted) or is_relation(wanted)):
        several = any(isinstance(each, str) for each in wanted) and not is_number(wanted[0])
        if not several:
            raise WrongCondition(
                place, f"{wanted!r} is neither a range [low, high] nor a relation like [2, '>']"
            )


def _matches(of: Attribute, wanted: Any, pattern: re.Pattern[str] | None, values: Values) -> bool:
    if values.count == 0:
        return False
    if values.count > 1:
        return _matches_several(of, wanted, values)
    text = values.each[0]
    if of.numeric:
        return _matches_number(wanted, text)
    if not isinstance(wanted, str) or of.vr == "PN":
        return False  # the SDK's operator raises here
    return text.casefold() == wanted.casefold() or (pattern is not None and pattern.search(text) is not None)


def _matches_several(of: Attribute, wanted: Any, values: Values) -> bool:
    """Terms anywhere in the text of all values, as pydicom writes them: ['ORIGINAL', 'PRIMARY']."""
    shown = f"[{', '.join(values.each)}]" if of.numeric else str(list(values.each))
    text = shown.lower()
    terms = [str(term).lower() for term in (wanted if isinstance(wanted, list) else [wanted])]
    return all((term[1:] not in text) if term.startswith("!") else (term in text) for term in terms)


def _matches_number(wanted: Any, text: str) -> bool:
    value = number(text)
    if not value:
        return False  # the SDK's operator takes 0 for missing
    if isinstance(wanted, str):
        return re.fullmatch(wanted, text.strip()) is not None
    return (is_number(wanted) or isinstance(wanted, list)) and number_test(wanted, ()).holds(value)
