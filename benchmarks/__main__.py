"""`make bench`: everything side by side on this machine; a table, results.json beside this file, docs/benchmarks.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fetch
import lung_model
import segmentation
import transport
import volume
import whole_way
from comparison import Comparison, write_results
from page import write_page
from rich.console import Console
from rich.table import Table
from series import chest_ct


def main() -> None:
    table = Table(
        "benchmark", "ours", "peer", "ratio", "against", title="smaller is better; ratio = peer / ours"
    )
    results = {}
    console = Console()
    for one in _comparisons():
        peer = "" if one.peer is None else f"{one.peer:.2f} {one.unit}"
        ratio = "" if one.ratio is None else f"{one.ratio:.1f}"
        table.add_row(one.name, f"{one.ours:.2f} {one.unit}", peer, ratio, one.against)
        results[one.name] = one.as_json()
        console.print(f"{one.name}: {one.ours:.2f} {one.unit}", style="dim")
    console.print(table)
    file = write_results(results)
    write_page(json.loads(file.read_text()))
    console.print(f"written to {file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}")


def _comparisons() -> Iterator[Comparison]:
    with chest_ct() as chest:
        yield from volume.compare(chest)
        yield from fetch.compare(chest)
        yield from transport.compare()
        yield from lung_model.compare(chest)
    yield from whole_way.compare()
    yield from segmentation.compare()


if __name__ == "__main__":
    main()
