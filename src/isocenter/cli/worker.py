"""`isocenter worker`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from isocenter.cli import options
from isocenter.settings import Settings
from isocenter_operators.errors import ConfigurationError

__all__ = ["command"]


@click.command()
@options.config
@click.option("--name", help="Instead of worker.name: each worker of a database needs one of its own.")
def command(config: Path | None, name: str | None) -> int:
    """One worker in the foreground, until Ctrl-C: on another machine, beside those that `isocenter up` starts.

    Its isocenter.yaml names the database, the archive and the inference server that it shares with the others.
    """
    settings = Settings.load(config)
    if settings.database.startswith("sqlite"):
        raise ConfigurationError(
            "database_url: a SQLite database has one worker, which `isocenter up` starts; more need PostgreSQL"
        )
    arguments = [*(["--config", str(config)] if config else []), *(["--name", name] if name else [])]
    # The worker becomes this process, with the size of the stack that it needs from its start.
    os.execv(sys.executable, [sys.executable, "-m", "isocenter.worker", *arguments])
