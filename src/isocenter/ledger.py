"""The ledger: which job is the newest for its subject, and what became of the results of each.

The queue runs jobs; the ledger knows what belongs in the archive. A subject is what a job is about (an application on
a series, or a route on a study). Its newest job that has ended well is current; results of the earlier ones are
superseded, and those of a job that did not end well are withdrawn. Both are done by `isocenter.replacement`, again
and again until archive and ledger agree, so a crash at any moment changes nothing in the end.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from isocenter import notices
from isocenter.database import alone, engine, make_tables
from isocenter.job import JobSpec, State
from isocenter.ledger_entry import TO_BE_SETTLED, WAITING, Entry, entry_of, job_table, tables
from isocenter.route import OutcomeWanted, Superseded
from isocenter_operators.errors import Cancelled

__all__ = ["LATER", "Begun", "Ledger"]

LATER = "a later attempt does this"

_LOCK = 0x150CE27E  # of PostgreSQL's advisory locks, the ledger's own


@dataclass(frozen=True)
class Begun:
    """What a worker is told that begins a job.

    `cancelled` is why not to, `deaths` is how many workers it was fatal to, `restarts` how often the whole stack ended
    while it ran, and `wanted` is False when the job has ended already, or a later attempt does it.
    """

    cancelled: str | None
    deaths: int
    restarts: int = 0
    wanted: bool = True


class Ledger:
    """The table, in the queue's own database. Errors are SQLAlchemy's. Safe to use from several threads."""

    def __init__(self, database: str) -> None:
        self._engine = engine(database)
        self._notices = notices.Notices(database)
        with alone(self._engine, _LOCK) as connection:
            make_tables(connection, tables)
            make_tables(connection, notices.tables)

    def enter(self, spec: JobSpec, changed_at: float = 0.0) -> list[Entry]:
        """Make this job the newest of its subject, and give the earlier ones that are not over.

        A job that is known keeps what is known of it, and one that two routes ask for goes to the destinations of
        both, and leaves a note where either wants one. If it has ended, it is to be done again when it was not the
        newest any more, or ended before `changed_at` (when its images last changed, seconds since 1970): its results
        may be gone from the archive. So is one that was not the newest any more and is about to stop for that reason.
        """
        job_id = spec.identity.job_id
        with alone(self._engine, _LOCK) as connection:
            known = (
                connection.execute(sa.select(job_table).where(job_table.c.job_id == job_id))
                .mappings()
                .one_or_none()
            )
            subject = known["subject"] if known else spec.subject
            if known is None:
                connection.execute(
                    sa.insert(job_table).values(**_new(spec), generation=_following(connection))
                )
            else:
                wanted = sorted({*json.loads(known["destinations"]), *spec.destinations})
                changed: dict[str, Any] = {
                    "destinations": json.dumps(wanted),
                    **_told_more(dict(known), spec),
                }
                if changed["destinations"] != known["destinations"]:
                    changed["posted"] = False
                    notices.note_destinations(connection, job_id)
                is_newest = known["generation"] == _newest(connection, subject)
                if not is_newest:
                    changed |= {"generation": _following(connection), "superseded_by": None}
                over = known["state"] is not None
                stops = known["cancelled"] is not None
                if (over and (not is_newest or known["ended"] < changed_at)) or (stops and not is_newest):
                    changed |= {**_UNTRIED, "attempt": known["attempt"] + 1}
                connection.execute(sa.update(job_table).where(job_table.c.job_id == job_id).values(**changed))
            earlier = (
                (job_table.c.subject == subject)
                & (job_table.c.job_id != job_id)
                & job_table.c.state.is_(None)
            )
            return [
                entry_of(row) for row in connection.execute(sa.select(job_table).where(earlier)).mappings()
            ]

    def entry(self, job_id: str) -> Entry | None:
        entries = self._select(sa.select(job_table).where(job_table.c.job_id == job_id))
        return entries[0] if entries else None

    def entries(self, job_ids: Iterable[str]) -> dict[str, Entry]:
        """Those of these jobs that are known, by ID."""
        found = self._select(sa.select(job_table).where(job_table.c.job_id.in_(list(job_ids))))
        return {entry.job_id: entry for entry in found}

    def of_subject(self, subject: str) -> list[Entry]:
        """The jobs of one subject, oldest first."""
        return self._select(
            sa.select(job_table).where(job_table.c.subject == subject).order_by(job_table.c.generation)
        )

    def of_study(self, study_uid: str) -> list[Entry]:
        """The jobs of one study, oldest first."""
        return self._select(
            sa.select(job_table).where(job_table.c.study_uid == study_uid).order_by(job_table.c.generation)
        )

    def beginning_with(self, prefix: str) -> list[Entry]:
        """The jobs whose IDs begin like this, two at most. `prefix` is in hexadecimal digits."""
        after = prefix + "g"  # sorts behind every hexadecimal digit
        return self._select(
            sa.select(job_table).where(job_table.c.job_id >= prefix, job_table.c.job_id < after).limit(2)
        )

    def newest(self, limit: int, state: State | None = None, below: int | None = None) -> list[Entry]:
        """The newest jobs, newest first: all, or those in one state; `below` is a generation to read on from."""
        query = sa.select(job_table).order_by(job_table.c.generation.desc()).limit(limit)
        if below is not None:
            query = query.where(job_table.c.generation < below)
        if state in ("queued", "running"):
            works = job_table.c.worker.is_not(None) if state == "running" else job_table.c.worker.is_(None)
            query = query.where(job_table.c.state.is_(None), works)
        elif state is not None:
            query = query.where(job_table.c.state == state)
        return self._select(query)

    def renew(self, job_id: str) -> None:
        """A person asks for a job that has ended once more, as if it had never been tried: by its next attempt."""
        ended = (job_table.c.job_id == job_id) & job_table.c.state.is_not(None)
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(job_table)
                .where(ended)
                .values(**_UNTRIED, superseded_by=None, attempt=job_table.c.attempt + 1)
            )

    def waits(self, job_id: str, queue: str, rank: int, begins_at: float) -> None:
        """Where the job's newest attempt waits, and from when on it may begin."""
        self._set(job_id, queue=queue, rank=rank, begins_at=begins_at)

    def waits_before(self, queue: str, rank: int) -> bool:
        """Whether a job that is more urgent than this rank waits in this queue, and could begin."""
        first = sa.select(job_table.c.job_id).where(
            WAITING, job_table.c.queue == queue, job_table.c.rank < rank, job_table.c.begins_at <= time.time()
        )
        with self._engine.connect() as connection:
            return connection.execute(first.limit(1)).first() is not None

    def anything_waits(self) -> bool:
        """Whether any job could begin and has not begun."""
        ready = sa.select(job_table.c.job_id).where(WAITING, job_table.c.begins_at <= time.time())
        with self._engine.connect() as connection:
            return connection.execute(ready.limit(1)).first() is not None

    def depth(self) -> tuple[int, int]:
        """How many jobs could begin and have not begun, and how many run."""
        ready = WAITING & (job_table.c.begins_at <= time.time())
        running = job_table.c.state.is_(None) & job_table.c.worker.is_not(None)
        with self._engine.connect() as connection:
            waiting, at_work = (
                int(connection.execute(sa.select(sa.func.count()).where(which)).scalar_one())
                for which in (ready, running)
            )
        return waiting, at_work

    def cancel(self, job_id: str, reason: str) -> bool:
        """Ask for it to stop. False when it is storing its results already, or has ended."""
        stoppable = (job_table.c.job_id == job_id) & job_table.c.state.is_(None) & ~job_table.c.storing
        with self._engine.begin() as connection:
            stopped = connection.execute(sa.update(job_table).where(stoppable).values(cancelled=reason))
            waits, now = stoppable & job_table.c.worker.is_(None), time.time()
            ended = connection.execute(sa.update(job_table).where(waits).values(state="cancelled", ended=now))
            if ended.rowcount:
                _follow(connection, job_id, None, reason, now)
        return stopped.rowcount == 1

    def cancelled(self, job_id: str, attempt: int | None = None) -> str | None:
        """Why the job, or this attempt at it, should stop; None when it should not."""
        query = sa.select(job_table.c.cancelled, job_table.c.attempt).where(job_table.c.job_id == job_id)
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        if attempt not in (None, row.attempt):
            return LATER
        reason: str | None = row.cancelled
        return reason

    def begin(self, job_id: str, worker: str, life: str, attempt: int | None = None) -> Begun:
        """A worker begins an attempt. One that was begun and never ended has cost a worker its life, unless it is
        the same worker's, and the stack that this belonged to (`life`) has ended as a whole: that is counted apart."""
        with alone(self._engine, _LOCK) as connection:
            row = (
                connection.execute(sa.select(job_table).where(job_table.c.job_id == job_id))
                .mappings()
                .one_or_none()
            )
            if row is None or row["state"] is not None or attempt not in (None, row["attempt"]):
                return Begun(row["cancelled"] if row else None, 0, wanted=False)
            broke_off = row["worker"] is not None
            restarted = broke_off and row["worker"] == worker and row["life"] != life
            deaths = row["deaths"] + (broke_off and not restarted)
            restarts = row["restarts"] + restarted
            connection.execute(
                sa.update(job_table)
                .where(job_table.c.job_id == job_id)
                .values(worker=worker, life=life, deaths=deaths, restarts=restarts, storing=False)
            )
        return Begun(row["cancelled"], deaths, restarts)

    def begun_by(self, worker: str) -> list[Entry]:
        """The jobs that this worker has begun, and nobody has ended."""
        return self._select(
            sa.select(job_table).where(job_table.c.worker == worker, job_table.c.state.is_(None))
        )

    def let_go(self, worker: str) -> None:
        """This worker ends in order: what it had begun has not killed it."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(job_table).where(job_table.c.worker == worker).values(worker=None, storing=False)
            )

    def store(
        self,
        job_id: str,
        results: Sequence[Mapping[str, str]],
        attempt: int | None = None,
        worker: str | None = None,
    ) -> None:
        """The point of no return: these results are about to be stored. Raises Cancelled, also when the job is in the
        hands of another attempt or worker by now."""
        mine = _held(job_id, attempt, worker)
        with self._engine.begin() as connection:
            stored = connection.execute(
                sa.update(job_table)
                .where(mine & job_table.c.cancelled.is_(None))
                .values(storing=True, results=json.dumps(list(results)))
            )
        if stored.rowcount == 0:
            raise Cancelled(self.cancelled(job_id, attempt) or "another worker has taken this over")

    def stored(self, job_id: str, results: Sequence[Mapping[str, str]], attempt: int, worker: str) -> None:
        """The archive has them. Where the job was taken from this worker meanwhile, because it seemed to be lost, what
        has been done about its results since then is to be done again."""
        elsewhere = (job_table.c.attempt != attempt) | job_table.c.worker.is_distinct_from(worker)
        taken = (job_table.c.job_id == job_id) & elsewhere
        again = {"results": json.dumps(list(results)), "superseded_by": None, "outdated": True}
        with self._engine.begin() as connection:
            connection.execute(sa.update(job_table).where(taken).values(again))

    def pause(self, job_id: str, attempt: int | None = None) -> None:
        """This attempt has ended, and the next one will follow. Does nothing when the next one is known already."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(job_table)
                .where(_goes_on(job_id, attempt))
                .values(worker=None, storing=False, attempt=job_table.c.attempt + 1)
            )

    def end(
        self,
        job_id: str,
        state: State,
        attempt: int | None = None,
        *,
        reason: str = "",
        refused: bool = False,
    ) -> None:
        """The job has ended, by this attempt. Does nothing when it had ended before, or has a later attempt.

        reason, refused: what its study is told of it, where it is told: why, and whether that lies in the images.

        Results that it had superseded before it was asked for again are current again when it ends without any: their
        marks, while they have some, can be taken back.
        """
        now = time.time()
        with self._engine.begin() as connection:
            ended = connection.execute(
                sa.update(job_table)
                .where(_goes_on(job_id, attempt))
                .values(state=state, ended=now, worker=None, storing=False)
            )
            if ended.rowcount:
                ending = "refused" if state == "failed" and refused else _ENDINGS.get(state)
                _follow(connection, job_id, ending, reason, now)

    def to_supersede(self) -> list[tuple[Entry, Entry]]:
        """Jobs with results in the archive, each with the newer job of its subject that replaces them."""
        newer = job_table.alias("newer")
        better = (
            sa.select(sa.func.max(newer.c.generation))
            .where(newer.c.subject == job_table.c.subject, newer.c.state.in_(["done", "not_applicable"]))
            .scalar_subquery()
        )
        query = sa.select(job_table, better.label("better")).where(
            TO_BE_SETTLED["outdated"], better > job_table.c.generation
        )
        with self._engine.connect() as connection:
            found = connection.execute(query.order_by(job_table.c.generation)).mappings().all()
            rows = [row for row in found if row["state"] == "done"]
            by = {
                row["generation"]: entry_of(row)
                for row in connection.execute(
                    sa.select(job_table).where(job_table.c.generation.in_({row["better"] for row in rows}))
                ).mappings()
            }
        return [(entry_of(row), by[row["better"]]) for row in rows]

    def replaced(self, job_id: str) -> Entry | None:
        """The job whose results those of this one replace: of the earlier ones of its subject the last with any."""
        entry = self.entry(job_id)
        if entry is None:
            return None
        earlier = [each for each in self.of_subject(entry.subject) if each.generation < entry.generation]
        valid = [
            each
            for each in earlier
            if each.state == "done" and each.results and each.superseded_by in (None, job_id)
        ]
        return valid[-1] if valid else None

    def superseded(self, job_id: str, by: str, marks: Sequence[Mapping[str, str]]) -> None:
        """The archive says by now that these results are superseded; `marks` are the instances that say it."""
        self._set(job_id, superseded_by=by, marks=json.dumps(list(marks)), posted=False)

    def contested(self) -> list[tuple[Entry, tuple[str, ...]]]:
        """Jobs with results that are current, or will be, and whose subject has others: each with the IDs of these."""
        other = job_table.alias("other")
        others = sa.exists().where(
            other.c.subject == job_table.c.subject, other.c.job_id != job_table.c.job_id
        )
        well = job_table.c.state.is_(None) | (job_table.c.state == "done")
        current = well & job_table.c.superseded_by.is_(None) & (job_table.c.results != "[]")
        return [
            (entry, tuple(sorted(self.rivals(entry))))
            for entry in self._select(sa.select(job_table).where(current, others))
        ]

    def rivals(self, entry: Entry) -> frozenset[str]:
        """The IDs of the other jobs of the same subject."""
        query = sa.select(job_table.c.job_id).where(
            job_table.c.subject == entry.subject, job_table.c.job_id != entry.job_id
        )
        with self._engine.connect() as connection:
            return frozenset(connection.execute(query).scalars())

    def superseded_series(self, study_uid: str | None = None) -> dict[str, Superseded]:
        """The Series Instance UIDs of superseded results and notes, of one study or of all, each with what becomes of
        it."""
        query = sa.select(job_table.c.policy, job_table.c.results).where(
            job_table.c.superseded_by.is_not(None), job_table.c.state == "done", job_table.c.results != "[]"
        )
        if study_uid is not None:
            query = query.where(job_table.c.study_uid == study_uid)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(job_table.c.generation)).all()
        found = {result["series_uid"]: policy for policy, results in rows for result in json.loads(results)}
        return self._notices.withdrawn_series(study_uid) | found

    def to_restore(self) -> list[Entry]:
        """Jobs that are current again although the archive holds marks against their results."""
        return self._select(sa.select(job_table).where(TO_BE_SETTLED["restored"]))

    def restored(self, job_id: str) -> None:
        """The marks are gone from the archive."""
        self._set(job_id, marks="[]")

    def to_withdraw(self) -> list[Entry]:
        """Jobs that ended without a result, of which something may have been stored."""
        return self._select(sa.select(job_table).where(TO_BE_SETTLED["withdrawn"]))

    def withdrawn(self, job_id: str) -> None:
        """Nothing of this job is in the archive any more."""
        self._set(job_id, results="[]")

    def to_post(self) -> list[Entry]:
        """Jobs with destinations whose outcome, or whose being superseded, is not in the outbox yet, oldest first."""
        return self._select(
            sa.select(job_table).where(TO_BE_SETTLED["posted"]).order_by(job_table.c.generation)
        )

    def posted(self, entry: Entry) -> None:
        """The outbox has it, as it was when `entry` was read."""
        same = (
            (job_table.c.job_id == entry.job_id)
            & (job_table.c.state == entry.state)
            & (job_table.c.ended == entry.ended)
        )
        same &= job_table.c.destinations == json.dumps(list(entry.destinations))
        by = job_table.c.superseded_by
        same &= by.is_(None) if entry.superseded_by is None else by == entry.superseded_by
        with self._engine.begin() as connection:
            connection.execute(sa.update(job_table).where(same).values(posted=True))

    def ended_studies(self, before: float, after: str, limit: int) -> list[str]:
        """Studies all of whose jobs ended before this time (seconds since 1970), in order, from behind `after`."""
        ended = sa.func.max(sa.func.coalesce(job_table.c.ended, before))
        query = sa.select(job_table.c.study_uid).where(job_table.c.study_uid > after)
        query = query.group_by(job_table.c.study_uid).having(ended < before)
        with self._engine.connect() as connection:
            return list(connection.execute(query.order_by(job_table.c.study_uid).limit(limit)).scalars())

    def forget_study(self, study_uid: str, before: float) -> bool:
        """Delete the lines of a study that the archive does not hold. False, and nothing is deleted, where a job of it
        has not ended before this time (seconds since 1970), or something is still to be done about one."""
        of_study = job_table.c.study_uid == study_uid
        unended = job_table.c.state.is_(None) | (sa.func.coalesce(job_table.c.ended, before) >= before)
        needed = sa.select(job_table.c.job_id).where(of_study, unended | sa.or_(*TO_BE_SETTLED.values()))
        with alone(self._engine, _LOCK) as connection:
            if connection.execute(needed.limit(1)).first() is not None:
                return False
            if not notices.forget_study(connection, study_uid):
                return False
            connection.execute(sa.delete(job_table).where(of_study))
        return True

    def _set(self, job_id: str, **values: Any) -> None:
        with self._engine.begin() as connection:
            connection.execute(sa.update(job_table).where(job_table.c.job_id == job_id).values(**values))

    def _select(self, query: sa.Select[Any]) -> list[Entry]:
        with self._engine.connect() as connection:
            return [entry_of(row) for row in connection.execute(query).mappings()]


# How a job can end that its study may be told of. A cancelled one nobody waits for.
_ENDINGS: Mapping[State, notices.Ending] = {
    "done": "done",
    "not_applicable": "not_applicable",
    "failed": "failed",
}
_UNTRIED = {
    "state": None,
    "ended": None,
    "cancelled": None,
    "worker": None,
    "deaths": 0,
    "restarts": 0,
    "storing": False,
    "outdated": False,
    "posted": False,
}


def _goes_on(job_id: str, attempt: int | None) -> sa.ColumnElement[bool]:
    """A job; by this attempt, if one is named."""
    job = job_table.c.job_id == job_id
    return job if attempt is None else job & job_table.c.state.is_(None) & (job_table.c.attempt == attempt)


def _held(job_id: str, attempt: int | None, worker: str | None) -> sa.ColumnElement[bool]:
    """A job in the hands of this attempt and this worker, of those that are named."""
    held = job_table.c.job_id == job_id
    if attempt is not None:
        held &= job_table.c.attempt == attempt
    return held if worker is None else held & (job_table.c.worker == worker)


def _follow(
    connection: sa.Connection, job_id: str, ending: notices.Ending | None, reason: str, ended: float
) -> None:
    """What follows for the study and for other jobs of the subject when one has ended, however it did."""
    line = connection.execute(sa.select(job_table).where(job_table.c.job_id == job_id)).mappings().one()
    notices.note_end(connection, dict(line), ending, reason, ended)
    if line["state"] in ("failed", "cancelled"):
        reopened = (job_table.c.superseded_by == job_id) & (job_table.c.marks != "[]")
        current = {"superseded_by": None, "posted": False, "revivals": job_table.c.revivals + 1}
        connection.execute(sa.update(job_table).where(reopened).values(current))
    else:
        _compare(connection, job_id)


def _compare(connection: sa.Connection, job_id: str) -> None:
    """Note which results of this job's subject a newer one replaces, now that this one has ended well."""
    other = job_table.alias("other")
    subject = sa.select(other.c.subject).where(other.c.job_id == job_id).scalar_subquery()
    newer = job_table.alias("newer")
    best = (
        sa.select(sa.func.max(newer.c.generation))
        .where(newer.c.subject == subject, newer.c.state.in_(["done", "not_applicable"]))
        .scalar_subquery()
    )
    older = (job_table.c.subject == subject) & (job_table.c.state == "done") & (job_table.c.generation < best)
    connection.execute(sa.update(job_table).where(older).values(outdated=True))


def _new(spec: JobSpec) -> dict[str, Any]:
    return {
        "job_id": spec.identity.job_id,
        "subject": spec.subject,
        "application": spec.algorithm.name,
        "route": spec.route,
        "study_uid": spec.study_uid,
        "policy": spec.superseded,
        "destinations": json.dumps(sorted(spec.destinations)),
        "attempt": 1,
        "deaths": 0,
        "storing": False,
        "results": "[]",
        "marks": "[]",
        "posted": False,
        "outcome": spec.outcome,
        "outcome_picture": spec.outcome_picture,
    }


def _told_more(known: Mapping[str, Any], spec: JobSpec) -> dict[str, Any]:
    """Of two routes that ask for the same work, the study is told what the one that tells more would tell."""
    more: dict[OutcomeWanted, int] = {"never": 0, "on_failure": 1, "always": 2}
    return {
        "outcome": max(known["outcome"], spec.outcome, key=lambda wanted: more[wanted]),
        "outcome_picture": known["outcome_picture"] or spec.outcome_picture,
    }


def _newest(connection: sa.Connection, subject: str) -> int | None:
    query = sa.select(sa.func.max(job_table.c.generation)).where(job_table.c.subject == subject)
    newest: int | None = connection.execute(query).scalar_one()
    return newest


def _following(connection: sa.Connection) -> int:
    newest: int | None = connection.execute(sa.select(sa.func.max(job_table.c.generation))).scalar_one()
    return (newest or 0) + 1
