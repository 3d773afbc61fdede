"""`isocenter map`: MONAI Application Packages."""

from __future__ import annotations

import importlib

import click

__all__ = ["command"]

_COMMANDS = {
    "build": "make one from an application's folder, with a container engine or without",
    "base": "make the base that packages without an engine stand on",
    "inspect": "what one is and needs: manifests, models, resources",
    "lint": "what is wrong with one, and what will bite once it runs",
    "run": "run one on a folder of DICOM files, with the limits that it declares",
    "add": "take one in, so that routes may name it",
    "list": "those that routes may name",
    "remove": "take one out again",
}


class _Commands(click.Group):
    """Imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        found: click.Command = importlib.import_module(f"isocenter.cli.map_{cmd_name}").command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=_Commands)
def command() -> None:
    """MONAI Application Packages (MAP): ours, and anyone's."""
