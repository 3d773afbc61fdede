"""How the versions of a model compare: a shadow study by study, a canary's studies beside all others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from isocenter.cli.output import counted, table
from isocenter.job import Job
from isocenter.shadows import Comparison

__all__ = ["Arm", "SegmentSummary", "ShadowReport", "arms_of", "arms_told", "shadow_report", "shadow_told"]

_STUDIES_SHOWN = 20
_VOLUME = "volume_mL"
_UNTOLD = "?"  # the version of jobs that an earlier release has made


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
class ShadowReport:
    """`studies`: all, the oldest first. Seconds: in the model, the median of the studies where both are known."""

    version: str
    studies: Sequence[Comparison]
    compared: int
    shown_failed: int
    shadow_failed: int
    disagreed: int  # one had a result, and the other was not applicable
    shown_s: float | None
    shadow_s: float | None
    segments: Sequence[SegmentSummary]

    def as_json(self) -> dict[str, Any]:
        return {
            **{name: value for name, value in vars(self).items() if name not in ("studies", "segments")},
            "segments": [asdict(each) for each in self.segments],
            "studies": [each.model_dump(mode="json") for each in self.studies],
        }


@dataclass(frozen=True)
class Arm:
    """What one version did of the studies: each job once. Seconds in the model. `volumes_ml`: medians by region."""

    version: str
    role: str
    jobs: int
    studies: int
    done: int
    not_applicable: int
    failed: int
    p50_s: float | None
    p95_s: float | None
    volumes_ml: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def shadow_report(version: str, studies: Sequence[Comparison]) -> ShadowReport:
    timed = [
        (each.shown.inference_s, each.shadow.inference_s)
        for each in studies
        if each.shown.inference_s is not None and each.shadow.inference_s is not None
    ]
    ends = [(each.shown.state, each.shadow.state) for each in studies]
    labels = dict.fromkeys(segment.label for each in studies for segment in each.segments)
    return ShadowReport(
        version=version,
        studies=studies,
        compared=sum(not each.not_compared for each in studies),
        shown_failed=sum(shown == "failed" for shown, _ in ends),
        shadow_failed=sum(shadow == "failed" for _, shadow in ends),
        disagreed=sum(set(each) == {"done", "not_applicable"} for each in ends),
        shown_s=_median(shown for shown, _ in timed),
        shadow_s=_median(shadow for _, shadow in timed),
        segments=[_summary(label, studies) for label in labels],
    )


def _summary(label: str, studies: Sequence[Comparison]) -> SegmentSummary:
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


def shadow_told(report: ShadowReport) -> list[str]:
    """The summary, what each of the last studies gave, and what failed, for a person."""
    shown = sorted({each.shown.version for each in report.studies}, key=lambda each: (len(each), each))
    lines = [
        f"shadow: version {report.version} beside version {', '.join(shown) or '-'}, on {_studies(report.studies)}",
        f"{report.compared} compared; failed: shown {report.shown_failed}, shadow {report.shadow_failed}; "
        f"only one applicable: {report.disagreed}",
        f"seconds in the model, median: shown {_number(report.shown_s, 2)}, shadow {_number(report.shadow_s, 2)}",
        "",
        *table(
            ["segment", "n", "Dice median", "worst", "mL median", "largest", "worst study"],
            [_summary_row(each) for each in report.segments],
            right=range(1, 6),
        ),
    ]
    last = report.studies[-_STUDIES_SHOWN:]
    if last:
        lines += ["", f"the last {_studies(last)} (mL: shadow less shown)" if len(last) > 1 else "the study"]
        lines += table(
            ["study", "segment", "Dice", "mL", "shown s", "shadow s"],
            [row for each in last for row in _study_rows(each)],
            right=range(2, 6),
        )
    failures = [each for each in last if "failed" in (each.shown.state, each.shadow.state)]
    for each in failures:
        lines += [
            f"{each.study_uid}: {name}: {run.reason}"
            for name, run in (("shown", each.shown), ("shadow", each.shadow))
            if run.state == "failed"
        ]
    return lines


def _summary_row(segment: SegmentSummary) -> list[str]:
    return [
        segment.label,
        str(segment.n),
        _number(segment.dice_median, 3),
        _number(segment.dice_worst, 3),
        _signed(segment.difference_ml_median),
        _signed(segment.difference_ml_largest),
        segment.worst_study_uid,
    ]


def _study_rows(study: Comparison) -> list[list[str]]:
    seconds = [_number(study.shown.inference_s, 2), _number(study.shadow.inference_s, 2)]
    if study.not_compared or not study.segments:
        why = f"shown {study.shown.state}, shadow {study.shadow.state}"
        same = "nothing found by either" if not study.not_compared else why
        return [[study.study_uid, same, "-", "-", *seconds]]
    return [
        [
            study.study_uid if number == 0 else "",
            segment.label,
            _number(segment.dice, 3),
            _signed(segment.shadow_ml - segment.shown_ml),
            *(seconds if number == 0 else ["", ""]),
        ]
        for number, segment in enumerate(study.segments)
    ]


def arms_of(jobs: Iterable[Job], model: str, roles: Mapping[str, str]) -> list[Arm]:
    """One for each version that jobs were made for. `roles`: what a version is for by now."""
    by_version: dict[str, list[Job]] = {}
    for job in jobs:
        if job.over and job.state != "cancelled":
            by_version.setdefault(job.models.get(model, _UNTOLD), []).append(job)
    return [
        _arm(version, roles.get(version, ""), by_version[version])
        for version in sorted(by_version, key=lambda each: (len(each), each))
    ]


def _arm(version: str, role: str, jobs: Sequence[Job]) -> Arm:
    seconds = [job.seconds["inference"] for job in jobs if "inference" in job.seconds]
    volumes: dict[str, list[float]] = {}
    for job in jobs:
        for group in job.groups:
            if group.get(_VOLUME) is not None:
                volumes.setdefault(str(group["label"]), []).append(float(group[_VOLUME]))
    states = [job.state for job in jobs]
    return Arm(
        version=version,
        role=role,
        jobs=len(jobs),
        studies=len({job.study_uid for job in jobs}),
        done=states.count("done"),
        not_applicable=states.count("not_applicable"),
        failed=states.count("failed"),
        p50_s=_median(seconds),
        p95_s=_percentile_95(seconds),
        volumes_ml={label: median(found) for label, found in volumes.items()},
    )


def arms_told(arms: Sequence[Arm]) -> list[str]:
    """Both arms side by side, for a person."""
    header = ["", *(f"version {arm.version}{f' ({arm.role})' if arm.role else ''}" for arm in arms)]
    rows: list[list[str]] = [
        [what, *(str(getattr(arm, name)) for arm in arms)]
        for what, name in (
            ("studies", "studies"),
            ("jobs", "jobs"),
            ("done", "done"),
            ("not applicable", "not_applicable"),
            ("failed", "failed"),
        )
    ]
    rows += [
        ["seconds in the model, p50", *(_number(arm.p50_s, 2) for arm in arms)],
        ["seconds in the model, p95", *(_number(arm.p95_s, 2) for arm in arms)],
    ]
    for label in dict.fromkeys(label for arm in arms for label in arm.volumes_ml):
        rows.append([f"{label}, mL, median", *(_number(arm.volumes_ml.get(label), 1) for arm in arms)])
    return [
        *table(header, rows, right=range(1, len(header))),
        "",
        "These are different studies: a difference between the columns may be one between the patients.",
    ]


def _studies(studies: Sequence[Comparison]) -> str:
    return counted(len(studies), "study", "studies")


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return median(found) if found else None


def _percentile_95(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return quantiles(values, n=20, method="inclusive")[-1]


def _number(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}"
