"""`isocenter gateway`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from isocenter.cli import options

__all__ = ["command"]


@click.command()
@options.config
def command(config: Path | None) -> int:
    """The gateway alone in the foreground, until Ctrl-C: where Orthanc, Triton and workers are started by others.

    There is one for each database: the router, the couriers and the housekeeping run in its process.
    """
    arguments = ["--config", str(config)] if config else []
    os.execv(sys.executable, [sys.executable, "-m", "isocenter.gateway", *arguments])
