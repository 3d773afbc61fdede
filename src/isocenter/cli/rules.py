"""`isocenter rules`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isocenter.cli import options
from isocenter.cli.output import counted, print_json, print_lines
from isocenter_operators.errors import ConfigurationError, UnreadableInput

if TYPE_CHECKING:
    from isocenter.rules import Series

__all__ = ["command"]


@click.group()
@options.config
@click.pass_context
def command(context: click.Context, config: Path | None) -> None:
    """The rules that choose an application for a series: check, explain PATH."""
    context.obj = config


@command.command()
@options.json_option
@click.pass_obj
def check(config: Path | None, as_json: bool) -> int:
    """Are the rules themselves right?"""
    from isocenter.catalog import Catalog
    from isocenter.rules import problems
    from isocenter.settings import Settings

    settings = Settings.load(config)  # the file as it is now, whatever a stack was started with
    found = problems(settings.routes, {app.name for app in Catalog(settings.apps_dir).all()})
    if as_json:
        print_json({"routes": [route.model_dump() for route in settings.routes], "problems": found})
    elif not found:
        print_lines([f"{counted(len(settings.routes), 'rule')}: nothing is wrong"])
    if found and not as_json:
        raise ConfigurationError("\n".join(found))
    return 2 if found else 0


@command.command()
@click.argument("path", type=click.Path(path_type=Path))
@options.json_option
@click.pass_obj
def explain(config: Path | None, path: Path, as_json: bool) -> int:
    """Which rules fire for the series below PATH, and why each other one does not."""
    from isocenter.rules import explain as ask
    from isocenter.settings import Settings

    settings = Settings.load(config)  # the file as it is now, whatever a stack was started with
    answers = [(series, ask(settings.routes, series)) for series in _series(path)]
    if as_json:
        print_json(
            [
                {
                    "study_uid": series.study_uid,
                    "series_uid": series.series_uid,
                    "instances": series.instances,
                    "routes": [asdict(verdict) for verdict in verdicts],
                }
                for series, verdicts in answers
            ]
        )
        return 0
    for series, verdicts in answers:
        print_lines([f"series {series.series_uid} ({counted(series.instances, 'instance')})"])
        print_lines(
            f"  {verdict.route}: "
            + (f"goes to {verdict.application}" if verdict.wanted else f"not wanted: {verdict.reason}")
            for verdict in verdicts
        )
    return 0


def _series(path: Path) -> list[Series]:
    """Each series below the path. Raises UnreadableInput when there is none."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    from isocenter.rules import Series, attributes_of

    if not path.exists():
        raise UnreadableInput(f"{path} does not exist", path=str(path))
    found: dict[str, Series] = {}
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        try:
            header = dcmread(file, stop_before_pixels=True)
            uid, study_uid = str(header.SeriesInstanceUID), str(header.StudyInstanceUID)
        except (InvalidDicomError, IsADirectoryError, EOFError, AttributeError):
            continue
        known = found.get(uid)
        attributes = known.attributes if known else attributes_of(header)
        found[uid] = Series(study_uid, uid, known.instances + 1 if known else 1, attributes)
    if not found:
        raise UnreadableInput(f"no DICOM images in {path}", path=str(path))
    return list(found.values())
