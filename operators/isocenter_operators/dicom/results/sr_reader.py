"""Measurements read back from reports after TID 1500 (PS3.16), whoever wrote them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pydicom.dataset import Dataset

__all__ = ["MeasuredGroup", "measured_in"]

_GROUP, _NOTE = "125007", "121106"
_FINDING, _SITE, _LATERALITY, _DERIVATION = "121071", "363698007", "272741003", "121401"
_TRACKING_ID, _ALGORITHM_NAME = "112039", "111001"
# What the codes of a group say that are no answers: of whom or what it is, and by which means it was found.
_CONTEXT = {_FINDING, _SITE, _LATERALITY, "276214006", "370129005"}  # the last two: category, method
_UNITS = {"[hnsf'U]": "HU", "%": "percent", "a": "years", "cm3": "mL", "1": "", "ml": "mL"}


@dataclass(frozen=True)
class MeasuredGroup:
    """One measurement group. `said`: its numbers and answers by name; None where there is no number."""

    label: str
    notes: tuple[str, ...]
    said: Mapping[str, float | str | None]


def measured_in(report: Dataset, *, words: bool) -> list[MeasuredGroup]:
    """What the measurement groups of a report say; none where it has none, or is no report.

    words: whether their free text is told too: the name that each is tracked by, and comments. Free text of a stranger
    may be about the patient: then only codes are told.
    """
    groups = [_told(group, words) for group in _groups(report)]
    labels = [group.label for group in groups]
    return [
        replace(group, label=f"{group.label} {labels[: index + 1].count(group.label)}")
        if labels.count(group.label) > 1
        else group
        for index, group in enumerate(groups)
    ]


def _groups(item: Dataset) -> Iterator[Dataset]:
    for child in _children(item):
        if _concept(child)[0] == _GROUP:
            yield child
        else:
            yield from _groups(child)


def _told(group: Dataset, words: bool) -> MeasuredGroup:
    said: dict[str, float | str | None] = {}
    for item in _children(group):
        name, value = _number(item) if item.get("ValueType") == "NUM" else _answer(item)
        if name:
            count = sum(re.sub(r" \d+$", "", known) == name for known in said)
            said[f"{name} {count + 1}" if count else name] = value
    notes = [str(item.get("TextValue", "")) for item in _having(group, _NOTE)] if words else []
    return MeasuredGroup((_tracked(group) if words else "") or _coded_label(group), tuple(notes), said)


def _tracked(group: Dataset) -> str:
    """The name that it is tracked by, without the algorithm's, which ours have before it."""
    tracked = next((str(item.get("TextValue", "")) for item in _having(group, _TRACKING_ID)), "")
    algorithm = next((str(item.get("TextValue", "")) for item in _having(group, _ALGORITHM_NAME)), "")
    return tracked.removeprefix(f"{algorithm} ") if algorithm else tracked


def _coded_label(group: Dataset) -> str:
    for concept in (_FINDING, _SITE):
        for item in _having(group, concept):
            sides = [
                _value(each)
                for above in (item, *_having(group, _SITE))
                for each in _having(above, _LATERALITY)
            ]
            return ", ".join([_value(item), *(side.lower() for side in sides[:1])])
    return "images"


def _number(item: Dataset) -> tuple[str, float | None]:
    """Its name, as others are named, `mean_attenuation_coefficient_HU`, and its value."""
    measured = next(iter(item.get("MeasuredValueSequence") or []), Dataset())
    units = next(iter(measured.get("MeasurementUnitsCodeSequence") or []), Dataset())
    unit = str(units.get("CodeValue", ""))
    unit = _UNITS.get(unit, "" if re.fullmatch(r"\{.*\}", unit) else unit)
    derivation = [_value(each) for each in _having(item, _DERIVATION)]
    words = [*derivation[:1], _concept(item)[1]]
    name = "_".join([*(_small(word).replace(" ", "_") for word in words if word), *([unit] if unit else [])])
    try:
        value = float(measured.get("NumericValue"))
    except (TypeError, ValueError):
        return name, None
    return name, value if math.isfinite(value) else None


def _answer(item: Dataset) -> tuple[str, str]:
    code, meaning = _concept(item)
    if item.get("ValueType") != "CODE" or item.get("RelationshipType") != "CONTAINS" or code in _CONTEXT:
        return "", ""
    return _small(meaning).replace(" ", "_"), _value(item)


def _small(words: str) -> str:
    """Without capitals where they are no abbreviation's."""
    return " ".join(word.lower() if word[1:] == word[1:].lower() else word for word in words.split())


def _having(item: Dataset, concept: str) -> Iterator[Dataset]:
    return (child for child in _children(item) if _concept(child)[0] == concept)


def _children(item: Dataset) -> list[Dataset]:
    return list(item.get("ContentSequence") or [])


def _concept(item: Dataset) -> tuple[str, str]:
    return _code(item, "ConceptNameCodeSequence")


def _value(item: Dataset) -> str:
    return _code(item, "ConceptCodeSequence")[1]


def _code(item: Dataset, keyword: str) -> tuple[str, str]:
    code = next(iter(item.get(keyword) or []), Dataset())
    return str(code.get("CodeValue", "")), str(code.get("CodeMeaning", ""))
