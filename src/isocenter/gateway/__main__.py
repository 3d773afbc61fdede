"""The gateway's process: `python -m isocenter.gateway --config F`. The router runs in it."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool

from isocenter.gateway.app import create_app
from isocenter.jobs import Jobs
from isocenter.routing import Router
from isocenter.settings import Settings
from isocenter_operators.errors import ConfigurationError

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C. 0 when stopped, 1 when the port is taken, 2 for a wrong configuration."""
    parser = argparse.ArgumentParser(prog="python -m isocenter.gateway", description=__doc__)
    parser.add_argument("--config", type=Path, default=None, help="isocenter.yaml")
    try:
        settings = Settings.load(parser.parse_args(arguments).config)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    router, jobs = Router(settings), Jobs(settings)
    server = uvicorn.Server(
        uvicorn.Config(
            _routed(create_app(settings, router=router, jobs=jobs), router, jobs),
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


def _routed(app: Starlette, router: Router, jobs: Jobs) -> Starlette:
    """The application with the router running as long as it serves."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(served: Starlette) -> AsyncIterator[None]:
        async with inner(served):
            await run_in_threadpool(router.start)
            try:
                yield
            finally:
                await run_in_threadpool(router.stop)
                await run_in_threadpool(jobs.close)

    app.router.lifespan_context = lifespan
    return app


if __name__ == "__main__":
    sys.exit(main())
