"""docs/benchmarks.md and its plot, out of results.json: what was asked, measured, and by how much it misses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

__all__ = ["write_page"]

_DOCS = Path(__file__).parent.parent / "docs"
_ROW, _LEFT, _WIDTH, _BAR = 30, 330, 860, 18  # pixels
_OURS, _MISSED, _TEXT = "#2a7f62", "#b8442c", "#222222"


@dataclass(frozen=True)
class Asked:
    """`reached`: how many times as good as asked a result is; 1 and more is met."""

    words: str
    reached: Callable[[Mapping[str, Any]], float]


def _ratio(least: float) -> Callable[[Mapping[str, Any]], float]:
    return lambda result: float(result["ratio"]) / least


def _at_most(limit: float) -> Callable[[Mapping[str, Any]], float]:
    return lambda result: limit / max(float(result["ours"]), 1e-9)


_ASKED = {
    "files to volume": Asked("at least 3 times faster", _ratio(3)),
    "files to volume, memory": Asked("at most 2.2 times the voxels", _at_most(2.2)),
    "series to volume, memory": Asked("at most 2.2 times the voxels", _at_most(2.2)),
    "fetch a series, bare": Asked("at most 1.5 times the bare bytes", _ratio(1 / 1.5)),
    "11 slices to Triton": Asked("at least 50 times faster", _ratio(50)),
    "study to SEG": Asked("at least 8 times faster", _ratio(8)),
    "besides the network": Asked("at most 2.5 s", _at_most(2.5)),
    "load": Asked("STAT p95 at most 5 s", _at_most(5)),
}


def write_page(results: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the page and its plot, and give the page. Entries that no peer stands beside come last."""
    compared = {name: each for name, each in results.items() if each.get("ratio") is not None}
    alone = {name: each for name, each in results.items() if "ours" in each and each.get("ratio") is None}
    (_DOCS / "images" / "benchmarks.svg").write_text(_plot(compared))
    page = _DOCS / "benchmarks.md"
    machines = sorted({str(each["machine"]) for each in results.values() if "machine" in each})
    page.write_text(
        "# Benchmarks\n\n"
        "`make bench` runs these side by side on one machine and writes this page; `make load` and `make throughput` "
        "add theirs. Ratios mean something, seconds only on the same machine: "
        + "; ".join(machines)
        + ".\n\n![Ours against its peers](images/benchmarks.svg)\n\n"
        "| | ours | peer | ratio | against | asked | |\n|---|---|---|---|---|---|---|\n"
        + "".join(_row(name, each) for name, each in {**compared, **alone}.items())
        + "\nA ratio is the peer's figure divided by ours: more is better.\n"
        + _besides(results)
        + _studies(results)
        + _cards(results)
        + _gpu_transport(results)
    )
    return page


def _row(name: str, result: Mapping[str, Any]) -> str:
    unit = result["unit"]
    peer = "" if result["peer"] is None else f"{_shown(result['peer'])} {unit}"
    ratio = "" if result["ratio"] is None else _shown(result["ratio"])
    asked = _ASKED.get(name)
    judged = "" if asked is None else _judged(asked.reached(result))
    words = "" if asked is None else asked.words
    cells = (name, f"{_shown(result['ours'])} {unit}", peer, ratio, result["against"], words, judged)
    return f"| {' | '.join(cells)} |\n"


def _judged(reached: float) -> str:
    return "met" if reached >= 1 else f"missed by {100 * (1 / reached - 1):.0f} %"


def _shown(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


# What each step of `study to SEG` does, and what of it is not ours to shorten.
_STEPS = {
    "store": "one request; most of it is Orthanc's, which reads a SEG of 42 MB and writes it",
    "inference": "with the network itself; the rest turns, resamples and brings back 72 million voxels",
    "fetch": "of 275 images from Orthanc",
    "check": "every reference, plane and code of each object by our rules, before anything is stored",
    "volume": "pixels to one array in Hounsfield units",
    "SEG": "frames are packed and described, one item for each",
    "gate": "whether the series is what the application is for",
    "picture": "secondary captures with the segments drawn in",
    "SR": "a TID 1500 report with its image library",
    "volumes": "of the segments, for the report",
}


def _besides(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Where the time goes that is missed, the longest step first."""
    whole, name = results.get("besides the network"), "study to SEG: "
    steps = {each.removeprefix(name): results[each]["ours"] for each in results if each.startswith(name)}
    if whole is None or not steps or _ASKED["besides the network"].reached(whole) >= 1:
        return ""
    lines = [
        f"| {step} | {_shown(seconds)} s | {_STEPS[step]} |\n"
        for step, seconds in sorted(steps.items(), key=lambda each: -each[1])
    ]
    return (
        "\n## What the whole way spends\n\nBesides the network 2.5 s are asked for and "
        f"{_shown(float(whole['ours']))} s are taken: a study comes out checked, with a SEG, pictures and a report, "
        "and two cores do all of it beside Orthanc and Triton. No step is long; each holds some.\n\n"
        "| step | | what it does |\n|---|---|---|\n" + "".join(lines)
    )


def _studies(results: Mapping[str, Mapping[str, Any]]) -> str:
    found = {name: each for name, each in results.items() if "per_hour" in each}
    if not found:
        return ""
    lines = [
        f"| {name.removeprefix('a study, ')} | {each['studies']} | {each['per_hour']} | {_growth(each)} |\n"
        for name, each in found.items()
    ]
    return (
        "\n## Studies an hour\n\nPhantoms of 80 slices through the whole service with `ct_lung_density` "
        "(`make throughput`). Memory: from the first third of the studies to the last of them; under 5 % is asked for "
        "over 300.\n\n"
        "| | studies | an hour | memory |\n|---|---|---|---|\n" + "".join(lines)
    )


def _growth(result: Mapping[str, Any]) -> str:
    growth = result["memory_growth_percent"]
    if growth is None:
        return "not measured: fewer than 300 studies"
    return ", ".join(f"{kind} {value:+.1f} %" for kind, value in growth.items())


def _cards(results: Mapping[str, Mapping[str, Any]]) -> str:
    found = {name: each for name, each in results.items() if "busy_percent" in each}
    if not any(each["busy_percent"] is not None for each in found.values()):
        return (
            "\n## On a graphics card\n\nNot measured yet: there was no card. `python benchmarks/whole_body.py` "
            "measures a network of whole-body size there (512 x 512 x 400 voxels, 104 organs), with all of its memory "
            "and with 8 GB; asked for are 3 s, and a card that is busy for 80 % of them.\n"
        )
    lines = [
        f"| {name} | {each['machine']} | {each['seconds']} s | {each['busy_percent']} % | {each['peak_mb']} MB | "
        f"{_agreement(each)} |\n"
        for name, each in found.items()
    ]
    return (
        "\n## On a graphics card\n\n512 x 512 x 400 voxels, 104 organs (`python benchmarks/whole_body.py`).\n\n"
        "| | card | voxels to label map | busy | memory | equal voxels |\n|---|---|---|---|---|---|\n"
        + "".join(lines)
    )


def _gpu_transport(results: Mapping[str, Mapping[str, Any]]) -> str:
    found = {name: each for name, each in results.items() if "cuda_s" in each}
    if not found:
        return ""
    lines = [
        f"| {name} | {each['machine']} | {each['cuda_s']} | {each['system_s']} | {each['grpc_s']} |\n"
        for name, each in found.items()
    ]
    return (
        "\n`python benchmarks/cuda_transport.py`, seconds:\n\n"
        "| | card | GPU memory | system's | gRPC |\n|---|---|---|---|---|\n" + "".join(lines)
    )


def _agreement(result: Mapping[str, Any]) -> str:
    names = {
        "as_the_cpu_percent": "CPU",
        "as_the_cpu_in_float32_percent": "CPU, in float32",
        "as_without_limit_percent": "without a limit",
    }
    return ", ".join(f"{title} {result[name]:.3f} %" for name, title in names.items() if name in result)


def _plot(compared: Mapping[str, Mapping[str, Any]]) -> str:
    """Bars of how many times better ours is, on a logarithmic scale; the line is 1: as good as the peer."""
    ratios = {name: float(each["ratio"]) for name, each in compared.items()}
    low = min(0.25, *ratios.values())
    high = max(16.0, *ratios.values())

    def place(ratio: float) -> float:
        part = (math.log(ratio) - math.log(low)) / (math.log(high) - math.log(low))
        return _LEFT + part * (_WIDTH - _LEFT - 60)

    rows = []
    for number, (name, ratio) in enumerate(ratios.items()):
        y = 20 + number * _ROW
        begin, end = sorted((place(1.0), place(ratio)))
        asked = _ASKED.get(name)
        missed = asked is not None and asked.reached(compared[name]) < 1
        rows.append(
            f'<text x="{_LEFT - 10}" y="{y + 14}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="{begin:.0f}" y="{y}" width="{max(1.0, end - begin):.0f}" height="{_BAR}" '
            f'fill="{_MISSED if missed else _OURS}"/>'
            f'<text x="{end + 6:.0f}" y="{y + 14}">{_shown(ratio)}</text>'
        )
    height = 40 + len(rows) * _ROW
    line = place(1.0)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" '
        f'font-size="14" fill="{_TEXT}"><rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>\n'
        + "\n".join(rows)
        + f'\n<line x1="{line:.0f}" y1="10" x2="{line:.0f}" y2="{height - 24}" stroke="{_TEXT}"/>'
        f'<text x="{line:.0f}" y="{height - 8}" text-anchor="middle">1: as good as the peer (logarithmic)</text>'
        "</svg>\n"
    )
