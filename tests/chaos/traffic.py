"""Studies that arrive as the run goes on: each after so many faults, so that no fault hits a service at rest."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from sqlalchemy.exc import SQLAlchemyError

from chaos.modality import KINDS, LATE_KINDS, Archive, Study, study
from chaos.site import Site
from isocenter.ledger import Ledger

__all__ = ["Progress", "Traffic"]

_SCANNERS = 12  # studies that are being sent at once
_EARLY = LATE_KINDS | {"poison"}


class Progress:
    """How many faults are over."""

    def __init__(self) -> None:
        self._over = 0.0
        self._changed = threading.Condition()

    def step(self) -> None:
        with self._changed:
            self._over += 1
            self._changed.notify_all()

    def finish(self) -> None:
        """Nobody has to wait any more."""
        with self._changed:
            self._over = float("inf")
            self._changed.notify_all()

    def wait(self, faults: float) -> None:
        """Until so many are over."""
        with self._changed:
            self._changed.wait_for(lambda: self._over >= faults)


class Traffic:
    """Scanners that send their studies, each at its moment. `sent`: all studies, those yet to come too."""

    def __init__(self, site: Site, studies: int, faults: int, seed: int) -> None:
        self.progress = Progress()
        self.archive = Archive(site.archive_url, site.archive_dicom_port, done=self._done)
        self._ledger = Ledger(site.settings.database)
        self._run = f"{seed}"
        self._rng = random.Random(seed)
        self._faults = faults
        self._numbers = itertools.count(studies)
        self._pool = ThreadPoolExecutor(_SCANNERS)
        self._urgent = ThreadPoolExecutor(3)  # all threads of the other may wait
        self._sending: list[Future[None]] = []
        self._adding = threading.Lock()
        self.sent = [self._study(number) for number in range(studies)]
        self.more = 0  # studies for faults that nothing would have met

    def start(self) -> None:
        for due, each in sorted(self._moments(), key=lambda moment: moment[0]):
            rng = random.Random(self._rng.randrange(1 << 30))
            self._sending.append(self._pool.submit(self._send, each, rng, due))

    def another(self) -> None:
        """One more plain study arrives, at once."""
        with self._adding:
            each = study("plain", next(self._numbers), self._rng, self._run)
            self.sent.append(each)
            self.more += 1
            rng = random.Random(self._rng.randrange(1 << 30))
            self._sending.append(self._urgent.submit(self.archive.send, each, rng))

    def wait(self) -> None:
        for each in self._sending:
            each.result()
        self._pool.shutdown()
        self._urgent.shutdown()

    def abandon(self) -> None:
        """Whatever has not been sent never will be: the run has failed."""
        self.archive.over.set()
        for pool in (self._pool, self._urgent):
            pool.shutdown(wait=False, cancel_futures=True)

    def _study(self, number: int) -> Study:
        return study(KINDS[number % len(KINDS)], number, self._rng, self._run)

    def _moments(self) -> list[tuple[float, Study]]:
        """After how many faults each study comes.

        Those of which more will come later begin in the first third, or they would wait behind all that the faults
        leave behind; so do those that kill a worker twice, which takes long. The others come until the last fault.
        """
        early = [each for each in self.sent if each.kind in _EARLY]
        others = [each for each in self.sent if each.kind not in _EARLY]
        self._rng.shuffle(others)
        return [*_spread(early, self._faults / 3), *_spread(others, self._faults - 1)]

    def _send(self, study: Study, rng: random.Random, due: float) -> None:
        self.progress.wait(due)
        time.sleep(rng.uniform(0, 1))
        self.archive.send(study, rng)

    def _done(self, study_uid: str, application: str) -> str | None:
        try:
            entries = self._ledger.of_study(study_uid)
        except SQLAlchemyError:
            return None
        done = [each.job_id for each in entries if each.application == application and each.state == "done"]
        return done[-1] if done else None


def _spread(studies: Sequence[Study], faults: float) -> list[tuple[float, Study]]:
    step = faults / max(1, len(studies) - 1)
    return [(int(index * step), each) for index, each in enumerate(studies)]
