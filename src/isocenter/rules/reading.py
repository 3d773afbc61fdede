"""Reads conditions as the configuration holds them, once for each route; what is wrong is collected, with its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from isocenter.rules.attribute import attribute
from isocenter.rules.comparison import comparisons
from isocenter.rules.computed import PLANES, QUANTITIES, Known, Quantity
from isocenter.rules.condition import (
    All,
    AnyInstance,
    AnyOf,
    AnySeries,
    Computed,
    Condition,
    EveryInstance,
    Not,
    OfAttribute,
    SeriesCount,
)
from isocenter.rules.number import count_test, number_test, refuse_impossible
from isocenter.rules.problem import Place, Problem, WrongCondition, meant
from isocenter.rules.selection import selection

__all__ = ["Conditions", "read"]

_LEVELS = (
    "any_instance",
    "every_instance",
    "any_series",
    "no_series",
    "series_count",
    "any_of",
    "not",
    "selection",
)
_OF_SERIES = frozenset(
    {"any_instance", "every_instance", "any_series", "no_series", "series_count", "selection"}
)


@dataclass(frozen=True)
class Conditions:
    """A mapping of conditions that was read. The places of `problems` begin inside it."""

    all: All
    problems: tuple[Problem, ...]


class _Same:
    """A mapping by its identity, so that it can be remembered; held, so that no other one takes its place."""

    def __init__(self, mapping: Mapping[str, Any]) -> None:
        self.mapping = mapping

    def __hash__(self) -> int:
        return id(self.mapping)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.mapping is self.mapping


def read(conditions: Mapping[str, Any]) -> Conditions:
    """The conditions of one mapping; every one of them must hold. Read once: routes do not change."""
    return _read(_Same(conditions))


@lru_cache(maxsize=16384)
def _read(same: _Same) -> Conditions:
    reader = _Reader()
    return Conditions(reader.all_of(same.mapping, (), in_instance=False), tuple(reader.problems))


class _Reader:
    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def all_of(self, content: Any, place: Place, *, in_instance: bool, may_be_empty: bool = True) -> All:
        if not isinstance(content, Mapping):
            raise WrongCondition(place, f"{content!r} is no mapping of conditions like {{Modality: CT}}")
        if not content and not may_be_empty:
            raise WrongCondition(place, "no conditions: everything would meet them")
        found = []
        for key, value in content.items():
            try:
                found.append(self._entry(str(key), value, (*place, key), in_instance))
            except WrongCondition as wrong:
                self.problems.append(Problem(wrong.place, str(wrong)))
        return All(tuple(found))

    def _entry(self, key: str, value: Any, place: Place, in_instance: bool) -> Condition:
        if key in QUANTITIES:
            quantity = QUANTITIES[key]
            if in_instance and quantity.of_series is not None:
                raise WrongCondition(place, "this is of a whole series, and here one instance is looked at")
            return _computed(key, quantity, value, place)
        if key in _LEVELS:
            if in_instance and key in _OF_SERIES:
                raise WrongCondition(place, "this is of a whole series, and here one instance is looked at")
            return self._level(key, value, place, in_instance)
        if key.islower() and "," not in key:  # no DICOM keyword is written so
            names = (*_LEVELS, *QUANTITIES)
            near = meant(key, names)
            if near or "_" in key:
                raise WrongCondition(place, f"there is no such condition{near}")
        of = attribute(key, place)
        return OfAttribute(of, comparisons(of, value, place))

    def _level(self, key: str, value: Any, place: Place, in_instance: bool) -> Condition:
        if key == "any_of":
            if not isinstance(value, list) or not value:
                raise WrongCondition(
                    place, "a list of conditions is expected: [{Modality: CT}, {Modality: MR}]"
                )
            return AnyOf(
                tuple(
                    self.all_of(each, (*place, index), in_instance=in_instance, may_be_empty=False)
                    for index, each in enumerate(value)
                )
            )
        if key == "selection":
            return selection(value, place)
        if key == "series_count":
            return self._series_count(value, place)
        of_instance = in_instance or key in {"any_instance", "every_instance"}
        inner = self.all_of(value, place, in_instance=of_instance, may_be_empty=False)
        return _LEVEL_OF[key](inner)

    def _series_count(self, value: Any, place: Place) -> Condition:
        if not isinstance(value, Mapping) or "when" not in value:
            return SeriesCount(All(()), count_test(value, place))
        rest = {key: each for key, each in value.items() if key != "when"}
        inner = self.all_of(value["when"], (*place, "when"), in_instance=False)
        return SeriesCount(inner, count_test(rest, place))


_LEVEL_OF: Mapping[str, Callable[[Condition], Condition]] = {
    "any_instance": AnyInstance,
    "every_instance": EveryInstance,
    "any_series": AnySeries,
    "no_series": lambda inner: AnySeries(inner, wanted=False),
    "not": Not,
}


def _computed(name: str, quantity: Quantity, value: Any, place: Place) -> Computed:
    exists = None
    if isinstance(value, Mapping) and "exists" in value:
        exists = value["exists"]
        if not isinstance(exists, bool):
            raise WrongCondition((*place, "exists"), f"{exists!r} is neither true nor false")
        value = {key: each for key, each in value.items() if key != "exists"}
        if not value or not exists:
            if value:
                raise WrongCondition(place, "exists: false leaves nothing for another condition")
            return Computed(name, quantity, "known" if exists else "unknown", lambda found: True, exists)
    told, holds = _KINDS[quantity.kind](value, place)
    return Computed(name, quantity, told, holds, exists)


_Test = tuple[str, Callable[[Known], bool]]


def _of_number(value: Any, place: Place) -> _Test:
    test = number_test(value, place)
    refuse_impossible(test, value, place, least=0)
    return test.told, lambda found: isinstance(found, tuple) and all(map(test.holds, found))


def _of_count(value: Any, place: Place) -> _Test:
    test = count_test(value, place, least=1)
    return test.told, lambda found: isinstance(found, tuple) and all(map(test.holds, found))


def _of_plane(value: Any, place: Place) -> _Test:
    if isinstance(value, str):
        return _one_of_planes([value], place)
    if not isinstance(value, Mapping) or not value:
        hint = f": write {{one_of: {value}}}" if isinstance(value, list) else ""
        raise WrongCondition(place, f"{value!r} is none of {', '.join(PLANES)}{hint}")
    tests = [_keyed_plane(str(key), each, (*place, key)) for key, each in value.items()]
    told = " and ".join(said for said, _ in tests)
    return told, lambda found: all(test(found) for _, test in tests)


def _keyed_plane(key: str, value: Any, place: Place) -> _Test:
    if key == "not":
        said, inner = _of_plane(value, place)
        return f"not {said}", _negated(inner)
    if key == "equals":
        return _one_of_planes([value], place)
    if key == "one_of" and isinstance(value, list) and value:
        return _one_of_planes(value, place)
    raise WrongCondition(place, f"no such condition on a plane{meant(key, _PLANE_KEYS)}")


_PLANE_KEYS = ("equals", "one_of", "not", "exists")


def _one_of_planes(planes: list[Any], place: Place) -> _Test:
    wanted = [str(plane).strip().lower() for plane in planes]
    for plane in wanted:
        if plane not in PLANES:
            raise WrongCondition(place, f"{plane!r} is none of {', '.join(PLANES)}{meant(plane, PLANES)}")
    return " or ".join(wanted), lambda found: found in wanted


def _negated(inner: Callable[[Known], bool]) -> Callable[[Known], bool]:
    return lambda found: not inner(found)


def _of_truth(value: Any, place: Place) -> _Test:
    if isinstance(value, Mapping) and len(value) == 1:
        ((key, each),) = value.items()
        if key == "equals":
            return _of_truth(each, (*place, key))
        if key == "not":
            said, inner = _of_truth(each, (*place, key))
            return f"not {said}", _negated(inner)
    if not isinstance(value, bool):
        raise WrongCondition(place, f"{value!r} is neither true nor false")
    return str(value).lower(), lambda found: found is value


_KINDS: Mapping[str, Callable[[Any, Place], _Test]] = {
    "number": _of_number,
    "count": _of_count,
    "plane": _of_plane,
    "truth": _of_truth,
}
