"""`isocenter validate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isocenter.cli import options
from isocenter.cli.output import counted, print_json, print_lines
from isocenter_operators.errors import UnreadableInput

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from isocenter_operators.dicom.rules.problem import Problem

__all__ = ["command", "lines_of"]


@click.command()
@click.argument("files", nargs=-1, required=True, type=options.existing_path, metavar="FILE...")
@options.json_option
def command(files: tuple[Path, ...], as_json: bool) -> int:
    """What is wrong with these DICOM results, by the standard. A folder stands for every file below it.

    Each is checked by itself and beside the others: give the images too, and the frames of a result are compared with
    theirs. dciodvfy is asked where it is installed. 1 when there is an error, warnings are only told.
    """
    from isocenter_operators.dicom.rules.validate import check_against, dciodvfy, problems

    every = [file for path in files for file in _below(path)]
    headers = {file: header for file in every if (header := _header(file)) is not None}
    given = {str(header.get("SOPInstanceUID")): header for header in headers.values()}
    found = {}
    for file in every:
        found[file] = [*problems(file), *(dciodvfy(file) or ())]
        if file in headers:
            found[file] += check_against(headers[file], given)
    if as_json:
        print_json(
            [{"path": str(file), "problems": list(map(asdict, wrong))} for file, wrong in found.items()]
        )
    else:
        for file, wrong in found.items():
            print_lines([f"{file}: {_count(wrong, 'error')}, {_count(wrong, 'warning')}", *lines_of(wrong)])
    return 1 if any(each.severity == "error" for wrong in found.values() for each in wrong) else 0


def _header(file: Path) -> Dataset | None:
    """A DICOM file without its pixels; None of what can not be read, which its own checks tell."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        return dcmread(file, stop_before_pixels=True)
    except (InvalidDicomError, OSError, EOFError, ValueError):
        return None


def _count(problems: Sequence[Problem], severity: str) -> str:
    return counted(sum(problem.severity == severity for problem in problems), severity)


def lines_of(problems: Sequence[Problem]) -> list[str]:
    """One line for each; what is said several times, once."""
    told = Counter(f"  {each.severity}: {each.where}: {each.message.strip()}" for each in problems)
    return [line if times == 1 else f"{line} ({times} times)" for line, times in told.items()]


def _below(path: Path) -> list[Path]:
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    if not files:
        raise UnreadableInput(f"{path} is empty: there is nothing to validate", path=str(path))
    return files
