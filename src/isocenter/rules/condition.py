"""Conditions, read once and asked often: each holds, does not, or can not be told, and says why it does not hold.

What can not be told (a coverage without positions) counts as not met, and `not` leaves it so: nobody's scan goes
to an application, or is kept from it, because of something nobody knows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from isocenter.rules.attribute import Attribute
from isocenter.rules.comparison import Comparison
from isocenter.rules.computed import Known, Quantity
from isocenter.rules.geometry import Unknown
from isocenter.rules.number import NumberTest
from isocenter.rules.series import Series

__all__ = [
    "All",
    "AnyInstance",
    "AnyOf",
    "AnySeries",
    "Computed",
    "Condition",
    "EveryInstance",
    "Not",
    "OfAttribute",
    "Ruling",
    "SeriesCount",
    "Subject",
]


class Ruling(NamedTuple):
    """`holds` is None where nobody can tell; `why` is "" where it is True."""

    holds: bool | None
    why: str


MET = Ruling(True, "")


@dataclass(frozen=True)
class Subject:
    """What a condition is asked of: a series in its study, by the attributes of one of its instances."""

    series: Series
    study: Sequence[Series]  # without results of ours
    attributes: Mapping[str, Any]

    @classmethod
    def of(cls, series: Series, study: Sequence[Series]) -> Subject:
        return cls(series, study, series.attributes)


class Condition(Protocol):
    @property
    def stated(self) -> str:
        """The condition in words: "Modality like 'CT'"."""

    def ask(self, subject: Subject) -> Ruling: ...

    def seen(self, subject: Subject) -> str:
        """What there is in words: "Modality is 'CT'"."""


_VERBS = {"be": "", "have": "with", "not be": "not", "not have": "without"}  # in a statement, after the name


@dataclass(frozen=True)
class OfAttribute:
    """The values of one DICOM attribute."""

    attribute: Attribute
    comparisons: tuple[Comparison, ...]

    @property
    def stated(self) -> str:
        name = self.attribute.name
        if self.attribute.withheld:
            return f"{name} (withheld)"
        said = [f"{_VERBS.get(each.verb, each.verb)} {each.told}".strip() for each in self.comparisons]
        return f"{name} {' and '.join(said)}"

    def ask(self, subject: Subject) -> Ruling:
        values = self.attribute.values(subject.attributes)
        for comparison in self.comparisons:
            if not comparison.holds(values):
                return Ruling(False, self._against(comparison, subject))
        return MET

    def _against(self, comparison: Comparison, subject: Subject) -> str:
        name, values = self.attribute.name, self.attribute.values(subject.attributes)
        if self.attribute.withheld:
            return (
                f"{name} {'is' if values else 'has no value, so it is'} not what the rule asks for (withheld)"
            )
        if not values:
            return f"{name} has no value, and should {comparison.verb} {comparison.told}"
        counted = "have" in comparison.verb and comparison.told.endswith((" values", " items"))
        seen = f"has {values.count}" if counted else f"is {self.attribute.shown(values)}"
        return f"{name} {seen}, and should {comparison.verb} {comparison.told}"

    def seen(self, subject: Subject) -> str:
        values = self.attribute.values(subject.attributes)
        if self.attribute.withheld:
            return f"{self.attribute.name} (withheld)"
        return f"{self.attribute.name} " + (
            f"is {self.attribute.shown(values)}" if values else "has no value"
        )


@dataclass(frozen=True)
class Computed:
    """A computed quantity. `holds` is asked only where it is known; `exists` is whether it should be known."""

    name: str
    quantity: Quantity
    told: str
    holds: Callable[[Known], bool]
    exists: bool | None = None

    @property
    def stated(self) -> str:
        return f"{self.name} {self.told}"

    def ask(self, subject: Subject) -> Ruling:
        found = self._found(subject)
        if self.exists is not None and self.exists is isinstance(found, Unknown):
            return Ruling(
                False, f"{self.seen(subject)}, and should be {'known' if self.exists else 'unknown'}"
            )
        if isinstance(found, Unknown):
            return (
                MET
                if self.exists is False
                else Ruling(None, f"{self.seen(subject)}, and should be {self.told}")
            )
        return MET if self.holds(found) else Ruling(False, f"{self.seen(subject)}, and should be {self.told}")

    def seen(self, subject: Subject) -> str:
        found = self._found(subject)
        if isinstance(found, Unknown):
            return f"{self.name} is unknown ({found.why})"
        if self.quantity.rounded_down and isinstance(found, tuple):
            return f"{self.name} is {_whole(found)}"
        return f"{self.name} is {_said(found)}"

    def _found(self, subject: Subject) -> Known | Unknown:
        if self.quantity.of_series is not None:
            return self.quantity.of_series(subject.series)
        assert self.quantity.of_instance is not None
        return self.quantity.of_instance(subject.attributes)


def _whole(found: tuple[float, ...]) -> str:
    floors = tuple(float(math.floor(each)) for each in found)
    return _said(floors) + (" (whole years)" if floors != found else "")


def _said(found: Known) -> str:
    if isinstance(found, bool):
        return str(found).lower()
    if isinstance(found, str):
        return found
    return " and ".join(f"{number:.6g}" for number in dict.fromkeys(found))


@dataclass(frozen=True)
class All:
    """Every one holds. The first that does not gives the reason."""

    conditions: tuple[Condition, ...]

    @property
    def stated(self) -> str:
        return " and ".join(each.stated for each in self.conditions) or "anything"

    def ask(self, subject: Subject) -> Ruling:
        first: Ruling | None = None
        for condition in self.conditions:
            ruling = condition.ask(subject)
            if ruling.holds is False:
                return first._replace(holds=False) if first else ruling
            if ruling.holds is None:
                first = first or ruling
        return first or MET

    def seen(self, subject: Subject) -> str:
        return " and ".join(each.seen(subject) for each in self.conditions) or "anything"

    def met(self, subject: Subject) -> int:
        """How many hold before the first that does not."""
        for index, condition in enumerate(self.conditions):
            if not condition.ask(subject).holds:
                return index
        return len(self.conditions)


@dataclass(frozen=True)
class AnyOf:
    """At least one holds."""

    choices: tuple[Condition, ...]
    name: str = "any_of"
    names: tuple[str, ...] = ()

    @property
    def stated(self) -> str:
        return "(" + " or ".join(each.stated for each in self.choices) + ")"

    def ask(self, subject: Subject) -> Ruling:
        whys, unknown = [], False
        for index, choice in enumerate(self.choices):
            ruling = choice.ask(subject)
            if ruling.holds:
                return MET
            unknown = unknown or ruling.holds is None
            whys.append(f"{self.names[index]}: {ruling.why}" if self.names else ruling.why)
        more = f"; and {len(whys) - 4} more" if len(whys) > 4 else ""
        return Ruling(None if unknown else False, f"{self.name}: none holds ({'; '.join(whys[:4])}{more})")

    def seen(self, subject: Subject) -> str:
        return next((each.seen(subject) for each in self.choices if each.ask(subject).holds), self.stated)


@dataclass(frozen=True)
class Not:
    """It does not hold."""

    inner: Condition

    @property
    def stated(self) -> str:
        return f"not ({self.inner.stated})"

    def ask(self, subject: Subject) -> Ruling:
        ruling = self.inner.ask(subject)
        if ruling.holds is None:
            return ruling
        return Ruling(False, f"not: {self.inner.seen(subject)}, which should not be") if ruling.holds else MET

    def seen(self, subject: Subject) -> str:
        return self.stated


@dataclass(frozen=True)
class AnyInstance:
    """At least one instance of the series meets it."""

    inner: Condition

    @property
    def stated(self) -> str:
        return f"any instance with {self.inner.stated}"

    def ask(self, subject: Subject) -> Ruling:
        if self.inner.ask(subject).holds:
            return MET  # the others need not be fetched
        rulings = [self.inner.ask(each) for each in _instances(subject)]
        if any(ruling.holds for ruling in rulings):
            return MET
        unknown = not rulings or any(ruling.holds is None for ruling in rulings)
        return Ruling(
            None if unknown else False, f"any_instance with {self.inner.stated}: none of {len(rulings)}"
        )

    def seen(self, subject: Subject) -> str:
        return self.stated


@dataclass(frozen=True)
class EveryInstance:
    """Every instance of the series meets it."""

    inner: Condition

    @property
    def stated(self) -> str:
        return f"every instance with {self.inner.stated}"

    def ask(self, subject: Subject) -> Ruling:
        first = self.inner.ask(subject)
        if first.holds is False:
            return Ruling(False, f"every_instance: {first.why}")
        rulings = [self.inner.ask(each) for each in _instances(subject)]
        if not rulings:
            return Ruling(None, "every_instance: the instances are not there")
        failed = [ruling for ruling in rulings if not ruling.holds]
        if not failed:
            return MET
        holds = False if any(ruling.holds is False for ruling in failed) else None
        return Ruling(holds, f"every_instance: {failed[0].why} ({len(failed)} of {len(rulings)} instances)")

    def seen(self, subject: Subject) -> str:
        return self.stated


def _instances(subject: Subject) -> Sequence[Subject]:
    return [replace(subject, attributes=each) for each in subject.series.each_instance]


@dataclass(frozen=True)
class AnySeries:
    """At least one series of the study, this one too, meets it; where `wanted` is False, none does."""

    inner: Condition
    wanted: bool = True

    @property
    def stated(self) -> str:
        return f"{'any' if self.wanted else 'no'} series with {self.inner.stated}"

    def ask(self, subject: Subject) -> Ruling:
        met, unknown = _count(self.inner, subject)
        if not met and unknown:
            return Ruling(None, f"{self._name} with {self.inner.stated}: of {unknown} nobody can tell")
        if bool(met) is self.wanted:
            return MET
        return Ruling(
            False, f"{self._name} with {self.inner.stated}: {met or 'none'} of {len(subject.study)}"
        )

    def seen(self, subject: Subject) -> str:
        return f"{self.stated}: {_count(self.inner, subject)[0]} of {len(subject.study)}"

    @property
    def _name(self) -> str:
        return "any_series" if self.wanted else "no_series"


@dataclass(frozen=True)
class SeriesCount:
    """How many series of the study meet it."""

    inner: Condition
    test: NumberTest

    @property
    def stated(self) -> str:
        return f"{self.test.told} series with {self.inner.stated}"

    def ask(self, subject: Subject) -> Ruling:
        met, unknown = _count(self.inner, subject)
        possible = {self.test.holds(number) for number in range(met, met + unknown + 1)}
        if possible == {True}:
            return MET
        holds = False if possible == {False} else None
        return Ruling(holds, f"series_count: {self.seen(subject)}, and should be {self.test.told}")

    def seen(self, subject: Subject) -> str:
        met, unknown = _count(self.inner, subject)
        perhaps = f" (and {unknown} of which nobody can tell)" if unknown else ""
        return f"{met} of {len(subject.study)} series with {self.inner.stated}{perhaps}"


def _count(condition: Condition, subject: Subject) -> tuple[int, int]:
    """How many series of the study meet it, and of how many nobody can tell."""
    rulings = [condition.ask(Subject.of(series, subject.study)).holds for series in subject.study]
    return rulings.count(True), rulings.count(None)
