"""Whose study this is, and when it was made: what makes another study a prior of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

__all__ = ["Attributes", "Moment", "Patient", "day", "number", "text"]

Attributes = Mapping[str, Any]  # DICOM keyword to text, as the rules have them


def text(attributes: Attributes, keyword: str) -> str:
    """The attribute's value without padding, "" where there is none."""
    value = attributes.get(keyword)
    return value.strip() if isinstance(value, str) else ""


@dataclass(frozen=True, repr=False)
class Patient:
    """Who was examined. It has no representation, so that no log or message can show it."""

    id: str
    issuer: str  # Issuer of Patient ID (0010,0021)
    birth_date: str

    @classmethod
    def of(cls, attributes: Attributes) -> Patient:
        return cls(
            id=text(attributes, "PatientID"),
            issuer=text(attributes, "IssuerOfPatientID"),
            birth_date=text(attributes, "PatientBirthDate"),
        )

    def is_same(self, other: Patient) -> bool | None:
        """Whether this is the same person; None where the ID is the same, but not enough is known to say so.

        An ID is only one within its issuer's domain. Where just one side names the issuer, the birth date has to agree;
        and a birth date that differs means that the ID was used twice, or that somebody has to look.
        """
        if not self.id or self.id != other.id:
            return False
        if self.issuer and other.issuer and self.issuer != other.issuer:
            return False
        if self.birth_date and other.birth_date:
            return True if self.birth_date == other.birth_date else None
        return True if self.issuer == other.issuer else None


@dataclass(frozen=True, order=True)
class Moment:
    """Study Date and Study Time. Without a time it is the whole day: -1."""

    day: date
    second: float = field(default=-1.0)  # of the day

    @classmethod
    def of(cls, attributes: Attributes) -> Moment | None:
        """None where there is no date that can be read."""
        digits = text(attributes, "StudyDate").replace(".", "")[:8]  # 1995.12.31: before DICOM (PS3.5, 6.2)
        try:
            day = datetime.strptime(digits, "%Y%m%d").date()
        except ValueError:
            return None
        return cls(day, _second(text(attributes, "StudyTime")))

    def before(self, other: Moment) -> bool:
        """Whether this is surely the earlier one: of the same day only where both times are known."""
        if self.day != other.day:
            return self.day < other.day
        return 0 <= self.second < other.second

    def oldest(self, max_age_days: int | None) -> date | None:
        """The first day on which a prior may have been made; None where any is."""
        if max_age_days is None:
            return None
        return self.day - timedelta(days=min(max_age_days, self.day.toordinal() - 1))


def number(attributes: Attributes, keyword: str) -> int:
    """The attribute's value as a count, 0 where there is none."""
    value = text(attributes, keyword)
    return int(value) if value.isdecimal() else 0


def day(study: Attributes) -> str:
    """When a study was made, as a note tells it: 2026-01-05."""
    made = Moment.of(study)
    return made.day.isoformat() if made else "an unknown day"


def _second(time: str) -> float:
    """Of a TM, HHMMSS.FFFFFF with as much as there is (PS3.5, 6.2); -1 where there is none."""
    whole, _, fraction = time.replace(":", "").partition(".")
    if len(whole) not in (2, 4, 6) or not whole.isdigit() or (fraction and not fraction.isdigit()):
        return -1.0
    hours, minutes, seconds = (int(whole[at : at + 2] or 0) for at in (0, 2, 4))
    return hours * 3600 + minutes * 60 + seconds + float(f"0.{fraction or 0}")
