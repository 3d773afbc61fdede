"""`python -m isocenter.worker --config F`: takes jobs from the queue until it is told to stop."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from isocenter.settings import Settings
from isocenter.worker.presence import announce, withdraw
from isocenter.worker.stack_limit import enlarge_stack
from isocenter_operators.errors import ConfigurationError, IsocenterError

log = logging.getLogger("isocenter.worker")

_POLL_S = 0.2
_STOP = (signal.SIGTERM, signal.SIGINT)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m isocenter.worker")
    parser.add_argument("--config", type=Path)
    arguments = parser.parse_args()
    enlarge_stack()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("isocenter").setLevel(logging.INFO)
    try:
        serve(Settings.load(arguments.config))
    except IsocenterError as error:
        log.error("%s", error)
        return 1
    return 0


def serve(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT. What is then unfinished is taken up at the next start."""
    # Holoscan handles these signals by ending the graph early, which would look like a result with nothing in
    # it. Blocked in every thread they reach no handler, only the thread that waits for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    waiting = threading.Thread(target=_leave_when_told, args=(settings,), name="signals", daemon=True)
    waiting.start()
    _warm_up(settings)
    _launch(settings)
    announce(settings)
    log.info("ready")
    waiting.join()


def _leave_when_told(settings: Settings) -> None:
    signal.sigwait(_STOP)
    withdraw(settings)
    # A graph can not be interrupted: leaving now is as safe as a crash, which the queue is made for.
    os._exit(0)


def _warm_up(settings: Settings) -> None:
    """Import what costs seconds before the first job comes. A broken application fails its own jobs only."""
    from isocenter.catalog import Catalog
    from isocenter.worker import runner

    for app in Catalog(settings.apps_dir).all():
        try:
            runner.load(app)
        except ConfigurationError as error:
            log.error("%s", error)
    # What was imported stays: without this, each full collection walks all of it in the middle of a job.
    gc.collect()
    gc.freeze()


def _launch(settings: Settings) -> None:
    from dbos import DBOS

    from isocenter.jobs import QUEUE, SERVICE, prepare, serializer
    from isocenter.worker.attempt import register

    prepare(settings)
    DBOS(
        config={
            "name": SERVICE,
            "system_database_url": settings.database,
            "serializer": serializer(),
            # Constant: an update of Isocenter must find the jobs that were queued before it.
            "application_version": "1",
            # What a lost worker had begun is taken up by the next of its name. A SQLite database has one worker at
            # a time, so there the next one, whatever it is called.
            "executor_id": SERVICE if settings.database.startswith("sqlite") else settings.worker.name,
            "log_level": "WARNING",
            "enable_otlp": False,
        }
    )
    register(settings)
    DBOS.launch()
    DBOS.register_queue(
        QUEUE,
        worker_concurrency=settings.worker.concurrency,
        polling_interval_sec=_POLL_S,
        on_conflict="always_update",
    )


if __name__ == "__main__":
    sys.exit(main())
