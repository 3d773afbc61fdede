"""What a route wants of each series of a prior: none of our results, the same body part, its own conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isocenter.priors.body_part import covers
from isocenter.priors.patient import Attributes, Moment, Patient, text
from isocenter.route import PriorsWanted, Route
from isocenter.rules import Series, is_our_own, judge

__all__ = ["Criteria", "Examination", "Found"]

# A body part is not expected of these (PS3.3, C.7.3.1.1.1): a series without one shows none.
_NO_IMAGES = frozenset({"SR", "PR", "KO", "DOC", "REG", "RWV", "PLAN", "RTPLAN", "RTRECORD"})


@dataclass(frozen=True)
class Examination:
    """What a job is for: whose it is, when it was made, and what its series show."""

    patient: Patient
    moment: Moment
    series: tuple[Attributes, ...]

    @property
    def body_parts(self) -> frozenset[tuple[str, str]]:
        """Body part and side of each series that names one."""
        named = ((text(each, "BodyPartExamined"), text(each, "Laterality")) for each in self.series)
        return frozenset((part, side) for part, side in named if part)

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset(text(each, "Modality") for each in self.series)


@dataclass(frozen=True)
class Found:
    """A series of a prior: all attributes of its first instance, and of each one when a condition asks for them."""

    uid: str
    instances: int
    attributes: Attributes
    every: Callable[[], Sequence[Attributes]]


@dataclass(frozen=True)
class Criteria:
    """What is wanted, seen from the current examination."""

    wanted: PriorsWanted
    current: Examination

    @property
    def by_body_part(self) -> bool:
        """Whether body parts are compared; where the current study names none, modalities are instead."""
        return self.wanted.same_body_part and bool(self.current.body_parts)

    def likely(self, study: Sequence[Attributes]) -> list[Attributes]:
        """The series of a study that may be wanted, by what a search tells of them.

        Where it tells no body part of any of them, it may be that the archive does not answer that question.
        """
        asked = [each for each in study if self._may_meet(each)]
        same = [each for each in asked if self._comparable(each)]
        if same:
            return same
        unsaid = [each for each in asked if self._comparable(each) is None]
        return [each for each in unsaid if text(each, "Modality") not in _NO_IMAGES]

    def met(self, study: Sequence[Found]) -> list[Found]:
        """The series of a study that are wanted, by all that they say of themselves."""
        views = [_series(each.attributes, each.every, each.instances) for each in study]
        return [
            found
            for found, view in zip(study, views, strict=True)
            if not is_our_own(view)
            and self._comparable(view.attributes)
            and _meets(self.wanted.when, views, view)
        ]

    def _may_meet(self, series: Attributes) -> bool:
        """Whether it meets those of the conditions that look at an attribute which the search tells."""
        view = _series(series, lambda: [series], 1)
        told = {
            keyword: condition for keyword, condition in self.wanted.when.items() if text(series, keyword)
        }
        return not is_our_own(view) and _meets(told, [view], view)

    def _comparable(self, series: Attributes) -> bool | None:
        """Whether it shows the same body part; None where it does not say."""
        if not self.wanted.same_body_part:
            return True
        if not self.by_body_part:
            return text(series, "Modality") in self.current.modalities
        part, side = text(series, "BodyPartExamined"), text(series, "Laterality")
        if not part:
            return None
        return any(covers(part, other, side, other_side) for other, other_side in self.current.body_parts)


def _meets(when: Mapping[str, Any], study: Sequence[Series], series: Series) -> bool:
    if not when:
        return True
    return judge(Route(name="priors", applications=("priors",), when=dict(when)), study, series).wanted


def _series(attributes: Attributes, every: Callable[[], Sequence[Attributes]], instances: int) -> Series:
    return Series(
        study_uid=text(attributes, "StudyInstanceUID"),
        series_uid=text(attributes, "SeriesInstanceUID"),
        instances=instances,
        attributes=attributes,
        every=every,
    )
