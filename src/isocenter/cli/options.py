"""Options and arguments that several commands share."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from isocenter.settings import Settings

__all__ = ["config", "existing_folder", "existing_path", "json_option", "running_settings"]

config = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The configuration file; isocenter.yaml in this folder when neither this nor ISOCENTER_CONFIG names one.",
)

# What was typed wrong is found before anything is done, and ends with 2 as any wrong usage.
existing_path = click.Path(path_type=Path, exists=True)
existing_folder = click.Path(path_type=Path, exists=True, file_okay=False)

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def running_settings(path: Path | None, *, secrets: Collection[str] = ()) -> Settings:
    """The settings, as the stack that runs with them has resolved them (moved ports), if one runs.

    secrets: the sections whose secrets will be used; a person who asks need not have the others. A server that is asked
    for by its address is never exchanged for the one of that stack.
    """
    from isocenter.settings import Settings
    from isocenter.stack.running import running

    settings = Settings.load(path, secrets)
    there = running(settings)
    if there is None:
        return settings
    named = {section: getattr(settings, section) for section in ("orthanc", "triton")}
    return there.model_copy(update={name: asked for name, asked in named.items() if not asked.embedded})
