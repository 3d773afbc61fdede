"""`isocenter validate`."""

from __future__ import annotations

from pathlib import Path

import click

from isocenter.cli import options
from isocenter.cli.output import print_json, print_lines
from isocenter_operators.errors import UnreadableInput

__all__ = ["command"]


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@options.json_option
def command(files: tuple[Path, ...], as_json: bool) -> int:
    """What is wrong with these DICOM results, by the standard. A folder stands for every file below it."""
    from isocenter_operators.dicom.validate import problems

    every = [file for given in files for file in _below(given)]
    found = {file: [str(problem) for problem in problems(file)] for file in every}
    if as_json:
        print_json([{"path": str(file), "problems": wrong} for file, wrong in found.items()])
    else:
        for file, wrong in found.items():
            print_lines([f"{file}: {'ok' if not wrong else f'{len(wrong)} problems'}"])
            print_lines(f"  {problem}" for problem in wrong)
    return 1 if any(found.values()) else 0


def _below(path: Path) -> list[Path]:
    if not path.exists():
        raise UnreadableInput(f"{path} does not exist", path=str(path))
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    if not files:
        raise UnreadableInput(f"{path} is empty: there is nothing to validate", path=str(path))
    return files
