"""`isocenter up`."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isocenter.cli import options
from isocenter.cli.output import print_lines, say, table

if TYPE_CHECKING:
    from isocenter.settings import Settings

__all__ = ["command", "stop_on_signals"]


@click.command()
@options.config
@click.option("--move-ports", is_flag=True, help="Move past ports that are in use instead of refusing.")
def command(config: Path | None, move_ports: bool) -> int:
    """Start the embedded stack (Orthanc, Triton, worker, gateway) in the foreground; Ctrl-C stops it."""
    from isocenter.settings import Settings
    from isocenter.stack.up import addresses, stack, wait

    began = time.monotonic()
    settings = Settings.load(config)
    stop = stop_on_signals()
    with stack(settings, move_ports=move_ports, say=say) as started:
        if started.supervisor.wait_until_ready(stop):
            _tell_not_loaded(started.settings)
            rows = addresses(started.settings).items()
            print_lines(
                [f"ready after {time.monotonic() - began:.1f} s", *table(["what", "where"], rows)[1:]]
            )
            say("Ctrl-C stops everything")
            wait(started.supervisor, stop)
        say("stopping")
    return 0


def _tell_not_loaded(settings: Settings) -> None:
    """Of the site's own models, which keep nothing else from starting."""
    from isocenter.catalog import Catalog
    from isocenter.model_loading import not_loaded
    from isocenter_operators.errors import IsocenterError

    try:
        for each in not_loaded(settings, Catalog.of(settings).models):
            say(f"{each}; `isocenter models load` tries it again")
    except IsocenterError as error:  # the jobs say so too, and the supervisor starts it again
        say(f"which models are loaded can not be asked: {error}")


def stop_on_signals() -> threading.Event:
    """An event that Ctrl-C and SIGTERM set."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    return stop
