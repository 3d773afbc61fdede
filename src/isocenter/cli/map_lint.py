"""`isocenter map lint`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from isocenter.cli import options
from isocenter.cli.output import counted, print_json, print_lines

if TYPE_CHECKING:
    from isocenter.maps.finding import Finding

__all__ = ["command"]


@click.command("lint")
@click.argument("source", metavar="MAP")
@options.json_option
def command(source: str, as_json: bool) -> int:
    """What is wrong with a MONAI Application Package, and what will bite once it runs. 1 when there is an error.

    MAP as for `isocenter map inspect`. An error breaks the specification, or keeps it from running; warnings are
    only told. docs/maps.md explains each by its name.
    """
    from isocenter.maps.linting import lint_package
    from isocenter.maps.reference import opened

    with opened(source) as package:
        findings = lint_package(package)
    if as_json:
        print_json({"source": source, "findings": [asdict(each) for each in findings]})
    else:
        print_lines(_lines(source, findings))
    return 1 if any(each.severity == "error" for each in findings) else 0


def _lines(source: str, findings: Sequence[Finding]) -> Iterator[str]:
    errors = sum(each.severity == "error" for each in findings)
    yield f"{source}: {counted(errors, 'error')}, {counted(len(findings) - errors, 'warning')}"
    for each in findings:
        yield f"  {each.severity}: {each.name}: {each.where}: {each.message}"
        yield f"      {each.advice}"
