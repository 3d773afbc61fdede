"""What the service sees to, unasked, as long as it runs: superseded results, old records, old folders."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sqlalchemy.exc import SQLAlchemyError

from isocenter.cleaning import Cleaning
from isocenter.database import database_error
from isocenter.gone_studies import AT_MOST, GoneStudies
from isocenter.jobs import Jobs
from isocenter.onward import Outbox
from isocenter.replacement import Replacement
from isocenter.settings import Settings
from isocenter.surprise import log_way, where
from isocenter.telling import Telling
from isocenter_operators.errors import IsocenterError

__all__ = ["Housekeeping"]

log = logging.getLogger("isocenter.housekeeping")

_REPLACE_EVERY_S = 1.0
_CLEAN_EVERY_S = 600.0
_FORGET_FIRST_S = 3600.0  # when the archive was compared with what is known of it
_FORGET_EVERY_S = 86400.0
_AFTER_TROUBLE_S = 5.0


class Housekeeping:
    """A thread. What fails is logged once, and tried again."""

    def __init__(self, settings: Settings, jobs: Jobs) -> None:
        self._settings = settings
        self._jobs = jobs
        self._replacement = Replacement(settings)
        self._telling = Telling(settings, jobs)
        self._stop = threading.Event()
        self._trouble: dict[str, str] = {}
        self._clean_at = time.monotonic()
        self._forget_at = time.monotonic() + _FORGET_FIRST_S
        self._thread = threading.Thread(target=self._work, name="housekeeping", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _work(self) -> None:
        pause_s = 0.0
        while not self._stop.wait(pause_s):
            well = self._done("superseded results", self._replacement.settle)
            well &= self._done("notes on how jobs ended", self._telling.settle)
            if time.monotonic() >= self._clean_at:
                self._clean_at = time.monotonic() + _CLEAN_EVERY_S
                well &= self._done("old jobs", self._clean)
            if time.monotonic() >= self._forget_at:
                self._forget_at = time.monotonic() + _FORGET_EVERY_S
                well &= self._done("studies that are gone", self._forget)
            pause_s = _REPLACE_EVERY_S if well else _AFTER_TROUBLE_S

    def _clean(self) -> None:
        before = datetime.now(UTC) - timedelta(days=self._settings.limits.jobs_kept_days)
        Cleaning(self._settings).sweep()
        self._jobs.forget(before)
        self._jobs.mend()
        Outbox(self._settings.database).forget(before)

    def _forget(self) -> None:
        if GoneStudies(self._settings, self._jobs).forget() >= AT_MOST:
            self._forget_at = time.monotonic() + _CLEAN_EVERY_S

    def _done(self, what: str, do: Callable[[], object]) -> bool:
        """Whether it could be done; where not, the reason is logged once."""
        try:
            do()
            reason = ""
        except IsocenterError as error:
            reason = str(error)
        except SQLAlchemyError as error:
            reason = str(database_error(self._settings, error))
        except Exception as error:  # noqa: BLE001 - told, and tried again: it ends with the process only
            log_way(log, error)
            reason = f"an unexpected {where(error)}"
        if reason and reason != self._trouble.get(what):
            log.warning("%s: %s; trying again", what, reason)
        self._trouble[what] = reason
        return not reason
