"""`isocenter healthcheck`: what a container's engine asks, again and again, so it loads little."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import TYPE_CHECKING

import click

from isocenter.cli import options
from isocenter.cli.output import print_lines

if TYPE_CHECKING:
    from isocenter.settings import Settings

__all__ = ["command"]

_ANSWERS_S = 3.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@click.command()
@click.argument("part", type=click.Choice(["gateway", "worker"]))
@options.config
@click.option("--name", help="Of the worker, instead of worker.name.")
def command(part: str, config: Path | None, name: str | None) -> int:
    """Does the gateway or the worker that was started in this container do its work? 1 when it does not.

    Whether Orthanc and Triton do is not asked here: starting this one again would not mend them.
    """
    settings = options.running_settings(config)
    missing = _gateway(settings) if part == "gateway" else _worker(settings, name)
    print_lines([missing or f"the {part} is well"])
    return 1 if missing else 0


def _gateway(settings: Settings) -> str | None:
    host = _EVERYWHERE.get(settings.gateway.host, settings.gateway.host)
    asked_for = settings.gateway.names[0] if settings.gateway.names else host
    connection = http.client.HTTPConnection(host, settings.gateway.port, timeout=_ANSWERS_S)
    try:
        connection.request("GET", "/livez", headers={"Host": asked_for})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"the gateway does not answer at {host}:{settings.gateway.port} ({type(error).__name__})"
    finally:
        connection.close()
    return None if status == http.client.OK else f"the gateway answers {status}"


def _worker(settings: Settings, name: str | None) -> str | None:
    from isocenter.worker import presence

    if name is not None:
        settings = settings.model_copy(update={"worker": settings.worker.model_copy(update={"name": name})})
    return presence.missing(settings)
