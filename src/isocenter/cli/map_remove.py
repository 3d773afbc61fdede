"""`isocenter map remove`."""

from __future__ import annotations

from pathlib import Path

import click

from isocenter.cli import options
from isocenter.cli.output import print_lines
from isocenter_operators.errors import ConfigurationError

__all__ = ["command"]


@click.command("remove")
@click.argument("application", metavar="map://NAME@sha256:DIGEST")
@click.option("--force", is_flag=True, help="Also where a route names it.")
@options.config
def command(application: str, force: bool, config: Path | None) -> int:
    """Take a package out again. Jobs that wait for it fail, and say so; results stay."""
    from isocenter.map_reference import digest_in
    from isocenter.maps.store import MapStore

    settings = options.running_settings(config)
    store = MapStore(settings.maps_dir)
    stored = next((each for each in store.all() if each.digest == digest_in(application)), None)
    if stored is None:
        raise ConfigurationError(
            f"{application}: there is no such package; `isocenter map list` has those there are"
        )
    users = [route.name for route in settings.routes if stored.reference in route.applications]
    if users and not force:
        raise ConfigurationError(
            f"{application}: the route {users[0]!r} names it; change the route first, or --force"
        )
    store.remove(stored)
    print_lines([f"removed {stored.reference}"])
    return 0
