"""Conditions on the values of one DICOM attribute: those of the SDK's series selections, and explicit ones."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from isocenter.rules.attribute import Attribute, Values
from isocenter.rules.geometry import number, numbers
from isocenter.rules.number import (
    count_test,
    is_number,
    is_range,
    is_relation,
    number_test,
    refuse_impossible,
)
from isocenter.rules.problem import Place, WrongCondition, meant

__all__ = ["Comparison", "comparisons", "expression", "sdk_plane"]

_KEYS = ("equals", "one_of", "matches", "between", "at_least", "at_most", "exists", "count", "not")
_OF_NUMBERS = ("between", "at_least", "at_most")
_NO_NUMBERS = frozenset({"PN", "UI"})  # nothing that could be read as a number
_MOMENTS = frozenset({"DA", "TM", "DT"})  # text that is a number too, like 20240131
SDK_PLANES = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class Comparison:
    """`verb` and `told` say what the attribute should be, for a person: "be" "like 'CT'", "have" "3 values"."""

    told: str
    holds: Callable[[Values], bool]
    verb: str = "be"


def comparisons(attribute: Attribute, condition: Any, place: Place) -> tuple[Comparison, ...]:
    """What all must hold of the attribute. Raises WrongCondition for what is no condition on it."""
    if not isinstance(condition, Mapping):
        return (_sdk_form(attribute, condition, place),)
    if not condition:
        raise WrongCondition(place, "an empty condition: give one, or leave the attribute out")
    of_numbers = {key: value for key, value in condition.items() if key in _OF_NUMBERS}
    found = [
        _keyed(attribute, str(key), value, (*place, key))
        for key, value in condition.items()
        if key not in of_numbers
    ]
    # One value must meet them all: of 0.5\\3 none is from 1 to 2.
    return tuple([*found, _compares_numbers(attribute, of_numbers, place)] if of_numbers else found)


def expression(text: Any, place: Place, flags: int = re.IGNORECASE) -> re.Pattern[str]:
    """A compiled regular expression. Raises WrongCondition where it is none."""
    if not isinstance(text, str):
        raise WrongCondition(place, f"{text!r} is not a regular expression: write it in quotes")
    try:
        return re.compile(text, flags)
    except (re.error, OverflowError, RecursionError) as error:
        raise WrongCondition(place, f"{text!r} is not a regular expression: {error}") from error


def _sdk_form(attribute: Attribute, condition: Any, place: Place) -> Comparison:
    """A text or regular expression, a number, a range, a relation, or a list of terms."""
    if attribute.vr == "SQ":
        raise WrongCondition(place, "a sequence has no value: give {exists: true} or {count: 1}")
    if isinstance(condition, bool) or condition is None or condition == []:
        raise WrongCondition(
            place, f"{condition!r} is no condition: give a text (in quotes), a number, or a list"
        )
    if attribute.path == ("ImageOrientationPatient",) and isinstance(condition, str):
        return _plane_form(condition, place)
    if attribute.numeric:
        return _numeric_form(condition, place)
    if isinstance(condition, list):
        in_range = attribute.vr in _MOMENTS and (is_range(condition) or is_relation(condition))
        return _of_numbers(condition, place) if in_range else _terms(attribute, condition, place)
    _refuse_age(attribute, condition, place)
    if not isinstance(condition, str) and not is_number(condition):
        raise WrongCondition(place, f"{condition!r} is no condition: give a text, a number, or a list")
    return _text(
        str(condition), place, told=f"like {condition!r}" if isinstance(condition, str) else str(condition)
    )


def _text(text: str, place: Place, told: str) -> Comparison:
    pattern, folded = expression(text, place), text.casefold()
    return Comparison(
        told,
        lambda values: any(
            each.casefold() == folded or pattern.search(each) is not None
            for each in (*values.each, *values.whole)
        ),
    )


def _numeric_form(condition: Any, place: Place) -> Comparison:
    if isinstance(condition, str):
        pattern = expression(condition, place, flags=0)
        return Comparison(
            f"like {condition!r}",
            lambda values: any(number(v) is not None and pattern.fullmatch(v.strip()) for v in values.each),
        )
    if not (is_number(condition) or is_range(condition) or is_relation(condition)):
        raise WrongCondition(
            place, f"{condition!r} is neither a range [low, high] nor a relation like [2, '>']"
        )
    return _of_numbers(condition, place)


def _of_numbers(condition: Any, place: Place) -> Comparison:
    test = number_test(condition, place)
    refuse_impossible(test, condition, place)
    return Comparison(
        test.told,
        lambda values: any((n := number(each)) is not None and test.holds(n) for each in values.each),
    )


def _terms(attribute: Attribute, condition: list[Any], place: Place) -> Comparison:
    if is_relation(condition) or (attribute.vr == "AS" and any(map(is_number, condition))):
        hint = "age_years takes numbers" if attribute.vr == "AS" else f"write {{at_least: {condition[0]}}}"
        raise WrongCondition(
            place, f"{condition!r} compares numbers, and {attribute.name} holds text: {hint}"
        )
    if attribute.vr in _MOMENTS:
        raise WrongCondition(
            place,
            f"{condition!r} is no range: write two numbers like [20240101, 20241231], or {{one_of: [...]}}",
        )
    if not all(isinstance(term, str) for term in condition):
        raise WrongCondition(
            place, f"{condition!r} is no list of texts, and {attribute.name} holds text: write each in quotes"
        )
    terms = [str(term).casefold() for term in condition]
    wanted = {term for term in terms if not term.startswith("!")}
    unwanted = {term[1:] for term in terms if term.startswith("!")}

    def holds(values: Values) -> bool:
        there = {each.strip().casefold() for each in values.each}
        return bool(values) and wanted <= there and unwanted.isdisjoint(there)

    return Comparison("with " + ", ".join(map(str, condition)), holds)


def _plane_form(condition: str, place: Place) -> Comparison:
    plane = condition.strip().lower()
    if plane not in SDK_PLANES:
        raise WrongCondition(
            place, f"{condition!r} is none of Axial, Coronal, Sagittal (`orientation` knows oblique)"
        )
    return Comparison(f"like {condition!r}", lambda values: plane in map(sdk_plane, values.whole))


def sdk_plane(cosines: str) -> str | None:
    """The plane nearest to that of the image, as the SDK takes it; None where the cosines are not six numbers."""
    values = numbers(cosines)
    if len(values) != 6:
        return None
    row_x, row_y, row_z, column_x, column_y, column_z = values
    normal = {
        "sagittal": abs(row_y * column_z - row_z * column_y),
        "coronal": abs(row_z * column_x - row_x * column_z),
        "axial": abs(row_x * column_y - row_y * column_x),
    }
    return max(normal, key=lambda plane: normal[plane])


def _keyed(attribute: Attribute, key: str, value: Any, place: Place) -> Comparison:
    if key not in _KEYS:
        raise WrongCondition(place, f"no such condition{meant(key, _KEYS)} (there are {', '.join(_KEYS)})")
    if key == "exists":
        return _exists(value, place)
    if key == "count":
        test = count_test(value, place)
        what = "items" if attribute.vr == "SQ" else "values"
        return Comparison(f"{test.told} {what}", lambda values: test.holds(values.count), verb="have")
    if key == "not":
        return _not(comparisons(attribute, value, place))
    if attribute.vr == "SQ":
        raise WrongCondition(place, "a sequence has no value: give exists or count")
    if key == "matches":
        return (
            _text(value, place, told=f"like {value!r}")
            if isinstance(value, str)
            else _refuse_text(value, place)
        )
    if key == "equals":
        return _equals(attribute, value, place)
    return _one_of(attribute, value, place)


def _refuse_text(value: Any, place: Place) -> Comparison:
    raise WrongCondition(place, f"{value!r} is not a regular expression: write it in quotes")


def _exists(value: Any, place: Place) -> Comparison:
    if not isinstance(value, bool):
        raise WrongCondition(place, f"{value!r} is neither true nor false")
    return Comparison("a value" if value else "no value", lambda values: bool(values) is value, verb="have")


def _not(inner: tuple[Comparison, ...]) -> Comparison:
    told = " and ".join(each.told for each in inner)
    return Comparison(
        told, lambda values: not all(each.holds(values) for each in inner), verb=f"not {inner[0].verb}"
    )


def _compares_numbers(attribute: Attribute, condition: Mapping[str, Any], place: Place) -> Comparison:
    if attribute.vr == "SQ":
        raise WrongCondition(place, "a sequence has no value: give exists or count")
    _refuse_age(attribute, next(iter(condition.values())), place)
    if attribute.vr in _NO_NUMBERS:
        raise WrongCondition(place, f"{attribute.name} holds no numbers")
    return _of_numbers(condition, place)


def _equals(attribute: Attribute, value: Any, place: Place) -> Comparison:
    """The whole value, or one of several, in any case; a list is all values in their order."""
    if isinstance(value, list) and value:
        tests = [_same(attribute, each, place) for each in value]
        return Comparison(
            "\\".join(map(str, value)),
            lambda values: (
                len(values.each) == len(tests)
                and all(test(each) for test, each in zip(tests, values.each, strict=True))
            ),
        )
    same = _same(attribute, value, place)
    return Comparison(repr(value), lambda values: any(map(same, (*values.each, *values.whole))))


def _one_of(attribute: Attribute, value: Any, place: Place) -> Comparison:
    if not isinstance(value, list) or not value:
        raise WrongCondition(place, f"{value!r} is not a list of values")
    tests = [_same(attribute, each, place) for each in value]
    return Comparison(
        "one of " + ", ".join(map(repr, value)),
        lambda values: any(test(each) for test in tests for each in (*values.each, *values.whole)),
    )


def _refuse_age(attribute: Attribute, value: Any, place: Place) -> None:
    if attribute.vr == "AS" and is_number(value):
        raise WrongCondition(place, f"{attribute.name} holds text like 065Y: age_years takes numbers")


def _same(attribute: Attribute, value: Any, place: Place) -> Callable[[str], bool]:
    if not isinstance(value, str) and not is_number(value):
        raise WrongCondition(place, f"{value!r} is neither a text nor a number; write a text in quotes")
    _refuse_age(attribute, value, place)
    if attribute.numeric:
        wanted = number(value)
        if wanted is None:
            raise WrongCondition(place, f"{value!r} is not a number, and {attribute.name} holds numbers")
        return lambda each: number(each) == wanted
    folded = str(value).strip().casefold()
    return lambda each: each.strip().casefold() == folded
