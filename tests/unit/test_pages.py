"""What the pages tell a reader to type is what the command line and the configuration take."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from isocenter.cli.main import group
from isocenter.settings import Settings
from isocenter.yaml_places import read_yaml

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(isocenter [^`]+)`")


def _blocks(page: Path, language: str) -> Iterator[str]:
    for found in _BLOCK.finditer(page.read_text()):
        if found[1] == language:
            yield found[2]


def _typed(page: Path) -> Iterator[str]:
    """Each command line, without what stands beside it for the reader."""
    for block in _blocks(page, ""):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"^\s*(\$ |sudo )*", "", line)
            if command.startswith("isocenter "):
                yield re.split(r"\s{2,}\S|\s#\s|\s[>|]\s", command)[0]


def _cases() -> Iterator[Any]:
    for page in PAGES:
        text = _BLOCK.sub("", page.read_text())
        for line in (*_typed(page), *_INLINE.findall(text)):
            yield pytest.param(line, id=f"{page.stem}: {line}")


@pytest.mark.parametrize("line", dict.fromkeys(_cases()))
def test_each_command_of_the_pages_is_one(line: str) -> None:
    words = shlex.split(line)[1:]
    command: click.Command = group
    context = click.Context(group)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, f"{command.name} has no {words[0]}"
        command, words = found, words[1:]
        context = click.Context(command, parent=context)
    known = {option for each in command.get_params(context) for option in (*each.opts, *each.secondary_opts)}
    options = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
    assert not set(options) - known, f"{command.name} takes {sorted(known)}"


def _joined(page: Path, folder: Path) -> dict[str, Any]:
    """What stands on the page in pieces, as one file. Two routes of one name are the same, said anew."""
    whole: dict[str, Any] = {}
    for block in _blocks(page, "yaml"):
        if yaml.safe_load(block).keys() - Settings.model_fields.keys():
            continue  # an app.yaml
        (folder / "block.yaml").write_text(block.replace("4f0c...", "4f0c" * 16))
        content = read_yaml(folder / "block.yaml").content
        assert isinstance(content, dict)
        for key, value in content.items():
            if key == "routes":
                routes = {route["name"]: route for route in (*whole.get(key, ()), *value)}
                whole[key] = list(routes.values())
            elif isinstance(value, dict):
                whole[key] = whole.get(key, {}) | value
            else:
                whole[key] = value
    return whole


def _destinations(whole: dict[str, Any]) -> set[str]:
    return {name for route in whole["routes"] for name in route.get("destinations", ())}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(_blocks(page, "yaml"))], ids=lambda page: page.stem
)
def test_the_configuration_on_a_page_is_taken(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _joined(page, tmp_path)
    if page.stem == "connecting":
        monkeypatch.setenv("ISOCENTER_PEERS__VNA__PASSWORD", "a password")
        (tmp_path / "secret").write_text("a secret of thirty-two characters")
        monkeypatch.setenv("ISOCENTER_PEERS__RIS__SECRET_FILE", str(tmp_path / "secret"))
    if page.stem == "configuration":  # which leaves peers to the page on them
        node = {"kind": "dicom", "host": "pacs.hospital", "port": 104, "aet": "PACS"}
        whole["peers"] = dict.fromkeys(_destinations(whole), node)
    (tmp_path / "isocenter.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    assert Settings.load(tmp_path / "isocenter.yaml").file
