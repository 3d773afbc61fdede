"""Studies that the archive has not held for a long time are forgotten, or the database would grow for ever.

What is known of a study that the archive holds is never deleted: without it the next comparison would take the study
for a new one, and do its work again. A study that is sent again after it was forgotten is done as any new one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from itertools import chain

from isocenter.arrivals import Arrivals
from isocenter.jobs import Jobs
from isocenter.ledger import Ledger
from isocenter.settings import Settings

__all__ = ["AT_MOST", "GoneStudies"]

log = logging.getLogger("isocenter.cleaning")

_DAY_S = 86400.0
_AT_ONCE = 500
AT_MOST = 200  # forgotten at one look, some 40 ms each: others wait for the same thread


class GoneStudies:
    """What is known of studies, in the queue's own database: their jobs, what they were told, what was decided."""

    def __init__(self, settings: Settings, jobs: Jobs) -> None:
        self._settings = settings
        self._jobs = jobs

    def forget(self, now: float | None = None) -> int:
        """Forget the studies that were found gone `limits.gone_studies_kept_days` ago and at each look since; how many,
        `AT_MOST` at once.

        `now`: seconds since 1970. Something that still waits, runs or is to be settled keeps all of its study. Errors
        are SQLAlchemy's, and Unavailable.
        """
        now = time.time() if now is None else now
        limits = self._settings.limits
        gone_before = now - limits.gone_studies_kept_days * _DAY_S
        ended_before = now - max(limits.gone_studies_kept_days, limits.jobs_kept_days) * _DAY_S
        arrivals, ledger = Arrivals(self._settings.database), Ledger(self._settings.database)
        forgotten = 0
        for studies in chain(
            _pages(lambda after: ledger.ended_studies(now, after, _AT_ONCE)),
            _pages(lambda after: arrivals.judged_and_gone(after, _AT_ONCE)),
        ):
            gone = arrivals.gone_since(studies, now)
            for study_uid in (uid for uid, since in gone.items() if since < gone_before):
                if forgotten < AT_MOST and self._jobs.forget_study(study_uid, ended_before):
                    arrivals.forget_study(study_uid)
                    forgotten += 1
        if forgotten:
            log.info("%d studies that the archive does not hold any more were forgotten", forgotten)
        return forgotten


def _pages(ask: Callable[[str], list[str]]) -> Iterator[list[str]]:
    """`ask`: for the UIDs behind this one, in order; some of them."""
    after = ""
    while page := ask(after):
        yield page
        after = page[-1]
