"""Conditions on a number: `5`, `[low, high]`, `[2, ">"]`, or a mapping like `{at_least: 2}`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from isocenter.rules.problem import Place, WrongCondition, meant

__all__ = [
    "NUMBER_KEYS",
    "RELATIONS",
    "NumberTest",
    "count_test",
    "is_number",
    "is_range",
    "is_relation",
    "number_test",
    "refuse_impossible",
]

RELATIONS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "!=": operator.ne,
}
NUMBER_KEYS = ("equals", "one_of", "between", "at_least", "at_most", "not")


@dataclass(frozen=True)
class NumberTest:
    """`told` is what a number should be, for a person."""

    told: str
    holds: Callable[[float], bool]


def number_test(condition: Any, place: Place) -> NumberTest:
    """Raises WrongCondition where it is none."""
    if is_number(condition):
        return NumberTest(str(condition), lambda value: bool(value == condition))
    if is_range(condition):
        return _between(condition, place)
    if is_relation(condition):
        limit, relation = condition
        return NumberTest(f"{relation} {limit}", lambda value: RELATIONS[relation](value, limit))
    if isinstance(condition, Mapping) and condition:
        return _all([_keyed(key, value, (*place, key)) for key, value in condition.items()])
    raise WrongCondition(
        place,
        f"{condition!r} is no condition on a number: give a number, [low, high], [2, '>'] or {{at_least: 2}}",
    )


def count_test(condition: Any, place: Place, least: int = 0) -> NumberTest:
    """The same of a count. Raises WrongCondition where no count meets it."""
    test = number_test(condition, place)
    refuse_impossible(test, condition, place, least=least, whole=True)
    return test


def refuse_impossible(
    test: NumberTest, condition: Any, place: Place, *, least: float = -math.inf, whole: bool = False
) -> None:
    """Raise WrongCondition where no number from `least` on meets the condition, so that its rule would never fire."""
    possible = {max(least, 0.0), 1e12}
    for limit in _numbers_in(condition):
        try:
            near = {float(limit), math.nextafter(limit, math.inf), math.nextafter(limit, -math.inf)}
        except OverflowError:
            return  # a number of hundreds of digits: nobody can tell
        possible |= {each for each in near if math.isfinite(each)}
    if whole:
        possible = {float(math.floor(each) + step) for each in possible for step in (-1, 0, 1, 2)}
    if not any(test.holds(each) for each in possible if each >= least):
        what = f"no whole number from {least:g} on" if whole else "no number" + _from(least)
        raise WrongCondition(place, f"{what} meets this, so the rule would never fire")


def _from(least: float) -> str:
    return f" from {least:g} on" if math.isfinite(least) else ""


def _numbers_in(condition: Any) -> Iterator[float]:
    if is_number(condition):
        yield condition
    elif isinstance(condition, Mapping):
        for each in condition.values():
            yield from _numbers_in(each)
    elif isinstance(condition, list):
        for each in condition:
            yield from _numbers_in(each)


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def is_range(condition: Any) -> bool:
    return isinstance(condition, list) and len(condition) == 2 and all(map(is_number, condition))


def is_relation(condition: Any) -> bool:
    if not isinstance(condition, list) or len(condition) != 2:
        return False
    limit, relation = condition
    return is_number(limit) and isinstance(relation, str) and relation in RELATIONS


def _keyed(key: str, value: Any, place: Place) -> NumberTest:
    if key not in NUMBER_KEYS:
        raise WrongCondition(place, f"no such condition on a number{meant(str(key), NUMBER_KEYS)}")
    if key == "not":
        inner = number_test(value, place)
        return NumberTest(f"not {inner.told}", lambda number: not inner.holds(number))
    if key == "between":
        if not is_range(value):
            raise WrongCondition(place, f"{value!r} is not two numbers [low, high]")
        return _between(value, place)
    if key == "one_of":
        if not isinstance(value, list) or not value or not all(map(is_number, value)):
            raise WrongCondition(place, f"{value!r} is not a list of numbers")
        return NumberTest("one of " + ", ".join(map(str, value)), lambda number: number in value)
    if not is_number(value):
        raise WrongCondition(place, f"{value!r} is not a number")
    if key == "at_least":
        return NumberTest(f"at least {value}", lambda number: bool(number >= value))
    if key == "at_most":
        return NumberTest(f"at most {value}", lambda number: bool(number <= value))
    return NumberTest(str(value), lambda number: bool(number == value))


def _between(limits: list[float], place: Place) -> NumberTest:
    low, high = limits
    if not low <= high:
        raise WrongCondition(place, f"nothing is from {low} to {high}: the lower number comes first")
    return NumberTest(f"from {low} to {high}", lambda value: bool(low <= value <= high))


def _all(tests: list[NumberTest]) -> NumberTest:
    return NumberTest(
        " and ".join(test.told for test in tests), lambda value: all(test.holds(value) for test in tests)
    )
