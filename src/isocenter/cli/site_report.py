"""The validation report of a site: what was run, on which cases, and what came of it, as HTML, JSON and CSV."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from isocenter.cli.site_validation import CaseResult, Interval, Spread, proportion, spread
from isocenter.measurements import measurement_title

__all__ = ["Circumstances", "Summary", "not_as_expected", "summary_of", "summary_told", "write_report"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; color: #1c2126; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #d0d5da; }
td.n, th.n { text-align: right; white-space: nowrap; }
code { font-size: 12px; overflow-wrap: anywhere; } .off { background: #fdecea; } small { color: #687078; }
@media print { body { margin: 0; max-width: none; } }
"""
_SHOWN = {"not_applicable": "not applicable"}
_METHOD = """<h2>How it was computed</h2>
<p>Dice: twice the voxels that both have, by the sum of what each has, on the grid of the images; a segment that
the application did not find counts as 0, one that neither has is left out. Proportions have the exact interval
of Clopper and Pearson. A median's interval lies between two of the values, chosen by how many may lie on either
side of it, whatever their distribution; for fewer than six values there is none that holds it with 95 %, and
none is given. Seconds are those of the cases that were done, one after the other.</p>"""
_UNKNOWN = "not known: the inference server is elsewhere, and the application states none"


@dataclass(frozen=True)
class Circumstances:
    """What was run, where and when. `weights`: SHA-256 by model; None where nobody knows it."""

    isocenter: str
    application: str
    version: str
    models: Mapping[str, str]
    weights: Mapping[str, str | None]
    made: str  # ISO 8601, UTC
    machine: Mapping[str, str]
    cases_folder: str
    expected_file: str
    intended_use: str


@dataclass(frozen=True)
class Summary:
    """Over all cases. `as_expected`, `within`: of those that something was expected of, or a tolerance given for."""

    cases: int
    states: Mapping[str, int]
    as_expected: Interval | None
    within: Interval | None
    dice: Mapping[str, Spread]
    volume_ml: Mapping[str, Spread]  # found less reference
    differences: Mapping[str, Spread]  # "region: measurement", measured less expected
    seconds: Spread | None


def summary_of(results: Sequence[CaseResult]) -> Summary:
    judged = [each.within for result in results for each in result.differences if each.within is not None]
    segments = [each for result in results for each in result.segments]
    differences = [each for result in results for each in result.differences]
    return Summary(
        cases=len(results),
        states=dict(Counter(result.status for result in results)),
        as_expected=proportion(sum(result.as_expected for result in results), len(results)),
        within=proportion(sum(judged), len(judged)),
        dice=_spreads((each.label, each.dice) for each in segments),
        volume_ml=_spreads((each.label, each.found_ml - each.reference_ml) for each in segments),
        differences=_spreads(
            (f"{each.region}: {measurement_title(each.measurement)}", each.difference) for each in differences
        ),
        seconds=spread([result.seconds for result in results if result.status == "done"]),
    )


def _spreads(values: Iterable[tuple[str, float | None]]) -> dict[str, Spread]:
    by_name: dict[str, list[float]] = {}
    for name, value in values:
        if value is not None:
            by_name.setdefault(name, []).append(value)
    return {name: found for name, each in by_name.items() if (found := spread(each)) is not None}


def summary_told(summary: Summary) -> list[str]:
    """For a person at a terminal."""
    states = ", ".join(f"{_SHOWN.get(name, name)} {count}" for name, count in sorted(summary.states.items()))
    lines = [f"{summary.cases} cases: {states}"]
    if summary.as_expected:
        lines.append(f"as expected: {_share(summary.as_expected)}")
    if summary.within:
        lines.append(f"measurements within their tolerance: {_share(summary.within)}")
    lines += [f"Dice of {name}: {_median(found, 3)}" for name, found in summary.dice.items()]
    lines += [
        f"{name}, measured less expected: {_median(found, 2)}" for name, found in summary.differences.items()
    ]
    return lines


def write_report(
    folder: Path, circumstances: Circumstances, results: Sequence[CaseResult]
) -> Mapping[str, Any]:
    """`report.html`, `report.json`, `cases.csv`, `segments.csv` and `measurements.csv`; gives the JSON's document."""
    summary = summary_of(results)
    document = {
        **asdict(circumstances),
        "summary": asdict(summary),
        "cases": [result.as_json() for result in results],
    }
    (folder / "report.json").write_text(json.dumps(document, indent=2) + "\n")
    (folder / "report.html").write_text(_page(circumstances, summary, results))
    for name, rows in _tables(results).items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    return document


def _tables(results: Sequence[CaseResult]) -> dict[str, list[list[Any]]]:
    cases: list[list[Any]] = [
        ["case", "status", "expected_status", "as_expected", "seconds", "images", "images_sha256", "reason"]
    ]
    segments: list[list[Any]] = [["case", "segment", "dice", "found_mL", "reference_mL"]]
    numbers: list[list[Any]] = [
        ["case", "region", "measurement", "measured", "expected", "tolerance", "difference", "within"]
    ]
    for result in results:
        case = result.case
        cases.append(
            [
                case.name,
                result.status,
                case.expected_status or "",
                result.as_expected,
                round(result.seconds, 2),
                len(case.images),
                case.digest,
                result.reason or result.not_compared,
            ]
        )
        segments += [
            [case.name, each.label, each.dice, each.found_ml, each.reference_ml] for each in result.segments
        ]
        numbers += [
            [
                case.name,
                each.region,
                each.measurement,
                each.measured,
                each.expected,
                each.tolerance,
                each.difference,
                each.within,
            ]
            for each in result.differences
        ]
    return {"cases": cases, "segments": segments, "measurements": numbers}


def _page(about: Circumstances, summary: Summary, results: Sequence[CaseResult]) -> str:
    name = f"{about.application} {about.version}"
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Validation of {escape(name)}</title>",
        f"<style>{_STYLE}</style><h1>Validation of {escape(name)} on local cases</h1>",
        f"<p><b>Intended use, as stated by the site:</b> {escape(about.intended_use or 'not stated')}</p>",
        "<p>Not a medical device: research use only. This report says what the application did on the cases that are "
        "listed in it, and nothing of others.</p>",
        _table("What was run", ["", ""], _circumstances_rows(about)),
        _table("Summary", ["", ""], [[_SHOWN.get(k, k), str(v)] for k, v in _summary_rows(summary)]),
        _spread_table("Dice of each segment of the references", summary.dice, 3),
        _spread_table("Volume, found less reference (mL)", summary.volume_ml, 1),
        _spread_table("Measured less expected", summary.differences, 2),
        _table(
            "Cases",
            ["case", "ended", "s", "images", "why, and what was not as expected"],
            map(_case_row, results),
            results,
        ),
        _METHOD,
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _circumstances_rows(about: Circumstances) -> list[list[str]]:
    models = [
        [f"model {model}, version {version}", f"weights SHA-256 {about.weights.get(model) or _UNKNOWN}"]
        for model, version in about.models.items()
    ]
    return [
        ["application", f"{about.application} {about.version}"],
        *models,
        ["Isocenter", about.isocenter],
        *([name, value] for name, value in about.machine.items()),
        ["made (UTC)", about.made],
        ["cases", about.cases_folder],
        ["expected values", about.expected_file or "none given"],
    ]


def _summary_rows(summary: Summary) -> list[tuple[str, str]]:
    rows = [
        ("cases", str(summary.cases)),
        *((name, str(count)) for name, count in sorted(summary.states.items())),
    ]
    if summary.as_expected:
        rows.append(("as expected", _share(summary.as_expected)))
    if summary.within:
        rows.append(("measurements within their tolerance", _share(summary.within)))
    if summary.seconds:
        rows.append(("seconds", _median(summary.seconds, 1)))
    return rows


def not_as_expected(result: CaseResult) -> list[str]:
    """A sentence for each thing that is not as it was expected of the case, or could not be compared."""
    off = [
        f"{each.region}: {measurement_title(each.measurement)} is {_value(each.measured, 2)}, "
        f"expected {each.expected:g} ± {each.tolerance:g}"
        for each in result.differences
        if each.within is False
    ]
    wanted = result.case.expected_status
    if wanted and wanted != result.status:
        off.append(f"expected to end as {_SHOWN.get(wanted, wanted)}")
    if result.not_compared:
        off.append(f"not compared: {result.not_compared}")
    return off


def _case_row(result: CaseResult) -> list[str]:
    dice = [f"Dice {each.label} {_value(each.dice, 3)}" for each in result.segments]
    return [
        result.case.name,
        _SHOWN.get(result.status, result.status),
        f"{result.seconds:.1f}",
        str(len(result.case.images)),
        "; ".join([*([result.reason] if result.reason else []), *not_as_expected(result), *dice]),
    ]


def _spread_table(title: str, spreads: Mapping[str, Spread], decimals: int) -> str:
    rows = [
        [
            name,
            str(each.n),
            _value(each.median, decimals),
            _interval(each, decimals),
            _value(each.smallest, decimals),
            _value(each.largest, decimals),
        ]
        for name, each in spreads.items()
    ]
    return (
        _table(title, ["", "n", "median", "95 % interval of the median", "smallest", "largest"], rows)
        if rows
        else ""
    )


def _table(
    title: str, header: Sequence[str], rows: Iterable[Sequence[str]], results: Sequence[CaseResult] = ()
) -> str:
    found = [*rows]
    off = [not result.as_expected for result in results] or [False] * len(found)
    body = "".join(
        f"<tr{' class=off' if wrong else ''}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for row, wrong in zip(found, off, strict=True)
    )
    heads = "".join(f"<th>{escape(each)}</th>" for each in header)
    return f"<h2>{escape(title)}</h2><table><tr>{heads}</tr>{body}</table>"


def _share(found: Interval) -> str:
    share, low, high = (f"{100 * part:.1f} %" for part in (found.share, found.low, found.high))
    return f"{found.count} of {found.of} ({share}; 95 % interval {low} to {high})"


def _median(found: Spread, decimals: int) -> str:
    smallest, largest = (f"{each:.{decimals}f}" for each in (found.smallest, found.largest))
    interval = _interval(found, decimals)
    return f"median {found.median:.{decimals}f} (95 % interval {interval}; all {smallest} to {largest}; n = {found.n})"


def _interval(found: Spread, decimals: int) -> str:
    if found.low is None or found.high is None:
        return "none: fewer than six"
    return f"{found.low:.{decimals}f} to {found.high:.{decimals}f}"


def _value(value: float | None, decimals: int) -> str:
    return "-" if value is None else f"{value:.{decimals}f}"
