"""How what a shadow has found agrees with what was shown: segments, boxes, numbers, and a classifier's answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from isocenter.holdings import Holdings
from isocenter.job_groups import FoundGroup
from isocenter.settings import Settings
from isocenter.shadows import ComparedAnswer, ComparedBoxes, ComparedNumber, ComparedSegment
from isocenter.worker import runner
from isocenter_operators.dicom.results.box_overlap import box_overlaps
from isocenter_operators.dicom.results.seg_overlap import overlaps
from isocenter_operators.dicom.results.seg_reader import StoredSegmentation, read_segmentation
from isocenter_operators.errors import InputError
from isocenter_operators.run import Outcome

__all__ = ["Agreement", "agreement", "groups_agreement"]

_VOLUME = "volume_mL"
# Beside segmentations, what shows to a reader what stands in the groups.
_SHOWING = {"SEG", "SR", "PR", "OT", "DOC", "KO"}


@dataclass(frozen=True)
class Agreement:
    """The parts of a `Comparison` that say what both have found."""

    segments: tuple[ComparedSegment, ...] = ()
    boxes: tuple[ComparedBoxes, ...] = ()
    numbers: tuple[ComparedNumber, ...] = ()
    answers: tuple[ComparedAnswer, ...] = ()

    def as_update(self) -> dict[str, Any]:
        return {**vars(self), "whole": True}


def agreement(settings: Settings, answer: Mapping[str, Any], outcome: Outcome) -> Agreement:
    """answer: how the job ended, as the worker notes it; outcome: how the shadow did, its results in files.

    Raises IsocenterError where they can not be compared, as where both gave something that is none of the four.
    """
    written = [dcmread(each.path) for each in outcome.results if each.path and each.modality == "SEG"]
    shown = list(_shown_segmentations(settings, answer))
    segments = tuple(
        ComparedSegment(label=each.label, dice=each.dice, shown_ml=each.one_ml, shadow_ml=each.other_ml)
        for each in overlaps(_only(shown), _only(written))
    )
    found = groups_agreement(answer.get("groups", ()), runner.as_json(outcome)["groups"], segments)
    if found == Agreement():
        _require_nothing_else(answer, outcome)
    return found


def groups_agreement(
    shown: Sequence[Mapping[str, Any]],
    shadow: Sequence[Mapping[str, Any]],
    segments: tuple[ComparedSegment, ...] = (),
) -> Agreement:
    """What the groups of two answers say, region by region, and the boxes of both by where they lie.

    segments: what their segmentations say, so that no volume is told twice. Raises InputError where it is not known
    which region, or which box, is to be compared with which.
    """
    sides = [[FoundGroup.of(each) for each in groups] for groups in (shown, shadow)]
    _require_places(*sides)
    boxes = [[(each.kind, each.box) for each in side if each.box is not None] for side in sides]
    one, other = (_by_label([each for each in side if each.box is None]) for side in sides)
    drawn = {each.label for each in segments}
    none = FoundGroup("")
    numbers, answers = [], []
    for label in dict.fromkeys([*one, *other]):
        first, second = one.get(label, none), other.get(label, none)
        numbers += [
            ComparedNumber(
                label=label, name=name, shown=first.numbers.get(name), shadow=second.numbers.get(name)
            )
            for name in dict.fromkeys([*first.numbers, *second.numbers])
            if not (name == _VOLUME and label in drawn)
        ]
        answers += [
            ComparedAnswer(
                label=label, name=name, shown=first.answers.get(name), shadow=second.answers.get(name)
            )
            for name in dict.fromkeys([*first.answers, *second.answers])
        ]
    return Agreement(
        segments=segments,
        boxes=tuple(
            ComparedBoxes(
                kind=each.kind, shown_only=each.one_only, shadow_only=each.other_only, ious=each.ious
            )
            for each in box_overlaps(*boxes)
        ),
        numbers=tuple(numbers),
        answers=tuple(answers),
    )


def _require_places(shown: Sequence[FoundGroup], shadow: Sequence[FoundGroup]) -> None:
    """The shadow is of this release: where it has sizes without a place, these are no boxes but numbers."""
    if any(each.kind and each.box is None for each in shown) and not any(
        each.kind and each.box is None for each in shadow
    ):
        raise InputError(
            "the job was done by an earlier release, which did not note where the boxes lie that it found"
        )


def _by_label(groups: Sequence[FoundGroup]) -> dict[str, FoundGroup]:
    found = {each.label: each for each in groups}
    if len(found) != len(groups):
        labels = [each.label for each in groups]
        twice = next(label for label in labels if labels.count(label) > 1)
        raise InputError(f"several groups are called {twice!r}: it is not known which to compare")
    return found


def _require_nothing_else(answer: Mapping[str, Any], outcome: Outcome) -> None:
    """Else it would be told that nothing was found, where something was."""
    there = {stored["modality"] for stored in answer.get("results", ())}
    there |= {each.modality for each in outcome.results}
    if others := sorted(there - _SHOWING):
        raise InputError(
            f"the results are {', '.join(others)}: only segmentations, boxes, numbers and answers are compared"
        )


def _shown_segmentations(settings: Settings, answer: Mapping[str, Any]) -> Iterator[Dataset]:
    """As they lie in the archive."""
    with Holdings(settings) as archive:
        for stored in answer.get("results", ()):
            if stored["modality"] != "SEG":
                continue
            for content in archive.dicomweb.retrieve_series(stored["study_uid"], stored["series_uid"]):
                instance = dcmread(BytesIO(content))
                if instance.SOPInstanceUID == stored["sop_instance_uid"]:
                    yield instance


def _only(segmentations: Sequence[Dataset]) -> StoredSegmentation | None:
    """None where nothing was found. Raises InputError where there are several: none stands for the others."""
    if len(segmentations) > 1:
        raise InputError(f"there are {len(segmentations)} segmentations: it is not known which to compare")
    return read_segmentation(segmentations[0]) if segmentations else None
