"""`isocenter app`: applications of one's own."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import click

from isocenter.cli import options
from isocenter.cli.output import print_json, print_lines
from isocenter_operators.errors import ConfigurationError

__all__ = ["command"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


@click.group()
def command() -> None:
    """Applications of one's own: new NAME."""


@command.command("new")
@click.argument("name")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("apps"),
    show_default=True,
    help="Where its folder is made: apps_dir of the configuration, for `isocenter run` to find it.",
)
@click.option("--title", help="For people; made of NAME if not given.")
@options.json_option
def new(name: str, folder: Path, title: str | None, as_json: bool) -> int:
    """Write a small application that works, with its test: a place to begin with one's own."""
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{name!r}: a name has lower case letters, digits and _, and begins with a letter"
        )
    place = folder / name
    if place.exists():
        raise ConfigurationError(f"{place} is there already: choose another name", path=str(place))
    place.mkdir(parents=True)
    said = {
        "@title@": _within_quotes(title or name.replace("_", " ").capitalize()),
        "@name@": name,
        "@folder@": place.as_posix(),
    }
    written = []
    for source in sorted(
        (each for each in files("isocenter").joinpath("app_template").iterdir()), key=lambda s: s.name
    ):
        if source.is_file():
            text = source.read_text()
            for token, value in said.items():
                text = text.replace(token, value)
            (place / source.name).write_text(text)
            written.append(place / source.name)
    if as_json:
        print_json({"name": name, "files": [str(path) for path in written]})
    else:
        print_lines(map(str, written))
    return 0


def _within_quotes(title: str) -> str:
    return json.dumps(title, ensure_ascii=False)[1:-1]
