"""`isocenter up`."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import click

from isocenter.cli import options
from isocenter.cli.output import print_lines, say, table

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
            rows = addresses(started.settings).items()
            print_lines(
                [f"ready after {time.monotonic() - began:.1f} s", *table(["what", "where"], rows)[1:]]
            )
            say("Ctrl-C stops everything")
            wait(started.supervisor, stop)
        say("stopping")
    return 0


def stop_on_signals() -> threading.Event:
    """An event that Ctrl-C and SIGTERM set."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    return stop
