"""A courier: sends what is due to one destination, and waits while that is away."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy.exc import SQLAlchemyError

from isocenter.database import database_error
from isocenter.onward.delivery import Delivery
from isocenter.onward.instance import fetch
from isocenter.onward.outbox import Outbox
from isocenter.onward.sender import Sender, sender_to
from isocenter.pacs import dicomweb_of
from isocenter.settings import Settings
from isocenter.surprise import log_way, where
from isocenter_operators.dicom.results.profile import profile_of
from isocenter_operators.errors import ConfigurationError, IsocenterError, Unavailable

__all__ = ["DATABASE_AWAY_S", "Courier", "Patience", "told"]

log = logging.getLogger("isocenter.onward")

DATABASE_AWAY_S = 5.0


@dataclass(frozen=True)
class Patience:
    """How often the outbox is looked into, and a destination is tried; in seconds."""

    look_s: float = 1.0  # for what another process has changed there
    first_s: float = 1.0  # after the first failure; doubled after each
    longest_s: float = 300.0
    give_up_s: float = 7 * 24 * 3600.0  # after the first failure of a delivery
    refusals: int = 5  # of one delivery, then it has failed

    def wait_s(self, failures: int) -> float:
        """Until the next attempt, after so many failures."""
        return min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 30))


class Courier:
    """The work of one thread. `opened` gives the outbox; the courier fetches into `spool`, and ends with `stop`."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        *,
        opened: Callable[[], Outbox],
        stop: threading.Event,
        spool: Path,
        patience: Patience,
    ) -> None:
        self.wake = threading.Event()
        self._name = name
        self._settings = settings
        self._profile = profile_of(settings.profile_of_peer(name) or "any")
        self._opened = opened
        self._stop = stop
        self._spool = spool
        self._patience = patience
        self._failures = 0  # in a row, of whatever delivery
        self._trouble = ""

    def work(self) -> None:
        """Send what is due until told to stop. What fails is logged once, and tried again."""
        sender: Sender | None = None
        while not self._stop.is_set():
            self.wake.clear()
            pause_s = 0.0
            try:
                outbox = self._opened()
                sender = sender or sender_to(self._settings.peers[self._name], self._settings)
                delivery = outbox.due(self._name, time.time())
                if delivery is None:
                    self.wake.wait(self._patience.look_s)
                    continue
                pause_s = self._deliver(outbox, sender, delivery)
            except Exception as error:  # noqa: BLE001 - told, and tried again: it ends with the process only
                self._say(told(error, self._settings))
                pause_s = DATABASE_AWAY_S
            self._stop.wait(pause_s)

    def _deliver(self, outbox: Outbox, sender: Sender, delivery: Delivery) -> float:
        """One attempt; gives the seconds until the destination may be tried again."""
        # Whatever becomes of this process, a delivery that kills it is not tried without a pause.
        wait_s = self._patience.wait_s(delivery.failures + 1)
        if not outbox.begin(delivery, time.time() + wait_s):
            return 0.0
        try:
            self._send(sender, delivery)
        except (Unavailable, ConfigurationError) as error:
            return self._later(outbox, delivery, str(error))
        except OSError as error:  # of our own disk: each way of sending tells of its own trouble
            return self._later(outbox, delivery, f"{self._spool} can not be used: {error.strerror}")
        except IsocenterError as error:
            return self._refused(outbox, delivery, str(error))
        except Exception as error:  # noqa: BLE001 - recorded with the delivery: a strange one must not stop the rest
            log_way(log, error)
            return self._refused(outbox, delivery, f"an unexpected {where(error)}")
        outbox.sent(delivery)
        self._failures = 0
        self._say("")
        return 0.0

    def _send(self, sender: Sender, delivery: Delivery) -> None:
        if not delivery.instances:
            sender.send([], delivery)
            return
        wanted = [each for each in delivery.instances if self._profile.wants(each.get("sop_class_uid", ""))]
        if not wanted:
            return
        self._spool.mkdir(parents=True, exist_ok=True)
        with (
            TemporaryDirectory(dir=self._spool) as folder,
            dicomweb_of(self._settings.orthanc) as archive,
        ):
            sender.send(fetch(archive, wanted, Path(folder)), delivery)

    def _later(self, outbox: Outbox, delivery: Delivery, reason: str) -> float:
        """The destination is away, or our archive is: the next attempt is at whichever study waits the longest."""
        self._failures += 1
        self._say(reason)
        since = delivery.failing_since or time.time()
        if time.time() - since > self._patience.give_up_s:
            days = self._patience.give_up_s / (24 * 3600)
            outbox.fail(delivery, f"given up after {days:g} days: {reason}")
        else:
            next_at = time.time() + self._patience.wait_s(delivery.failures + 1)
            outbox.later(delivery, reason, next_at, refused=False)
        return self._patience.wait_s(self._failures)

    def _refused(self, outbox: Outbox, delivery: Delivery, reason: str) -> float:
        """This delivery is refused; others may not be."""
        if delivery.refusals + 1 >= self._patience.refusals:
            log.warning("%s: job %s: %s", self._name, delivery.job_id[:12], reason)
            outbox.fail(delivery, f"{reason} (tried {delivery.refusals + 1} times)")
        else:
            next_at = time.time() + self._patience.wait_s(delivery.failures + 1)
            outbox.later(delivery, reason, next_at, refused=True)
        return 0.0

    def _say(self, reason: str) -> None:
        if reason and reason != self._trouble:
            log.warning("%s: %s; trying again", self._name, reason)
        elif self._trouble and not reason:
            log.warning("%s: sending goes on", self._name)
        self._trouble = reason


def told(error: Exception, settings: Settings) -> str:
    """What went wrong, in one sentence for the log."""
    if isinstance(error, IsocenterError):
        return str(error)
    if isinstance(error, SQLAlchemyError):
        return str(database_error(settings, error))
    log_way(log, error)
    return f"an unexpected {where(error)}"
