"""The jobs' folders of a worker whose data folder the gateway does not see: on another machine, in another pod."""

from __future__ import annotations

import logging
import threading
from typing import NoReturn

from sqlalchemy.exc import SQLAlchemyError

from isocenter.cleaning import Cleaning
from isocenter.database import database_error
from isocenter.settings import Settings

__all__ = ["start_sweeping"]

log = logging.getLogger("isocenter.worker")

_EVERY_S = 600.0


def start_sweeping(settings: Settings) -> None:
    """Sweep now and then from a thread, as long as the process lives. Where others sweep too, what is gone is gone."""
    threading.Thread(target=_work, args=(settings,), name="sweeping", daemon=True).start()


def _work(settings: Settings) -> NoReturn:
    pause = threading.Event()
    while True:
        try:
            Cleaning(settings).sweep()
        except SQLAlchemyError as error:
            log.warning("old jobs' folders stay for now: %s", database_error(settings, error))
        except OSError as error:
            log.warning("old jobs' folders stay for now: %s: %s", error.filename, error.strerror)
        pause.wait(_EVERY_S)
