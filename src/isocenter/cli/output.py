"""What people and programs read: sentences on stderr, tables and one JSON document on stdout."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import click

from isocenter.job_groups import notes_of
from isocenter.measurements import measurement_table

__all__ = [
    "counted",
    "figure",
    "groups_table",
    "print_json",
    "print_lines",
    "quiet_stdout",
    "say",
    "seconds_table",
    "table",
]


def say(sentence: str) -> None:
    """One sentence for a person, on stderr."""
    click.echo(sentence, err=True)


def print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, default=str))


def counted(number: int, noun: str, nouns: str | None = None) -> str:
    """`1 study`, `2 studies`: the plural is the noun with an s where `nouns` does not say otherwise."""
    return f"{number} {noun if number == 1 else nouns or f'{noun}s'}"


def figure(value: float | None, sign: str = "") -> str:
    """A number of any size, "-" for none. `sign`: "+" shows that of a difference too."""
    if value is None:
        return "-"
    return f"{value:{sign}.1f}" if abs(value) >= 1000 else f"{value:{sign}.4g}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Plain columns, those in `right` aligned to the right; no wider than what is in them."""
    cells = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def groups_table(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """The measurements: a row for each region, a column for each number, its unit in the header."""
    header, *rows = measurement_table(groups)
    lines = table(header, rows, right=range(1, len(header)))
    return [*lines, *notes_of(groups)]


def seconds_table(seconds: Mapping[str, float]) -> list[str]:
    """Where the time went, and the sum of it."""
    rows = [(name, f"{value:.2f}") for name, value in seconds.items()]
    return table(["step", "seconds"], [*rows, ("all", f"{sum(seconds.values()):.2f}")], right=[1])


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Send to stderr whatever libraries, and their C++ below, print to stdout inside the block."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
