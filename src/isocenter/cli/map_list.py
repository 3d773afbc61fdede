"""`isocenter map list`."""

from __future__ import annotations

from pathlib import Path

import click

from isocenter.cli import options
from isocenter.cli.output import print_json, print_lines, table

__all__ = ["command"]


@click.command("list")
@options.config
@options.json_option
def command(config: Path | None, as_json: bool) -> int:
    """The packages that routes may name, as they have to write them, and with which key each is signed."""
    from isocenter.maps.store import MapStore

    settings = options.running_settings(config)
    store = MapStore(settings.maps_dir, settings.maps.trusted_keys)
    named = {name for route in settings.routes for name in route.applications}
    rows = [(each, store.signed_by(each), each.reference in named) for each in store.all()]
    if as_json:
        print_json(
            [
                {
                    **each.model_dump(mode="json"),
                    "application": each.reference,
                    "signed_by": key,
                    "in_a_route": used,
                }
                for each, key, used in rows
            ]
        )
    elif rows:
        cells = [
            (
                each.reference,
                each.version,
                each.title,
                key.name if key else "",
                "yes" if each.vouched else "no",
                "yes" if used else "no",
            )
            for each, key, used in rows
        ]
        print_lines(
            table(["application", "version", "title", "signed by", "vouched for", "in a route"], cells)
        )
    else:
        print_lines(["none; `isocenter map add FILE` takes one in"])
    return 0
