"""The gateway's process: `python -m isocenter.gateway --config F`. Router, couriers and housekeeping run in it."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool

from isocenter.catalog import Catalog
from isocenter.gateway.app import create_app
from isocenter.gateway.housekeeping import Housekeeping
from isocenter.heap import keep_little
from isocenter.jobs import Jobs
from isocenter.onward import Couriers
from isocenter.routing import Router
from isocenter.rules import refuse_wrong_rules
from isocenter.settings import Settings
from isocenter_operators.errors import ConfigurationError

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C. 0 when stopped, 1 when the port is taken, 2 for a wrong configuration."""
    parser = argparse.ArgumentParser(prog="python -m isocenter.gateway", description=__doc__)
    parser.add_argument("--config", type=Path, default=None, help="isocenter.yaml")
    try:
        settings = Settings.load(parser.parse_args(arguments).config)
        refuse_wrong_rules(settings, settings.file, Catalog.of(settings))
        settings.orthanc.context()  # whose files must be there
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    keep_little()
    router, jobs = Router(settings), Jobs(settings)
    couriers = Couriers(settings)
    app = create_app(settings, router=router, jobs=jobs, couriers=couriers)
    server = uvicorn.Server(
        uvicorn.Config(
            _alive(app, jobs, (router, couriers, Housekeeping(settings, jobs))),
            host=settings.gateway.host,
            port=settings.gateway.port,
            access_log=False,  # queries can hold a patient's name
            log_config=None,
            timeout_graceful_shutdown=3,
        )
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))  # uvicorn raises it once more when it has shut down
    try:
        server.run()
    except SystemExit as end:
        return 0 if end.code == 0 else 1  # uvicorn has said that the port is taken
    return 0 if server.started else 1


class _Thread(Protocol):
    def start(self) -> None: ...
    def stop(self) -> None: ...


def _alive(app: Starlette, jobs: Jobs, threads: Sequence[_Thread]) -> Starlette:
    """The application with these running as long as it serves."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(served: Starlette) -> AsyncIterator[None]:
        async with inner(served):
            for each in threads:
                await run_in_threadpool(each.start)
            try:
                yield
            finally:
                for each in threads:
                    await run_in_threadpool(each.stop)
                await run_in_threadpool(jobs.close)

    app.router.lifespan_context = lifespan
    return app


if __name__ == "__main__":
    sys.exit(main())
