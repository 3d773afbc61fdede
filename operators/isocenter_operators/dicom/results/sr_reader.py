"""Measurements read back from reports after TID 1500 (PS3.16), whoever wrote them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from pydicom.dataset import Dataset

from isocenter_operators.dicom.meanings import code_value, known_meaning

__all__ = ["MeasuredGroup", "measured_in"]

_GROUP, _NOTE = "125007", "121106"
_FINDING, _SITE, _LATERALITY, _DERIVATION = "121071", "363698007", "272741003", "121401"
_TRACKING_ID, _ALGORITHM_NAME = "112039", "111001"
# What the codes of a group say that are no answers: of whom or what it is, and by which means it was found.
_CONTEXT = {_FINDING, _SITE, _LATERALITY, "276214006", "370129005"}  # the last two: category, method
_UNITS = {"[hnsf'U]": "HU", "%": "percent", "a": "years", "cm3": "mL", "1": "", "ml": "mL"}
_UCUM = re.compile(r"(?=.*[A-Za-z0-9%])[A-Za-z0-9%/.*^'_\[\]()+-]{1,16}")  # what is no annotation
_MOST_SAID = 100  # told of a group, of numbers and answers, and of notes; its report has them all
_LONGEST_MEANING, _LONGEST_TEXT = 64, 300  # characters; a Code Meaning is LO (PS3.5, 6.2)


@dataclass(frozen=True)
class MeasuredGroup:
    """One measurement group. `said`: its numbers and answers by name; None where there is no number."""

    label: str
    notes: tuple[str, ...]
    said: Mapping[str, float | str | None]


def measured_in(report: Dataset, *, words: bool) -> list[MeasuredGroup]:
    """What the measurement groups of a report say; none where it has none, or is no report.

    words: whether their free text is told too: the name that each is tracked by, comments, and what the report itself
    calls its codes. Free text of a stranger may be about the patient: then only codes are told, as our tables and the
    standard call them.
    """
    groups = [_told(group, words) for group in _groups(report)]
    alike, before = Counter(group.label for group in groups), Counter[str]()
    numbered: list[MeasuredGroup] = []
    for group in groups:
        before[group.label] += 1
        label = f"{group.label} {before[group.label]}" if alike[group.label] > 1 else group.label
        numbered.append(replace(group, label=label))
    return numbered


def _groups(item: Dataset) -> Iterator[Dataset]:
    for child in _children(item):
        if _concept(child) == _GROUP:
            yield child
        else:
            yield from _groups(child)


def _told(group: Dataset, words: bool) -> MeasuredGroup:
    said: dict[str, float | str | None] = {}
    alike = Counter[str]()
    for name, value in islice(_said(group, words), _MOST_SAID):
        alike[name] += 1
        said[f"{name} {alike[name]}" if alike[name] > 1 else name] = value
    notes = [_text(item) for item in islice(_having(group, _NOTE), _MOST_SAID)] if words else []
    return MeasuredGroup((_tracked(group) if words else "") or _coded_label(group, words), tuple(notes), said)


def _said(group: Dataset, words: bool) -> Iterator[tuple[str, float | str | None]]:
    for item in _children(group):
        name, value = _number(item, words) if item.get("ValueType") == "NUM" else _answer(item, words)
        if name:
            yield name, value


def _tracked(group: Dataset) -> str:
    """The name that it is tracked by, without the algorithm's, which ours have before it."""
    tracked = next((_text(item) for item in _having(group, _TRACKING_ID)), "")
    algorithm = next((_text(item) for item in _having(group, _ALGORITHM_NAME)), "")
    return tracked.removeprefix(f"{algorithm} ") if algorithm else tracked


def _coded_label(group: Dataset, words: bool) -> str:
    for concept in (_FINDING, _SITE):
        for item in _having(group, concept):
            sides = [
                _small(_value(each, words))
                for above in (item, *_having(group, _SITE))
                for each in islice(_having(above, _LATERALITY), 1)
            ]
            if label := _value(item, words):
                return ", ".join([label, *sides[:1]])
    return "images"


def _number(item: Dataset, words: bool) -> tuple[str, float | None]:
    """Its name, as others are named, `mean_attenuation_coefficient_HU`, and its value."""
    measured = next(iter(item.get("MeasuredValueSequence") or []), Dataset())
    unit = _unit(next(iter(measured.get("MeasurementUnitsCodeSequence") or []), Dataset()))
    derivation = [_value(each, words) for each in islice(_having(item, _DERIVATION), 1)]
    parts = [*derivation, _called(item, words)]
    name = "_".join([*(_small(part).replace(" ", "_") for part in parts if part), *([unit] if unit else [])])
    try:
        value = float(measured.get("NumericValue"))
    except (TypeError, ValueError):
        return name, None
    return name, value if math.isfinite(value) else None


def _unit(units: Dataset) -> str:
    """Without its annotations, which are free text; nothing where it is no unit of UCUM by its characters."""
    unit = str(units.get("CodeValue", ""))
    if unit in _UNITS:
        return _UNITS[unit]
    unit = re.sub(r"\{[^{}]*\}", "", unit)
    return unit if _UCUM.fullmatch(unit) else ""


def _answer(item: Dataset, words: bool) -> tuple[str, str]:
    if item.get("ValueType") != "CODE" or item.get("RelationshipType") != "CONTAINS":
        return "", ""
    if _concept(item) in _CONTEXT:
        return "", ""
    return _small(_called(item, words)).replace(" ", "_"), _value(item, words)


def _small(words: str) -> str:
    """Without capitals where they are no abbreviation's, and no code's."""
    return " ".join(
        word.lower() if word[1:] == word[1:].lower() and not re.search(r"\d", word) else word
        for word in words.split()
    )


def _having(item: Dataset, concept: str) -> Iterator[Dataset]:
    return (child for child in _children(item) if _concept(child) == concept)


def _children(item: Dataset) -> list[Dataset]:
    return list(item.get("ContentSequence") or [])


def _concept(item: Dataset) -> str:
    return code_value(_code(item, "ConceptNameCodeSequence"))[1]


def _called(item: Dataset, words: bool) -> str:
    return _meaning(_code(item, "ConceptNameCodeSequence"), words)


def _value(item: Dataset, words: bool) -> str:
    return _meaning(_code(item, "ConceptCodeSequence"), words)


def _code(item: Dataset, keyword: str) -> Dataset:
    return next(iter(item.get(keyword) or []), Dataset())


def _meaning(code: Dataset, words: bool) -> str:
    said = _line(str(code.get("CodeMeaning", "")), _LONGEST_MEANING) if words else ""
    return said or _line(known_meaning(code), _LONGEST_MEANING)


def _text(item: Dataset) -> str:
    return _line(str(item.get("TextValue", "")), _LONGEST_TEXT)


def _line(text: str, longest: int) -> str:
    """One line of bounded length: a terminal is told nothing by it but letters."""
    return " ".join("".join(each if each.isprintable() else " " for each in text[:longest]).split())
