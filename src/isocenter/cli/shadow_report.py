"""How a shadow compares with what was shown, study by study: segments, boxes, numbers, and a classifier's answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from isocenter.cli.output import counted, figure, table
from isocenter.measurements import measurement_title
from isocenter.shadows import ComparedBoxes, Comparison
from isocenter_operators.dicom.results.box_overlap import SAME_BOX_IOU

__all__ = [
    "AnswerSummary",
    "BoxSummary",
    "BoxesOfStudy",
    "NumberSummary",
    "SegmentSummary",
    "ShadowReport",
    "shadow_report",
    "shadow_told",
]

_STUDIES_SHOWN = 20
_MOST_DIFFERING = 5


@dataclass(frozen=True)
class SegmentSummary:
    """One segment over all studies that were compared. `n`: where either found it. Differences: shadow less shown."""

    label: str
    n: int
    dice_median: float | None
    dice_worst: float | None
    worst_study_uid: str
    difference_ml_median: float | None
    difference_ml_largest: float | None  # the one farthest from 0


@dataclass(frozen=True)
class BoxSummary:
    """Boxes of one kind over all studies that were compared. `n`: studies where either found one. The median is of all
    pairs."""

    kind: str
    n: int
    shown_only: int
    shadow_only: int
    both: int
    iou_median: float | None


@dataclass(frozen=True)
class BoxesOfStudy:
    """Boxes of all kinds in one study."""

    study_uid: str
    shown_only: int
    shadow_only: int
    both: int
    iou_median: float | None


@dataclass(frozen=True)
class NumberSummary:
    """One measurement over all studies that were compared. `n`: where both have it. Differences: shadow less shown."""

    label: str
    name: str
    n: int
    shown_only: int
    shadow_only: int
    difference_median: float | None
    difference_largest: float | None  # the one farthest from 0
    farthest_study_uid: str


@dataclass(frozen=True)
class AnswerSummary:
    """One answer of a classifier over all studies where either says it; `name` "": all its answers taken together."""

    label: str
    name: str
    n: int
    same: int
    differing_study_uids: Sequence[str]

    @property
    def same_share(self) -> float | None:
        return self.same / self.n if self.n else None


@dataclass(frozen=True)
class ShadowReport:
    """`studies`: all, the oldest first. Seconds: in the model, the median of the studies where both are known.

    `boxes_differ_most`: studies with boxes that one of the two alone has found, the most of these first.
    """

    version: str
    studies: Sequence[Comparison]
    compared: int
    shown_failed: int
    shadow_failed: int
    disagreed: int  # one had a result, and the other was not applicable
    shown_s: float | None
    shadow_s: float | None
    segments: Sequence[SegmentSummary]
    boxes: Sequence[BoxSummary]
    boxes_differ_most: Sequence[BoxesOfStudy]
    numbers: Sequence[NumberSummary]
    answers: Sequence[AnswerSummary]

    def as_json(self) -> dict[str, Any]:
        parts = ("segments", "boxes", "boxes_differ_most", "numbers")
        return {
            **{
                name: value
                for name, value in vars(self).items()
                if name not in (*parts, "answers", "studies")
            },
            **{name: [asdict(each) for each in getattr(self, name)] for name in parts},
            "answers": [{**asdict(each), "same_share": each.same_share} for each in self.answers],
            "studies": [each.model_dump(mode="json") for each in self.studies],
        }


def shadow_report(version: str, studies: Sequence[Comparison]) -> ShadowReport:
    timed = [
        (each.shown.inference_s, each.shadow.inference_s)
        for each in studies
        if each.shown.inference_s is not None and each.shadow.inference_s is not None
    ]
    ends = [(each.shown.state, each.shadow.state) for each in studies]
    labels = dict.fromkeys(segment.label for each in studies for segment in each.segments)
    kinds = dict.fromkeys(boxes.kind for each in studies for boxes in each.boxes)
    measured = dict.fromkeys((number.label, number.name) for each in studies for number in each.numbers)
    return ShadowReport(
        version=version,
        studies=studies,
        compared=sum(not each.not_compared for each in studies),
        shown_failed=sum(shown == "failed" for shown, _ in ends),
        shadow_failed=sum(shadow == "failed" for _, shadow in ends),
        disagreed=sum(set(each) == {"done", "not_applicable"} for each in ends),
        shown_s=_median(shown for shown, _ in timed),
        shadow_s=_median(shadow for _, shadow in timed),
        segments=[_of_segment(label, studies) for label in labels],
        boxes=[_of_boxes(kind, studies) for kind in kinds],
        boxes_differ_most=_differing_most(studies),
        numbers=[_of_number(label, name, studies) for label, name in measured],
        answers=_of_answers(studies),
    )


def _of_segment(label: str, studies: Sequence[Comparison]) -> SegmentSummary:
    found = [
        (segment.dice, segment.shadow_ml - segment.shown_ml, each.study_uid)
        for each in studies
        for segment in each.segments
        if segment.label == label and segment.dice is not None
    ]
    worst = min(found, key=lambda each: each[0] or 0.0, default=None)
    differences_ml = [difference for _, difference, _ in found]
    return SegmentSummary(
        label=label,
        n=len(found),
        dice_median=_median(dice for dice, _, _ in found if dice is not None),
        dice_worst=worst[0] if worst else None,
        worst_study_uid=worst[2] if worst else "",
        difference_ml_median=_median(differences_ml),
        difference_ml_largest=max(differences_ml, key=abs, default=None),
    )


def _of_boxes(kind: str, studies: Sequence[Comparison]) -> BoxSummary:
    found = [boxes for each in studies for boxes in each.boxes if boxes.kind == kind]
    ious = [iou for each in found for iou in each.ious]
    return BoxSummary(
        kind=kind,
        n=len(found),
        shown_only=sum(each.shown_only for each in found),
        shadow_only=sum(each.shadow_only for each in found),
        both=len(ious),
        iou_median=_median(ious),
    )


def _differing_most(studies: Sequence[Comparison]) -> Sequence[BoxesOfStudy]:
    differing = [
        BoxesOfStudy(
            study_uid=each.study_uid,
            shown_only=sum(boxes.shown_only for boxes in each.boxes),
            shadow_only=sum(boxes.shadow_only for boxes in each.boxes),
            both=sum(len(boxes.ious) for boxes in each.boxes),
            iou_median=_median(iou for boxes in each.boxes for iou in boxes.ious),
        )
        for each in studies
        if any(boxes.shown_only or boxes.shadow_only for boxes in each.boxes)
    ]
    differing.sort(key=lambda each: (each.shown_only + each.shadow_only, -each.both), reverse=True)
    return differing[:_MOST_DIFFERING]


def _of_number(label: str, name: str, studies: Sequence[Comparison]) -> NumberSummary:
    found = [
        (number.shown, number.shadow, each.study_uid)
        for each in studies
        for number in each.numbers
        if (number.label, number.name) == (label, name)
    ]
    differences = [
        (shadow - shown, uid) for shown, shadow, uid in found if shown is not None and shadow is not None
    ]
    farthest = max(differences, key=lambda each: abs(each[0]), default=None)
    return NumberSummary(
        label=label,
        name=name,
        n=len(differences),
        shown_only=sum(shown is not None and shadow is None for shown, shadow, _ in found),
        shadow_only=sum(shown is None and shadow is not None for shown, shadow, _ in found),
        difference_median=_median(difference for difference, _ in differences),
        difference_largest=farthest[0] if farthest else None,
        farthest_study_uid=farthest[1] if farthest else "",
    )


def _of_answers(studies: Sequence[Comparison]) -> list[AnswerSummary]:
    """Of each group first all its answers together, which are the class that it decides for, then each."""
    said: dict[
        tuple[str, str], list[tuple[bool, str]]
    ] = {}  # label and name: whether both say the same, and where
    for each in studies:
        for label in dict.fromkeys(answer.label for answer in each.answers):
            answers = [answer for answer in each.answers if answer.label == label]
            same = {answer.name: answer.shown == answer.shadow for answer in answers}
            for name, alike in {"": all(same.values()), **same}.items():
                said.setdefault((label, name), []).append((alike, each.study_uid))
    return [
        AnswerSummary(
            label=label,
            name=name,
            n=len(found),
            same=sum(alike for alike, _ in found),
            differing_study_uids=[uid for alike, uid in found if not alike],
        )
        for (label, name), found in said.items()
    ]


def shadow_told(report: ShadowReport) -> list[str]:
    """The summary, what each of the last studies gave, and what failed, for a person."""
    shown = sorted({each.shown.version for each in report.studies}, key=lambda each: (len(each), each))
    lines = [
        f"shadow: version {report.version} beside version {', '.join(shown) or '-'}, on {_studies(report.studies)}",
        f"{report.compared} compared; failed: shown {report.shown_failed}, shadow {report.shadow_failed}; "
        f"only one applicable: {report.disagreed}",
        f"seconds in the model, median: shown {_number(report.shown_s, 2)}, shadow {_number(report.shadow_s, 2)}",
        *(line for part in _summaries(report) for line in ("", *part)),
    ]
    last = report.studies[-_STUDIES_SHOWN:]
    if last:
        lines += ["", f"the last {_studies(last)}" if len(last) > 1 else "the study"]
        lines += table(
            ["study", "what", "shown", "shadow", "agreement", "shown s", "shadow s"],
            [row for each in last for row in _study_rows(each)],
            right=(2, 3, 5, 6),
        )
    return lines + [line for each in last for line in _reasons(each)]


def _summaries(report: ShadowReport) -> Iterator[list[str]]:
    """A table for each sort of thing that there is."""
    if report.segments:
        yield table(
            ["segment", "n", "Dice median", "worst", "mL median", "largest", "worst study"],
            [_segment_row(each) for each in report.segments],
            right=range(1, 6),
        )
    if report.boxes:
        yield [
            *table(
                ["boxes", "n", "shown only", "shadow only", "both", "IoU median"],
                [_box_row(each) for each in report.boxes],
                right=range(1, 6),
            ),
            f"(one finding of both: of one kind, and an IoU of {SAME_BOX_IOU:g} and more)",
        ]
    if report.boxes_differ_most:
        yield table(
            ["differ most", "shown only", "shadow only", "both", "IoU median"],
            [
                [
                    each.study_uid,
                    *map(str, (each.shown_only, each.shadow_only, each.both)),
                    _iou(each.iou_median),
                ]
                for each in report.boxes_differ_most
            ],
            right=range(1, 5),
        )
    if report.numbers:
        yield table(
            ["number", "n", "shown only", "shadow only", "median", "largest", "farthest study"],
            [_number_row(each) for each in report.numbers],
            right=range(1, 6),
        )
    if report.answers:
        yield table(
            ["answer", "n", "the same", "%", "differ, the latest"],
            [_answer_row(each) for each in report.answers],
            right=range(1, 4),
        )


def _segment_row(segment: SegmentSummary) -> list[str]:
    return [
        segment.label,
        str(segment.n),
        _number(segment.dice_median, 3),
        _number(segment.dice_worst, 3),
        _signed(segment.difference_ml_median),
        _signed(segment.difference_ml_largest),
        segment.worst_study_uid,
    ]


def _box_row(boxes: BoxSummary) -> list[str]:
    counts = (boxes.n, boxes.shown_only, boxes.shadow_only, boxes.both)
    return [boxes.kind, *map(str, counts), _iou(boxes.iou_median)]


def _number_row(number: NumberSummary) -> list[str]:
    return [
        f"{number.label}: {measurement_title(number.name)}",
        *map(str, (number.n, number.shown_only, number.shadow_only)),
        figure(number.difference_median, "+"),
        figure(number.difference_largest, "+"),
        number.farthest_study_uid,
    ]


def _answer_row(answer: AnswerSummary) -> list[str]:
    share = answer.same_share
    return [
        f"{answer.label}: {measurement_title(answer.name)}" if answer.name else f"{answer.label}, all of it",
        str(answer.n),
        str(answer.same),
        "-" if share is None else f"{100 * share:.1f}",
        answer.differing_study_uids[-1] if answer.differing_study_uids else "",
    ]


def _study_rows(study: Comparison) -> list[list[str]]:
    seconds = [_number(study.shown.inference_s, 2), _number(study.shadow.inference_s, 2)]
    found = [
        *(
            [
                each.label,
                f"{each.shown_ml:.1f} mL",
                f"{each.shadow_ml:.1f} mL",
                f"Dice {_number(each.dice, 3)}",
            ]
            for each in study.segments
        ),
        *(_boxes_of_study(each) for each in study.boxes),
        *(
            [
                f"{each.label}: {measurement_title(each.name)}",
                figure(each.shown),
                figure(each.shadow),
                "-" if each.shown is None or each.shadow is None else figure(each.shadow - each.shown, "+"),
            ]
            for each in study.numbers
        ),
        *(
            [
                f"{each.label}: {measurement_title(each.name)}",
                each.shown or "-",
                each.shadow or "-",
                "the same" if each.shown == each.shadow else "differs",
            ]
            for each in study.answers
        ),
    ]
    if study.not_compared or not found:
        found = [[_why_nothing(study), "", "", ""]]
    return [
        [study.study_uid if number == 0 else "", *row, *(seconds if number == 0 else ["", ""])]
        for number, row in enumerate(found)
    ]


def _boxes_of_study(boxes: ComparedBoxes) -> list[str]:
    both = len(boxes.ious)
    return [
        boxes.kind,
        str(boxes.shown_only + both),
        str(boxes.shadow_only + both),
        f"{both} both" + (f", IoU {_iou(_median(boxes.ious))}" if both else ""),
    ]


def _why_nothing(study: Comparison) -> str:
    if study.not_compared:
        return f"shown {study.shown.state}, shadow {study.shadow.state}"
    if not study.whole:  # an earlier release wrote this also where both had found boxes or numbers
        return "no segmentation by either"
    return "nothing found by either"


def _reasons(study: Comparison) -> Iterator[str]:
    for name, run in (("shown", study.shown), ("shadow", study.shadow)):
        if run.state == "failed":
            yield f"{study.study_uid}: {name}: {run.reason}"
    if study.not_compared and (study.shown.state, study.shadow.state) == ("done", "done"):
        yield f"{study.study_uid}: not compared: {study.not_compared}"


def _studies(studies: Sequence[Comparison]) -> str:
    return counted(len(studies), "study", "studies")


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return median(found) if found else None


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _iou(value: float | None) -> str:
    return _number(value, 2)


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}"
