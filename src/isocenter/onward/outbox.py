"""The outbox: every delivery that is to be made, or was, in the one database."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from isocenter.database import alone, engine
from isocenter.ledger_entry import Entry
from isocenter.notices import Notice
from isocenter.onward.delivery import Delivery, DeliveryState, What
from isocenter.peer import Peer, WebhookPeer

__all__ = ["Counts", "Outbox"]

_tables = sa.MetaData()
_delivery = sa.Table(
    "isocenter_delivery",
    _tables,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),  # the order within a study
    sa.Column("key", sa.String, nullable=False, unique=True),
    sa.Column("destination", sa.String, nullable=False),
    sa.Column("study_uid", sa.String, nullable=False),
    sa.Column("job_id", sa.String, nullable=False, index=True),
    sa.Column("what", sa.String, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("refusals", sa.Integer, nullable=False),
    sa.Column("failing_since", sa.Float),  # seconds since 1970, as all times here
    sa.Column("next_at", sa.Float, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("ended", sa.Float),
    sa.Column("instances", sa.String, nullable=False),  # JSON
    sa.Column("news", sa.String, nullable=False),  # JSON
    sa.Index("isocenter_delivery_order", "destination", "state", "study_uid", "id"),
    sqlite_autoincrement=True,  # the number of a deleted row is not given again
)

_LOCK = 0x150CE280  # of PostgreSQL's advisory locks, the outbox's own
_UIDS = ("study_uid", "series_uid", "sop_instance_uid", "sop_class_uid", "modality")


@dataclass(frozen=True)
class Counts:
    """How one destination stands. `reason` is why the newest of its attempts failed, "" when nothing waits for it."""

    waiting: int = 0
    failed: int = 0
    failing_since: float | None = None  # seconds since 1970; None: nothing that waits has failed yet
    reason: str = ""

    def as_json(self) -> dict[str, Any]:
        since = self.failing_since
        return {
            "waiting": self.waiting,
            "failed": self.failed,
            "failing_since": None if since is None else _moment(since),
            "reason": self.reason,
        }


class Outbox:
    """The table, in the queue's own database. Errors are SQLAlchemy's. Safe to use from several threads.

    `peers` says what kind each destination is of; only `post` asks for it.
    """

    def __init__(self, database: str, peers: Mapping[str, Peer] | None = None) -> None:
        self._engine = engine(database)
        self._peers = dict(peers or {})
        with alone(self._engine, _LOCK) as connection:
            _tables.create_all(connection)

    def post(self, entry: Entry, reason: str = "") -> set[str]:
        """Note what each destination is to be told of a job that has ended, and give those that something is new for.

        The same entry changes nothing when it is posted again. `reason` is why the job ended as it did.
        """
        with alone(self._engine, _LOCK) as connection:
            return {name for name in entry.destinations if self._post_to(connection, name, entry, reason)}

    def post_note(self, notice: Notice, destinations: Sequence[str]) -> set[str]:
        """Note what each destination is to get of a note in the archive, or of its being not valid any more."""
        with alone(self._engine, _LOCK) as connection:
            return {name for name in destinations if self._post_note_to(connection, name, notice)}

    def due(self, destination: str, now: float) -> Delivery | None:
        """What is to be sent next: of each study its oldest only, and of those whichever has waited longest."""
        earlier = _delivery.alias("earlier")
        is_behind = (
            sa.select(earlier.c.id)
            .where(
                earlier.c.destination == destination,
                earlier.c.state == "waiting",
                earlier.c.study_uid == _delivery.c.study_uid,
                earlier.c.id < _delivery.c.id,
            )
            .exists()
        )
        waits = (_delivery.c.destination == destination) & (_delivery.c.state == "waiting")
        query = (
            sa.select(_delivery)
            .where(waits, _delivery.c.next_at <= now, ~is_behind)
            .order_by(_delivery.c.next_at, _delivery.c.id)
            .limit(1)
        )
        found = self._select(query)
        return found[0] if found else None

    def begin(self, delivery: Delivery, next_at: float) -> bool:
        """An attempt begins; False when the delivery was dropped meanwhile. `next_at`: of the next one, if this is
        never heard of again."""
        changed = self._change(
            delivery, only_waiting=True, attempts=_delivery.c.attempts + 1, next_at=next_at
        )
        return changed == 1

    def sent(self, delivery: Delivery) -> None:
        """It has arrived, even if it was dropped at the last moment."""
        self._change(delivery, state="sent", reason="", failing_since=None, ended=time.time())

    def later(self, delivery: Delivery, reason: str, next_at: float, *, refused: bool) -> None:
        """The attempt failed, and there is to be another one."""
        self._change(
            delivery,
            only_waiting=True,
            reason=reason,
            next_at=next_at,
            failures=delivery.failures + 1,
            refusals=delivery.refusals + refused,
            failing_since=delivery.failing_since or time.time(),
        )

    def fail(self, delivery: Delivery, reason: str) -> None:
        """No more attempts, unless a person asks for it."""
        self._change(delivery, only_waiting=True, state="failed", reason=reason, ended=time.time())

    def retry(self, job_id: str) -> int:
        """Send what has failed of this job again, and give how many deliveries that are."""
        failed = (_delivery.c.job_id == job_id) & (_delivery.c.state == "failed")
        with self._engine.begin() as connection:
            return connection.execute(
                sa.update(_delivery).where(failed).values(**_UNTRIED, next_at=time.time())
            ).rowcount

    def of_job(self, job_id: str) -> list[Delivery]:
        """Every delivery of one job, oldest first."""
        return self._select(sa.select(_delivery).where(_delivery.c.job_id == job_id).order_by(_delivery.c.id))

    def counts(self) -> dict[str, Counts]:
        """How each destination stands that something waits for or has failed at."""
        open_states = _delivery.c.state.in_(["waiting", "failed"])
        grouped = (
            sa.select(
                _delivery.c.destination,
                _delivery.c.state,
                sa.func.count().label("count"),
                sa.func.min(_delivery.c.failing_since).label("since"),
            )
            .where(open_states)
            .group_by(_delivery.c.destination, _delivery.c.state)
        )
        with self._engine.connect() as connection:
            rows = connection.execute(grouped).mappings().all()
            names = sorted({str(row["destination"]) for row in rows})
            reasons = {name: _last_reason(connection, name) for name in names}
        by = {(row["destination"], row["state"]): row for row in rows}
        return {name: _counts(by, name, reasons[name]) for name in names}

    def forget(self, before: datetime) -> int:
        """Delete what was sent, failed or dropped before this time, and give how many deliveries that were."""
        over = (_delivery.c.state != "waiting") & (_delivery.c.ended < before.timestamp())
        with self._engine.begin() as connection:
            return connection.execute(sa.delete(_delivery).where(over)).rowcount

    def _post_to(self, connection: sa.Connection, destination: str, entry: Entry, reason: str) -> bool:
        """Whether there is something new for this destination."""
        told = isinstance(self._peers.get(destination), WebhookPeer)
        what = _what(entry, told=told)
        key = _key(destination, entry, what)
        if not told:
            _drop_outdated(connection, destination, entry, but=key)
            if what == "superseded" and not _may_have_results(connection, destination, entry):
                return False
        if (
            what is None
            or connection.execute(sa.select(_delivery.c.id).where(_delivery.c.key == key)).first()
        ):
            return False
        news = _news(entry, reason, _replaced_by(connection, destination, entry))
        instances = () if told else _instances(entry, what)
        _add(connection, entry, destination, key=key, what=what, instances=instances, news=news)
        return True

    def _post_note_to(self, connection: sa.Connection, destination: str, notice: Notice) -> bool:
        """Whether there is something new for this destination. A webhook is told of the job itself."""
        if isinstance(self._peers.get(destination), WebhookPeer):
            return False
        valid = notice.withdrawn_by is None
        what: What = "note" if valid else "note_withdrawn"
        key, told = _note_key(destination, notice, what), _note_key(destination, notice, "note")
        _drop_note(connection, destination, notice)
        attempts = connection.execute(
            sa.select(_delivery.c.attempts).where(_delivery.c.key == told)
        ).scalar_one_or_none()
        instances = notice.instances if valid else notice.marks
        if not instances or (not valid and attempts == 0):
            return False  # there is nothing to send, or the destination never got what is not valid any more
        known: str | None = connection.execute(
            sa.select(_delivery.c.state).where(_delivery.c.key == key)
        ).scalar_one_or_none()
        if known == "dropped":  # it was not how the note stood, and is again
            again = {**_UNTRIED, "next_at": time.time()}
            connection.execute(sa.update(_delivery).where(_delivery.c.key == key).values(**again))
        if known is not None:
            return known == "dropped"
        _add(connection, notice, destination, key=key, what=what, instances=instances, news={})
        return True

    def _change(self, delivery: Delivery, *, only_waiting: bool = False, **values: Any) -> int:
        this = _delivery.c.id == delivery.id
        if only_waiting:
            this &= _delivery.c.state == "waiting"
        with self._engine.begin() as connection:
            return connection.execute(sa.update(_delivery).where(this).values(**values)).rowcount

    def _select(self, query: sa.Select[Any]) -> list[Delivery]:
        with self._engine.connect() as connection:
            return [_read(row) for row in connection.execute(query).mappings()]


_UNTRIED: Mapping[str, Any] = {
    "state": "waiting",
    "failures": 0,
    "refusals": 0,
    "failing_since": None,
    "reason": "",
    "ended": None,
}


def _add(
    connection: sa.Connection,
    of: Entry | Notice,
    destination: str,
    *,
    key: str,
    what: What,
    instances: Sequence[Mapping[str, str]],
    news: Mapping[str, Any],
) -> None:
    now = time.time()
    connection.execute(
        sa.insert(_delivery).values(
            **_UNTRIED,
            key=key,
            destination=destination,
            study_uid=of.study_uid,
            job_id=of.job_id,
            what=what,
            attempts=0,
            next_at=now,
            created=now,
            instances=json.dumps([_uids(each) for each in instances]),
            news=json.dumps(news),
        )
    )


def _what(entry: Entry, *, told: bool) -> What | None:
    """What a destination gets of this job as it stands; `told`: it is a webhook, which gets every outcome."""
    if entry.superseded_by is not None:
        # Without a mark in the archive there is nothing that says so in DICOM.
        return "superseded" if told or entry.marks else None
    if told:
        return "outcome"
    return "results" if entry.state == "done" and entry.results else None


def _instances(entry: Entry, what: What) -> tuple[Mapping[str, str], ...]:
    return {"results": entry.results, "superseded": entry.marks}.get(what, ())


def _key(destination: str, entry: Entry, what: What | None) -> str:
    """A job that is run again ends at another time; it may be superseded again, by another one, and current again."""
    occasion = f"{entry.ended or 0:.6f}\n{entry.superseded_by or ''}"
    if entry.revivals:
        occasion += f"\n{entry.revivals}"
    text = f"{destination}\n{entry.job_id}\n{what}\n{occasion}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _drop_outdated(connection: sa.Connection, destination: str, entry: Entry, *, but: str) -> None:
    """What has not been sent, and is no more how this job stands, never will be."""
    outdated = (
        (_delivery.c.destination == destination)
        & (_delivery.c.job_id == entry.job_id)
        & _delivery.c.what.in_(["results", "superseded"])
        & _delivery.c.state.in_(["waiting", "failed"])
    )
    if entry.superseded_by is not None:
        reason = f"superseded by job {entry.superseded_by[:12]} before it was sent"
    else:
        reason = f"the job was run again before it was sent, and ended as {entry.state}"
    values = {"state": "dropped", "reason": reason, "ended": time.time()}
    connection.execute(sa.update(_delivery).where(outdated, _delivery.c.key != but).values(**values))


def _note_key(destination: str, notice: Notice, what: What) -> str:
    by = notice.withdrawn_by if what == "note_withdrawn" else None
    text = f"{destination}\n{notice.job_id}\n{what}\n{notice.attempt}\n{by or ''}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _drop_note(connection: sa.Connection, destination: str, notice: Notice) -> None:
    """What has not been sent of this job's note, and is no more how it stands, never will be."""
    outdated: sa.ColumnElement[bool] = _delivery.c.destination == destination
    outdated &= _delivery.c.job_id == notice.job_id
    if notice.withdrawn_by is None:
        outdated &= _delivery.c.what == "note_withdrawn"
        reason = "the note is valid again"
    else:
        outdated &= _delivery.c.key == _note_key(destination, notice, "note")
        reason = f"not valid any more since job {notice.withdrawn_by[:12]} ended"
    values = {"state": "dropped", "reason": reason, "ended": time.time()}
    unsent = _delivery.c.state.in_(["waiting", "failed"])
    connection.execute(sa.update(_delivery).where(outdated, unsent).values(**values))


def _may_have_results(connection: sa.Connection, destination: str, entry: Entry) -> bool:
    """Whether the destination has got any result of this job, as far as is known: old deliveries are forgotten."""
    results = (
        (_delivery.c.destination == destination)
        & (_delivery.c.job_id == entry.job_id)
        & (_delivery.c.what == "results")
    )
    attempts = connection.execute(sa.select(_delivery.c.attempts).where(results)).scalars().all()
    return not attempts or any(attempts)


def _replaced_by(connection: sa.Connection, destination: str, entry: Entry) -> str | None:
    """The job that has superseded this one, by what the destination was told last; None where it has run since."""
    of_it = (_delivery.c.destination == destination) & (_delivery.c.job_id == entry.job_id)
    newest = sa.select(_delivery.c.news).where(of_it).order_by(_delivery.c.id.desc()).limit(1)
    told = json.loads(connection.execute(newest).scalar() or "{}")
    return told["superseded_by"] if told.get("ended") == _moment(entry.ended or 0) else None


def _news(entry: Entry, reason: str, replaced_by: str | None) -> dict[str, Any]:
    """What a webhook is told: UIDs and words of ours, nothing of the patient. `replaced_by`: as it was told before."""
    superseded = entry.superseded_by is not None
    event = "superseded" if superseded else "current" if replaced_by else entry.state
    if event == "current":
        reason = f"job {replaced_by}, which had superseded it, was run again and gave no result"
    return {
        "event": event,
        "job_id": entry.job_id,
        "application": entry.application,
        "route": entry.route,
        "study_uid": entry.study_uid,
        "state": entry.state,
        "reason": f"superseded by job {entry.superseded_by}" if superseded else reason,
        "superseded_by": entry.superseded_by,
        "ended": _moment(entry.ended or 0),
        "results": [_uids(each) for each in entry.results] if entry.state == "done" else [],
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _uids(instance: Mapping[str, str]) -> dict[str, str]:
    return {name: instance[name] for name in _UIDS if name in instance}


def _last_reason(connection: sa.Connection, destination: str) -> str:
    """Why the newest attempt failed, of those that something still waits for; else why the last one was given up."""
    query = sa.select(_delivery.c.reason).where(
        _delivery.c.destination == destination, _delivery.c.reason != ""
    )
    waiting = query.where(_delivery.c.state == "waiting").order_by(_delivery.c.next_at.desc()).limit(1)
    failed = query.where(_delivery.c.state == "failed").order_by(_delivery.c.ended.desc()).limit(1)
    return connection.execute(waiting).scalar() or connection.execute(failed).scalar() or ""


def _counts(by: Mapping[tuple[str, DeliveryState], sa.RowMapping], name: str, reason: str) -> Counts:
    waiting, failed = by.get((name, "waiting")), by.get((name, "failed"))
    return Counts(
        waiting=waiting["count"] if waiting else 0,
        failed=failed["count"] if failed else 0,
        failing_since=waiting["since"] if waiting else None,
        reason=reason,
    )


def _read(row: sa.RowMapping) -> Delivery:
    content = {name: row[name] for name in Delivery.__dataclass_fields__}
    return Delivery(
        **{**content, "instances": tuple(json.loads(row["instances"])), "news": json.loads(row["news"])}
    )
