"""What each version of a model has done of the studies: the active one's beside a canary's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any

from isocenter.cli.output import figure, table
from isocenter.job import Job
from isocenter.job_groups import FoundGroup
from isocenter.measurements import measurement_title

__all__ = ["Arm", "arms_of", "arms_told"]

_UNTOLD = "?"  # the version of jobs that an earlier release has made


@dataclass(frozen=True)
class Arm:
    """What one version did of the studies: each job once. Seconds in the model.

    `medians`: of each measurement, by region and then by its name, of the studies that have it. `boxes`: by kind, how
    many a study has, on average; what another job of the same version has replaced since does not count.
    """

    version: str
    role: str
    jobs: int
    studies: int
    done: int
    not_applicable: int
    failed: int
    p50_s: float | None
    p95_s: float | None
    medians: Mapping[str, Mapping[str, float]]
    boxes: Mapping[str, float]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


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
    states = [job.state for job in jobs]
    return Arm(
        version=version,
        role=role,
        jobs=len(jobs),
        studies=len({job.study_uid for job in jobs}),
        done=states.count("done"),
        not_applicable=states.count("not_applicable"),
        failed=states.count("failed"),
        p50_s=median(seconds) if seconds else None,
        p95_s=_percentile_95(seconds),
        medians=_medians(jobs),
        boxes=_boxes_a_study(jobs),
    )


def _medians(jobs: Sequence[Job]) -> dict[str, dict[str, float]]:
    measured: dict[str, dict[str, list[float]]] = {}
    for job in jobs:
        for group in map(FoundGroup.of, job.groups):
            if group.kind:
                continue  # the third box of one study has nothing to do with the third of another
            for name, value in group.numbers.items():
                if value is not None:
                    measured.setdefault(group.label, {}).setdefault(name, []).append(value)
    return {
        label: {name: median(values) for name, values in by_name.items()}
        for label, by_name in measured.items()
    }


def _boxes_a_study(jobs: Sequence[Job]) -> dict[str, float]:
    own = {job.id for job in jobs}  # what another version has replaced is still what this one found
    stand = [job for job in jobs if job.state == "done" and job.superseded_by not in own]
    kinds = [group.kind for job in stand for group in map(FoundGroup.of, job.groups) if group.kind]
    studies = len({job.study_uid for job in stand})
    return {kind: kinds.count(kind) / studies for kind in dict.fromkeys(kinds)}


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
        ["seconds in the model, p50", *(_number(arm.p50_s, ".2f") for arm in arms)],
        ["seconds in the model, p95", *(_number(arm.p95_s, ".2f") for arm in arms)],
    ]
    measured = ((label, name) for arm in arms for label, by_name in arm.medians.items() for name in by_name)
    for label, name in dict.fromkeys(measured):
        values = [arm.medians.get(label, {}).get(name) for arm in arms]
        rows.append([f"{label}: {measurement_title(name)}, median", *map(figure, values)])
    kinds = dict.fromkeys(kind for arm in arms for kind in arm.boxes)
    for kind in kinds:
        # A version that has found none has no entry, and 0 of them where it has done any study.
        counts = [arm.boxes.get(kind, 0.0 if arm.done else None) for arm in arms]
        rows.append([f"{kind}: boxes a study, mean", *(_number(each, ".2f") for each in counts)])
    return [
        *table(header, rows, right=range(1, len(header))),
        "",
        "These are different studies: a difference between the columns may be one between the patients.",
    ]


def _percentile_95(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return values[0] if values else None
    return quantiles(values, n=20, method="inclusive")[-1]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"
