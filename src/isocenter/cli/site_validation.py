"""An application on a site's own cases: how each ended, and how far it is from what others have drawn and measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from scipy.stats import beta, binom

from isocenter.cli.site_cases import Case, reference_of
from isocenter.job_groups import said_in
from isocenter_operators.errors import GeometryError, InputError, IsocenterError

if TYPE_CHECKING:
    from isocenter_operators.run import Outcome

__all__ = ["CaseResult", "Difference", "Interval", "Spread", "examined", "proportion", "spread"]

Status = Literal["done", "not_applicable", "refused", "failed"]
Run = Callable[[Path, Path], "Outcome"]  # of the application, on a folder of images, into a folder of results

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """A measurement and what was expected. `measured`: None where there is none; `within`: None without a tolerance."""

    region: str
    measurement: str
    expected: float
    measured: float | None
    tolerance: float | None

    @property
    def difference(self) -> float | None:
        return None if self.measured is None else self.measured - self.expected

    @property
    def within(self) -> bool | None:
        if self.tolerance is None:
            return None
        return self.difference is not None and abs(self.difference) <= self.tolerance


@dataclass(frozen=True)
class SegmentResult:
    """One segment of the reference. `dice`: 0 to 1; None where neither has a voxel of it. Volumes in millilitres."""

    label: str
    dice: float | None
    found_ml: float
    reference_ml: float


@dataclass(frozen=True)
class CaseResult:
    """`status`: failed is a technical fault; refused, that the images can not be used; both with the reason.
    `not_compared`: why there is a reference and no segment."""

    case: Case
    status: Status
    reason: str
    seconds: float
    segments: tuple[SegmentResult, ...] = ()
    not_compared: str = ""
    differences: tuple[Difference, ...] = ()
    measured: tuple[Mapping[str, Any], ...] = ()
    results: tuple[Mapping[str, str], ...] = ()

    @property
    def as_expected(self) -> bool:
        """Whether nothing is to be looked into: it ended as it should, and no number is out of its tolerance."""
        wanted = self.case.expected_status
        ended = self.status == wanted if wanted else self.status in ("done", "not_applicable")
        return ended and not self.not_compared and all(each.within is not False for each in self.differences)

    def as_json(self) -> dict[str, Any]:
        return {
            "case": self.case.name,
            "study_uids": self.case.study_uids,
            "images": len(self.case.images),
            "images_sha256": self.case.digest,
            "status": self.status,
            "expected_status": self.case.expected_status,
            "reason": self.reason,
            "seconds": round(self.seconds, 2),
            "as_expected": self.as_expected,
            "segments": [asdict(each) for each in self.segments],
            "not_compared": self.not_compared,
            "differences": [
                {**asdict(each), "difference": each.difference, "within": each.within}
                for each in self.differences
            ],
            "groups": self.measured,
            "results": self.results,
        }


@dataclass(frozen=True)
class Interval:
    """A proportion with the exact interval of Clopper and Pearson, 95 %. All from 0 to 1."""

    count: int
    of: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Spread:
    """Of `n` values, whatever their distribution: the median and an interval for it that holds it with at least 95 %.

    Both ends are None for fewer than six values: then not even the smallest and the largest one hold it so surely.
    """

    n: int
    median: float
    low: float | None
    high: float | None
    smallest: float
    largest: float


def proportion(count: int, of: int) -> Interval | None:
    """None of nothing."""
    if of == 0:
        return None
    tail = (1 - _CONFIDENCE) / 2
    low = float(beta.ppf(tail, count, of - count + 1)) if count else 0.0
    high = float(beta.ppf(1 - tail, count + 1, of - count)) if count < of else 1.0
    return Interval(count, of, count / of, low, high)


def spread(values: Sequence[float]) -> Spread | None:
    """None of nothing. The interval is that between two values, by how many of them may lie on either side."""
    found = sorted(values)
    if not found:
        return None
    n = len(found)
    # The largest k for which the median lies below the k-th value with at most 2.5 %, and likewise above.
    k = int(binom.ppf((1 - _CONFIDENCE) / 2, n, 0.5))
    while k > 0 and binom.cdf(k - 1, n, 0.5) > (1 - _CONFIDENCE) / 2:
        k -= 1
    low, high = (found[k - 1], found[n - k]) if k > 0 else (None, None)
    return Spread(n, median(found), low, high, found[0], found[-1])


def examined(case: Case, run: Run, out: Path, labels: Mapping[str, str]) -> CaseResult:
    """Run the application on this case, its results into `out`, and compare. What goes wrong with it is told there."""
    begun = time.monotonic()
    try:
        with TemporaryDirectory(prefix="isocenter-case-") as folder:
            outcome = run(_images_alone(case, Path(folder)), out)
    except IsocenterError as error:
        status: Status = "refused" if isinstance(error, InputError | GeometryError) else "failed"
        ended_s = time.monotonic() - begun
        return CaseResult(case, status, str(error), ended_s, differences=_differences(case, ()))
    seconds = time.monotonic() - begun
    if outcome.status == "not_applicable":
        return CaseResult(case, "not_applicable", outcome.reason, seconds, differences=_differences(case, ()))
    segments, not_compared = _compared(case, outcome, labels)
    from isocenter.worker.runner import as_json

    told = as_json(outcome)
    return CaseResult(
        case=case,
        status="done",
        reason="",
        seconds=seconds,
        segments=segments,
        not_compared=not_compared,
        differences=_differences(case, told["groups"]),
        measured=tuple(told["groups"]),
        results=tuple(told["results"]),
    )


def _images_alone(case: Case, folder: Path) -> Path:
    """The application does not see what others have drawn."""
    for number, file in enumerate(case.images.values()):
        (folder / f"{number:06d}.dcm").symlink_to(file.resolve())
    return folder


def _compared(
    case: Case, outcome: Outcome, labels: Mapping[str, str]
) -> tuple[tuple[SegmentResult, ...], str]:
    from pydicom import dcmread

    from isocenter_operators.dicom.results.seg_overlap import overlaps
    from isocenter_operators.dicom.results.seg_reader import read_segmentation

    try:
        reference = reference_of(case, labels)
        if reference is None:
            return (), ""
        files = [each.path for each in outcome.results if each.modality == "SEG" and each.path is not None]
        if len(files) != 1:
            return (), f"the application wrote {len(files)} segmentations, and one can be compared"
        found = overlaps(read_segmentation(dcmread(files[0])), reference)
    except IsocenterError as error:
        return (), str(error)
    drawn = {segment.label for segment in reference.segments}
    return tuple(
        SegmentResult(each.label, each.dice, each.one_ml, each.other_ml)
        for each in found
        if each.label in drawn
    ), ""


def _differences(case: Case, groups: Sequence[Mapping[str, Any]]) -> tuple[Difference, ...]:
    regions = {str(group["label"]): said_in(group) for group in groups}
    return tuple(
        Difference(
            each.region,
            each.measurement,
            each.expected,
            _number(regions.get(each.region, {}).get(each.measurement)),
            each.tolerance,
        )
        for each in case.expectations
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
