"""The rules: which applications a series goes to, and why not to the others. Nothing here asks or stores anything.

Conditions are those of the SDK's series selections: a DICOM keyword, and a text or regular expression (found
anywhere, in any case), a number, a range `[low, high]`, a relation `[2, ">"]`, or a list of terms of which every one
must be there and none that begins with `!`. `ImageOrientationPatient` also takes Axial, Coronal, Sagittal.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset

from isocenter.settings import Route
from isocenter_operators.dicom.identity import Algorithm

__all__ = ["OUR_OWN", "RouteVerdict", "Series", "attributes_of", "explain", "problems"]

_RELATIONS: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "!=": operator.ne,
}
OUR_OWN = "Isocenter made it"  # why a result of ours is not analysed again
_NUMERIC = frozenset({"DS", "IS", "FL", "FD", "US", "SS", "UL", "SL", "UV", "SV"})
_DERIVED = (  # what an application of ours stores: never images to be analysed again
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture, every kind
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
    "1.2.840.10008.5.1.4.1.1.88",  # Structured Reports
    "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
    "1.2.840.10008.5.1.4.1.1.104",  # Encapsulated documents
)
# The patient module's attributes that say nothing about who the patient is.
_SHOWN_OF_PATIENT = frozenset({"PatientSex", "PatientAge", "PatientSize", "PatientWeight"})
_WITHHELD = frozenset({"AccessionNumber", "StudyID", "AdmissionID", "RequestingService"})
_LONGEST_SHOWN = 64
_MANUFACTURER = Algorithm("", "").manufacturer


@dataclass(frozen=True)
class Series:
    """What the rules look at. `attributes` maps DICOM keywords to text, several values as `A\\B`."""

    study_uid: str
    series_uid: str
    instances: int
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class RouteVerdict:
    """What one rule says of one series; `reason` is "" when the series is wanted."""

    route: str
    application: str
    wanted: bool
    reason: str = ""


def attributes_of(instance: Dataset) -> dict[str, str]:
    """The attributes of an instance by keyword, as Orthanc would tell them."""
    return {
        element.keyword: "\\".join(map(str, element.value)) if element.VM > 1 else str(element.value)
        for element in instance
        if element.keyword and element.VR not in {"SQ", "OB", "OW", "OF", "OD", "UN"}
    }


def explain(routes: Sequence[Route], series: Series) -> list[RouteVerdict]:
    """What each rule says of the series, in the order of the rules."""
    return [_verdict(route, series) for route in routes]


def problems(routes: Sequence[Route], applications: Collection[str]) -> list[str]:
    """What is wrong with the rules themselves, one sentence each."""
    found = []
    for index, route in enumerate(routes):
        where = f"routes.{index} ({route.name})"
        if route.application not in applications:
            found.append(f"{where}: there is no application {route.application!r} in apps_dir")
        if route.name in {earlier.name for earlier in routes[:index]}:
            found.append(f"{where}: another rule has this name too")
        found += [
            f"{where}: {keyword}: {problem}"
            for keyword, condition in route.when.items()
            if (problem := _problem(keyword, condition))
        ]
    return found


def _problem(keyword: str, condition: Any) -> str | None:
    if tag_for_keyword(keyword) is None:
        return "not a DICOM keyword"
    if isinstance(condition, str):
        return _problem_of_expression(condition)
    if _is_number(condition):
        return None
    if not isinstance(condition, list) or not condition:
        return f"{condition!r} is no condition: give a text, a number, or a list"
    if _vr(keyword) in _NUMERIC and not (_is_range(condition) or _is_relation(condition)):
        return f"{condition!r} is neither a range [low, high] nor a relation like [2, '>']"
    return None


def _problem_of_expression(condition: str) -> str | None:
    try:
        re.compile(condition)
    except re.error as error:
        return f"{condition!r} is not a regular expression: {error}"
    return None


def _verdict(route: Route, series: Series) -> RouteVerdict:
    reason = _against(route, series)
    return RouteVerdict(route.name, route.application, wanted=not reason, reason=reason)


def _against(route: Route, series: Series) -> str:
    """Why the route does not want the series: the first condition that fails and the value seen, or ""."""
    if _is_our_own(series):
        return OUR_OWN
    for keyword, condition in route.when.items():
        value = series.attributes.get(keyword)
        if value is None or value == "":
            return f"{keyword} has no value, and should be {_shown(condition)}"
        if not _meets(keyword, condition, str(value)):
            return f"{keyword} is {_seen(keyword, str(value))}, and should be {_shown(condition)}"
    if series.instances < route.min_instances:
        return f"{series.instances} instances, and should be {route.min_instances} or more"
    return ""


def _is_our_own(series: Series) -> bool:
    sop_class = str(series.attributes.get("SOPClassUID", ""))
    derived = any(sop_class == known or sop_class.startswith(f"{known}.") for known in _DERIVED)
    return derived and series.attributes.get("Manufacturer") == _MANUFACTURER


def _meets(keyword: str, condition: Any, value: str) -> bool:
    values = value.split("\\")
    if keyword == "ImageOrientationPatient" and isinstance(condition, str):
        return _orientation(values) == condition.strip().lower()
    if _vr(keyword) in _NUMERIC:
        return any(_meets_number(condition, each) for each in values)
    if isinstance(condition, list):
        there = {each.strip().casefold() for each in values}
        terms = [str(term).casefold() for term in condition]
        return all((term[1:] not in there) if term.startswith("!") else (term in there) for term in terms)
    text = str(condition)
    return any(
        each.casefold() == text.casefold() or re.search(text, each, re.IGNORECASE) is not None
        for each in (*values, value)
    )


def _meets_number(condition: Any, value: str) -> bool:
    try:
        number = float(value)
    except ValueError:
        return False
    if _is_range(condition):
        return bool(condition[0] <= number <= condition[1])
    if _is_relation(condition):
        return _RELATIONS[condition[1]](number, float(condition[0]))
    if _is_number(condition):
        return bool(number == condition)
    return re.fullmatch(str(condition), value.strip()) is not None


def _is_number(condition: Any) -> bool:
    return isinstance(condition, Real) and not isinstance(condition, bool)


def _is_range(condition: Any) -> bool:
    return isinstance(condition, list) and len(condition) == 2 and all(map(_is_number, condition))


def _is_relation(condition: Any) -> bool:
    return (
        isinstance(condition, list)
        and len(condition) == 2
        and _is_number(condition[0])
        and condition[1] in _RELATIONS
    )


def _orientation(cosines: Sequence[str]) -> str | None:
    """The plane nearest to that of the image (PS3.3, C.7.6.2.1.1), None where the cosines are not six numbers."""
    try:
        row_x, row_y, row_z, column_x, column_y, column_z = (float(each) for each in cosines)
    except ValueError:
        return None
    normal = {
        "sagittal": abs(row_y * column_z - row_z * column_y),
        "coronal": abs(row_z * column_x - row_x * column_z),
        "axial": abs(row_x * column_y - row_y * column_x),
    }
    return max(normal, key=lambda plane: normal[plane])


def _vr(keyword: str) -> str:
    tag = tag_for_keyword(keyword)
    return dictionary_VR(tag) if tag is not None else ""


def _seen(keyword: str, value: str) -> str:
    """The value for a person, without what tells who the patient is."""
    tag = tag_for_keyword(keyword)
    of_patient = tag is not None and tag >> 16 == 0x0010 and keyword not in _SHOWN_OF_PATIENT
    if of_patient or keyword in _WITHHELD or _vr(keyword) == "PN":
        return "another one (withheld)"
    return repr(value if len(value) <= _LONGEST_SHOWN else value[: _LONGEST_SHOWN - 3] + "...")


def _shown(condition: Any) -> str:
    if _is_range(condition):
        return f"from {condition[0]} to {condition[1]}"
    if _is_relation(condition):
        return f"{condition[1]} {condition[0]}"
    if isinstance(condition, str):
        return f"like {condition!r}"
    if isinstance(condition, list):
        return "with " + ", ".join(map(str, condition))
    return str(condition)
