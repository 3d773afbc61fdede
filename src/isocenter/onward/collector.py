"""Brings outcomes from the ledger, and the notes on them, into the outbox."""

from __future__ import annotations

import time
from typing import Protocol

from isocenter.job import Job
from isocenter.ledger import Ledger
from isocenter.ledger_entry import Entry
from isocenter.notices import Notices
from isocenter.onward.outbox import Outbox
from isocenter.peer import WebhookPeer
from isocenter.settings import Settings

__all__ = ["Collector"]

_REASON_WITHIN_S = 30.0  # the ledger says that a job has ended a moment before the queue says why


class _Shows(Protocol):
    def show(self, job_id: str) -> Job | None: ...


class Collector:
    """Errors are SQLAlchemy's, and Unavailable."""

    def __init__(
        self, settings: Settings, ledger: Ledger, notices: Notices, outbox: Outbox, jobs: _Shows
    ) -> None:
        self._webhooks = {name for name, peer in settings.peers.items() if isinstance(peer, WebhookPeer)}
        self._ledger = ledger
        self._notices = notices
        self._outbox = outbox
        self._jobs = jobs

    def collect(self) -> set[str]:
        """Post what has ended since, and give the destinations that something is new for."""
        news: set[str] = set()
        held: set[str] = set()
        # New results go first, and only then the word that they replace others.
        for entry in sorted(self._ledger.to_post(), key=lambda entry: entry.superseded_by is not None):
            reason = self._reason(entry)
            if reason is None or entry.study_uid in held:
                held.add(entry.study_uid)  # nothing of a study overtakes what came before
                continue
            news |= self._outbox.post(entry, reason)
            self._ledger.posted(entry)
        return news | self._collect_notes(held)

    def _collect_notes(self, held: set[str]) -> set[str]:
        """Notes follow the results that they may speak of."""
        news: set[str] = set()
        for notice in self._notices.to_post():
            if notice.study_uid in held:
                continue
            entry = self._ledger.entry(notice.job_id)
            if entry is not None:
                news |= self._outbox.post_note(notice, entry.destinations)
            self._notices.posted(notice)
        return news

    def _reason(self, entry: Entry) -> str | None:
        """Why the job ended as it did; None while that is not known yet."""
        if entry.state == "done" or not self._webhooks.intersection(entry.destinations):
            return ""
        job = self._jobs.show(entry.job_id)
        reason = job.reason if job is not None and job.state == entry.state else entry.cancelled or ""
        late = time.time() - (entry.ended or 0) > _REASON_WITHIN_S
        return reason if reason or late else None
