"""A worker's process: takes jobs from the queue until it is told to stop."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from sqlalchemy.exc import SQLAlchemyError

from isocenter.catalog import Catalog
from isocenter.database import database_error, prepare
from isocenter.heap import keep_little
from isocenter.model_loading import load_missing
from isocenter.queues import POLL_S, SHADOWS, queues
from isocenter.settings import Settings
from isocenter.worker.attendance import Attendance
from isocenter.worker.heartbeat import Heartbeat
from isocenter.worker.presence import announce, withdraw
from isocenter.worker.sweeping import start_sweeping
from isocenter_operators.errors import ConfigurationError, IsocenterError

__all__ = ["main", "serve"]

log = logging.getLogger("isocenter.worker")

_NOTE_WITHIN_S = 2.0
_STOP = (signal.SIGTERM, signal.SIGINT)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m isocenter.worker")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--name", help="instead of worker.name")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("isocenter").setLevel(logging.INFO)
    try:
        serve(_named(Settings.load(arguments.config), arguments.name))
    except IsocenterError as error:
        log.error("%s", error)
        return 1
    return 0


def serve(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT. What is then unfinished is taken up at the next start.

    Raises ConfigurationError where another worker has this one's name.
    """
    # Holoscan handles these signals by ending the graph early, which would look like a result with nothing in
    # it. Blocked in every thread they reach no handler, only the thread that waits for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)
    on_leave: list[Callable[[], None]] = []
    waiting = threading.Thread(
        target=_leave_when_told, args=(settings, on_leave), name="signals", daemon=True
    )
    waiting.start()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    keep_little()
    _warm_up(settings)
    if settings.worker.memory_limit_mb is not None:
        from isocenter.worker.memory import limit_memory

        limit_memory(settings)
    _clear_abandoned(settings)
    _launch(settings, on_leave)
    announce(settings)
    threading.Thread(target=_load_models, args=(settings,), name="models", daemon=True).start()
    log.info("ready")
    waiting.join()


def _named(settings: Settings, name: str | None) -> Settings:
    if name is None:
        return settings
    return settings.model_copy(update={"worker": settings.worker.model_copy(update={"name": name})})


def _leave_when_told(settings: Settings, on_leave: Sequence[Callable[[], None]]) -> None:
    signal.sigwait(_STOP)
    withdraw(settings)
    # A graph can not be interrupted: leaving now is as safe as a crash, which the queue is made for. That it was no
    # crash is noted if the database lets us at once.
    noting = threading.Thread(target=_note, args=(on_leave,), daemon=True)
    noting.start()
    noting.join(_NOTE_WITHIN_S)
    os._exit(0)


def _note(on_leave: Sequence[Callable[[], None]]) -> None:
    for each in on_leave:
        try:
            each()
        except SQLAlchemyError as error:
            log.warning("that this worker leaves could not be noted: %s", type(error).__name__)


def _warm_up(settings: Settings) -> None:
    """Import what costs seconds before the first job comes. A broken application fails its own jobs only."""
    from isocenter.worker import runner

    for app in Catalog.of(settings).sound(lambda error: log.error("%s", error)):
        try:
            runner.load(app)
        except ConfigurationError as error:
            log.error("%s", error)
    # What was imported stays: without this, each full collection walks all of it in the middle of a job.
    gc.collect()
    gc.freeze()


def _load_models(settings: Settings) -> None:
    """So that no study waits for it; what can not be loaded now is asked for again by the next job of it."""
    try:
        apps = Catalog.of(settings).sound()
    except ConfigurationError as error:  # each job says so too
        log.warning("no model is loaded in advance: %s", error)
        return
    for app in apps:
        try:
            load_missing(settings, app.models)
        except IsocenterError as error:
            log.warning("%s: %s", app.name, error)


def _clear_abandoned(settings: Settings) -> None:
    from isocenter.worker.run_folder import clear_abandoned

    try:
        clear_abandoned(settings)
    except OSError as error:
        log.warning("what an earlier run left stays for now: %s: %s", error.filename, error.strerror)


def _launch(settings: Settings, on_leave: list[Callable[[], None]]) -> None:
    from dbos import DBOS

    from isocenter.jobs import SERVICE, serializer
    from isocenter.worker import shadowing
    from isocenter.worker.attempt import Work, register

    prepare(settings)
    shared = not settings.database.startswith("sqlite")
    # What a lost worker had begun is taken up by the next of its name. A SQLite database has one worker at a time, so
    # there the next one, whatever it is called.
    executor = settings.worker.name if shared else SERVICE
    DBOS(
        config={
            "name": SERVICE,
            "system_database_url": settings.database,
            "serializer": serializer(),
            # Constant: an update of Isocenter must find the jobs that were queued before it.
            "application_version": "1",
            "executor_id": executor,
            "log_level": "WARNING",
            "enable_otlp": False,
        }
    )
    try:
        work = Work.of(settings, _life(), executor)
        attendance = Attendance(settings, DBOS._recover_pending_workflows) if shared else None
        if attendance is not None:
            attendance.arrive()
            on_leave.append(attendance.leave)
    except SQLAlchemyError as error:
        raise database_error(settings, error) from error
    # In this order: nothing is begun any more, what was begun is let go, and only then others may take it.
    on_leave[:0] = [work.gate.close, lambda: work.ledger.let_go(settings.worker.name)]
    on_leave.append(work.spares.close)
    register(work)
    shadowing.register(settings, work.jobs, work.gate, work.inference)
    DBOS.launch()
    served = _serve_queues(settings)
    shadowing.listen(settings)
    work.strays.start()
    if attendance is not None:
        attendance.start()
        start_sweeping(settings)
    Heartbeat(settings, [SHADOWS, *served]).start()


def _serve_queues(settings: Settings) -> list[str]:
    """Their names."""
    from dbos import DBOS

    served = queues(Catalog.of(settings).sound(), [each.name for each in DBOS.list_queues()], settings.worker)
    for queue in served:
        DBOS.register_queue(
            queue.name,
            worker_concurrency=queue.in_worker,
            global_concurrency=queue.at_once,
            polling_interval_sec=POLL_S,
            on_conflict="always_update",
        )
    return [queue.name for queue in served]


def _life() -> str:
    """What the workers of one stack have in common, and those of its next start have not."""
    return os.environ.get("ISOCENTER_STACK") or f"{socket.gethostname()}/{_starter()}"


def _starter() -> str:
    """Who starts this worker again when it has died: its parent, as long as that lives.

    A container's first process has none that it can see. What starts that again is there as long as the machine is up.
    """
    try:
        parent = psutil.Process(os.getppid())
        return f"{parent.pid}/{parent.create_time():.2f}"
    except psutil.Error:
        return f"0/{psutil.boot_time():.0f}"
