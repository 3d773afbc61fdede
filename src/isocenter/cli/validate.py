"""`isocenter validate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isocenter.cli import options
from isocenter.cli.output import print_json, print_lines
from isocenter_operators.errors import UnreadableInput

if TYPE_CHECKING:
    from isocenter_operators.dicom.problem import Problem

__all__ = ["command"]


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@options.json_option
def command(files: tuple[Path, ...], as_json: bool) -> int:
    """What is wrong with these DICOM results, by the standard. A folder stands for every file below it.

    dciodvfy is asked too where it is installed. 1 when there is an error, warnings are only told.
    """
    from isocenter_operators.dicom.validate import dciodvfy, problems

    every = [file for given in files for file in _below(given)]
    found = {file: [*problems(file), *(dciodvfy(file) or ())] for file in every}
    if as_json:
        print_json(
            [{"path": str(file), "problems": list(map(asdict, wrong))} for file, wrong in found.items()]
        )
    else:
        for file, wrong in found.items():
            print_lines([f"{file}: {_count(wrong, 'error')}, {_count(wrong, 'warning')}"])
            print_lines(f"  {each.severity}: {each.where}: {each.message}" for each in wrong)
    return 1 if any(each.severity == "error" for wrong in found.values() for each in wrong) else 0


def _count(problems: Sequence[Problem], severity: str) -> str:
    number = sum(problem.severity == severity for problem in problems)
    return f"{number} {severity}{'' if number == 1 else 's'}"


def _below(path: Path) -> list[Path]:
    if not path.exists():
        raise UnreadableInput(f"{path} does not exist", path=str(path))
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    if not files:
        raise UnreadableInput(f"{path} is empty: there is nothing to validate", path=str(path))
    return files
