"""What a rule may ask of a series that no attribute says: spacing, orientation, coverage, contrast, age."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

from isocenter.rules import geometry
from isocenter.rules.geometry import Unknown
from isocenter.rules.series import Series

__all__ = ["PLANES", "QUANTITIES", "Known", "Quantity", "age_years", "contrast"]

Known = tuple[float, ...] | str | bool
_Found = Known | Unknown

PLANES = ("axial", "coronal", "sagittal", "oblique")
_NO_AGENT = re.compile(r"((no|non|without|w/?o)[ -]?contrast|no|none|without|w/?o|native)", re.IGNORECASE)
_PERHAPS_NO_AGENT = re.compile(
    r"(no|non|not|without|w/?o|n/?a)\b|[0-]*$", re.IGNORECASE
)  # as in "no IV, oral"
_DAYS_OF = {"D": 1.0, "W": 7.0}  # PS3.5, 6.2: AS


@dataclass(frozen=True)
class Quantity:
    """One computed name. Several numbers (rows and columns of a pixel) must all meet a condition."""

    kind: Literal["number", "count", "plane", "truth"]
    of_series: Callable[[Series], _Found] | None = None  # it takes the whole series
    of_instance: Callable[[Mapping[str, Any]], _Found] | None = (
        None  # it takes the attributes of one instance
    )
    rounded_down: bool = False  # for a person: with its fraction an age gives the date of birth


def contrast(attributes: Mapping[str, Any]) -> bool | Unknown:
    """Whether contrast medium was given (PS3.3, C.7.6.4; of frames C.7.6.16.2.12).

    The module is there only where contrast was used, but its agent may be empty (type 2), and scanners leave the
    whole module out: neither tells anything, so only what is written counts.
    """
    usages = [each for each in _usages(attributes) if each in {"YES", "NO"}]
    if usages:
        return "YES" in usages
    if attributes.get("ContrastBolusAgentSequence"):
        return True
    agent = str(attributes.get("ContrastBolusAgent") or "").strip()
    if agent:
        if _NO_AGENT.fullmatch(agent):
            return False
        return Unknown("ContrastBolusAgent is not clear") if _PERHAPS_NO_AGENT.match(agent) else True
    volume_ml = geometry.number(attributes.get("ContrastBolusVolume"))
    if volume_ml is not None:
        return volume_ml > 0
    return Unknown("nothing in the Contrast/Bolus module tells")


def age_years(attributes: Mapping[str, Any]) -> tuple[float] | Unknown:
    """The patient's age at the study, in years: PatientAge, or else from the dates of birth and of the study."""
    age = re.fullmatch(r"(\d{3})([DWMY])", str(attributes.get("PatientAge") or "").strip(), re.ASCII)
    if age is not None:
        amount, unit = int(age[1]), age[2]
        years = amount if unit == "Y" else amount / 12 if unit == "M" else amount * _DAYS_OF[unit] / 365.25
        return (float(years),)
    birth, study = _date(attributes.get("PatientBirthDate")), _date(attributes.get("StudyDate"))
    if birth is None or study is None or study < birth:
        return Unknown("neither PatientAge nor the dates of birth and study tell")
    complete = study.year - birth.year - ((study.month, study.day) < (birth.month, birth.day))
    birthday = birth.replace(year=birth.year + complete, **_not_a_leap_day(birth, birth.year + complete))
    return (complete + (study - birthday).days / 366,)


def _not_a_leap_day(birth: date, year: int) -> dict[str, int]:
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return {"month": 3, "day": 1} if (birth.month, birth.day) == (2, 29) and not leap else {}


def _date(value: Any) -> date | None:
    try:
        return datetime.strptime(str(value or "").strip(), "%Y%m%d").date()
    except ValueError:
        return None


def _usages(attributes: Mapping[str, Any]) -> list[str]:
    """What each Contrast/Bolus Usage item says, of the frames or of all of them."""
    return [
        str(use.get("ContrastBolusAgentAdministered", ""))
        for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
        for group in _items(attributes.get(name))
        for use in _items(group.get("ContrastBolusUsageSequence"))
    ]


def _items(sequence: Any) -> list[Mapping[str, Any]]:
    return (
        [item for item in sequence if isinstance(item, Mapping)] if isinstance(sequence, list | tuple) else []
    )


def _coverage_mm(series: Series) -> _Found:
    return series.stack if isinstance(series.stack, Unknown) else (series.stack.coverage_mm,)


def _slices(series: Series) -> _Found:
    return series.stack if isinstance(series.stack, Unknown) else (float(len(series.stack.offsets_mm)),)


def _slice_spacing_mm(series: Series) -> _Found:
    if isinstance(series.stack, Unknown):
        return series.stack
    return _one(series.stack.spacing_mm)


def _one(value: float | Unknown) -> _Found:
    return value if isinstance(value, Unknown) else (value,)


QUANTITIES: Mapping[str, Quantity] = {
    "instances": Quantity("count", of_series=lambda series: (float(series.instances),)),
    "slices": Quantity("count", of_series=_slices),
    "coverage_mm": Quantity("number", of_series=_coverage_mm),
    "slice_spacing_mm": Quantity("number", of_series=_slice_spacing_mm),
    "pixel_spacing_mm": Quantity("number", of_instance=geometry.pixel_spacing_mm),
    "slice_thickness_mm": Quantity(
        "number", of_instance=lambda found: _one(geometry.slice_thickness_mm(found))
    ),
    "orientation": Quantity("plane", of_instance=geometry.orientation),
    "contrast": Quantity("truth", of_instance=contrast),
    "age_years": Quantity("number", of_instance=age_years, rounded_down=True),
}
