"""What has arrived, durably: how far the change log was read, how each series stands, what was decided."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from isocenter.database import alone, engine, make_tables
from isocenter.pacs import ArchiveSeries

__all__ = ["Arrival", "Arrivals", "Verdict", "fingerprint", "study_fingerprint"]

_LOG = "archive"
_NEWEST = "archive.newest"
_LOCK = 0x150CE282  # of PostgreSQL's advisory locks, for making the tables

_tables = sa.MetaData()
_position = sa.Table(
    "isocenter_position",
    _tables,
    sa.Column("log", sa.String, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)
_arrival = sa.Table(
    "isocenter_arrival",
    _tables,
    sa.Column("resource", sa.String, primary_key=True),
    sa.Column("study_uid", sa.String, nullable=False, index=True),
    sa.Column("series_uid", sa.String, nullable=False),
    sa.Column("instances", sa.Integer, nullable=False),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("arrived_at", sa.Float, nullable=False),
    sa.Column("changed_at", sa.Float, nullable=False, index=True),
    sa.Column("settling", sa.Boolean, nullable=False, index=True),
    sa.Column("ours", sa.Boolean, nullable=False),
    # It settles only because somebody asked the rules once more: `look_again`.
    sa.Column("late", sa.Boolean, nullable=False, server_default=sa.false()),
)
_verdict = sa.Table(
    "isocenter_verdict",
    _tables,
    sa.Column("subject", sa.String, primary_key=True),
    sa.Column("route", sa.String, primary_key=True),
    sa.Column("application", sa.String, primary_key=True),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("job_id", sa.String),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("decided_at", sa.Float),  # seconds since 1970; NULL: by an earlier release
)
_gone = sa.Table(
    "isocenter_gone",
    _tables,
    sa.Column("study_uid", sa.String, primary_key=True),
    sa.Column("since", sa.Float, nullable=False),  # when it was first found gone; seconds since 1970
)
_MANY = 500  # parameters of one statement; SQLite takes no more than 999 everywhere


@dataclass(frozen=True)
class Verdict:
    """What became of a series, or of a study, by one route: a job, or the reason why there is none."""

    route: str
    application: str
    job_id: str | None
    reason: str
    fingerprint: str = ""  # of the images it was said of
    decided_at: float | None = field(default=None, compare=False)  # seconds since 1970; noted by `judge`
    subject: str = field(
        default="", compare=False
    )  # the series' resource or the study's UID; noted by `judge` too

    def __str__(self) -> str:
        return f"job {self.job_id}" if self.job_id else f"not wanted: {self.route}: {self.reason}"


@dataclass(frozen=True)
class Arrival:
    """One series as it was last seen. Times are in seconds since 1970."""

    resource: str  # Orthanc's identifier
    study_uid: str
    series_uid: str
    instances: int
    fingerprint: str
    arrived_at: float  # when it began to arrive, or to change after it had been judged
    changed_at: float
    settling: bool
    ours: bool  # an application of ours made it
    late: bool = False  # it settles only because the rules were asked once more
    verdicts: tuple[Verdict, ...] = field(default=())  # the last ones, of it and of its study
    waiting: str = ""  # why something is not decided yet, where the router tells


def fingerprint(instances: Iterable[str]) -> str:
    """The same for the same set of instances, in whatever order."""
    return hashlib.sha256("\n".join(sorted(instances)).encode()).hexdigest()


def study_fingerprint(arrivals: Iterable[Arrival]) -> str:
    """The same for the same images in the same series, whatever results of ours lie beside them."""
    return fingerprint(f"{each.resource} {each.fingerprint}" for each in arrivals if not each.ours)


class Arrivals:
    """The tables, in the queue's own database. Errors are SQLAlchemy's."""

    def __init__(self, database: str) -> None:
        self._engine = engine(database)
        with alone(self._engine, _LOCK) as connection:
            make_tables(connection, _tables)

    def position(self) -> int | None:
        """The sequence number up to which the change log was read, None before the first time."""
        return self._sequence(_LOG)

    def newest_position(self) -> int:
        """The highest sequence number that was ever read; more than `position` while the log is read once more."""
        return max(self._sequence(_NEWEST) or 0, self.position() or 0)

    def record(
        self,
        sequence: int,
        seen: Sequence[ArchiveSeries],
        now: float,
        *,
        created: Collection[str] = frozenset(),
    ) -> None:
        """Note how far the log was read and what was seen there: both, or neither.

        `created` are the resources that the archive made anew: such a series settles even if it was known with the
        same instances, because it was deleted in between.
        """
        newest = max(sequence, self.newest_position())
        with self._engine.begin() as connection:
            _place(connection, _LOG, sequence)
            _place(connection, _NEWEST, newest)
            for series in seen:
                _note(connection, series, now, created=series.resource in created)

    def mended(self, series: ArchiveSeries, now: float) -> None:
        """Note a series that was not as it had been noted."""
        with self._engine.begin() as connection:
            _note(connection, series, now, created=False)

    def found(self, series: ArchiveSeries, now: float) -> None:
        """Note a series that the log did not tell of, as quiet since the archive last changed it."""
        with self._engine.begin() as connection:
            _note(connection, series, min(now, series.updated_at), created=False)

    def was_there(self, resources: Collection[str]) -> None:
        """Note series that the archive held before we first looked, which nobody sent to be analysed."""
        known = {"study_uid": "", "series_uid": "", "instances": 0, "fingerprint": ""}
        rows = [
            {
                "resource": resource,
                **known,
                "arrived_at": 0.0,
                "changed_at": 0.0,
                "settling": False,
                "ours": False,
                "late": False,
            }
            for resource in resources
        ]
        if rows:
            with self._engine.begin() as connection:
                connection.execute(sa.insert(_arrival), rows)

    def settling(self) -> list[Arrival]:
        """The series that are still arriving, or about which something is not decided yet; without verdicts."""
        return self._select(sa.select(_arrival).where(_arrival.c.settling).order_by(_arrival.c.changed_at))

    def newest(self, limit: int = 100) -> list[Arrival]:
        """The series that changed last, with their verdicts."""
        known = sa.select(_arrival).where(_arrival.c.study_uid != "")
        return self._judged(self._select(known.order_by(_arrival.c.changed_at.desc()).limit(limit)))

    def of_study(self, study_uid: str) -> list[Arrival]:
        """The series of one study in the order in which they arrived, with their verdicts."""
        query = sa.select(_arrival).where(_arrival.c.study_uid == study_uid)
        return self._judged(self._select(query.order_by(_arrival.c.arrived_at, _arrival.c.series_uid)))

    def resources(self) -> dict[str, int]:
        """Every series that is known, with its number of instances; 0 of those that `was_there` noted."""
        with self._engine.connect() as connection:
            rows = connection.execute(sa.select(_arrival.c.resource, _arrival.c.instances)).all()
        return {row.resource: row.instances for row in rows}

    def judge(self, subject: str, verdicts: Sequence[Verdict]) -> None:
        """Note what was decided about a series (`subject` is its resource) or a study (its UID)."""
        with self._engine.begin() as connection:
            for each in verdicts:
                same = (
                    (_verdict.c.subject == subject)
                    & (_verdict.c.route == each.route)
                    & (_verdict.c.application == each.application)
                )
                said = {
                    "fingerprint": each.fingerprint,
                    "job_id": each.job_id,
                    "reason": each.reason,
                    "decided_at": time.time(),
                }
                if connection.execute(sa.update(_verdict).where(same).values(**said)).rowcount == 0:
                    named = {"subject": subject, "route": each.route, "application": each.application}
                    connection.execute(sa.insert(_verdict).values(**named, **said))

    def close(self, arrival: Arrival, *, ours: bool = False) -> None:
        """All is decided about this series, unless it has changed meanwhile."""
        same = (_arrival.c.resource == arrival.resource) & (_arrival.c.fingerprint == arrival.fingerprint)
        with self._engine.begin() as connection:
            connection.execute(sa.update(_arrival).where(same).values(settling=False, ours=ours, late=False))

    def studies_since(self, since: float) -> list[str]:
        """The studies whose images came, or changed, since then (seconds since 1970), in that order."""
        came = sa.func.max(_arrival.c.changed_at)
        query = sa.select(_arrival.c.study_uid).where(_arrival.c.study_uid != "", ~_arrival.c.ours)
        query = query.group_by(_arrival.c.study_uid).having(came >= since).order_by(came)
        with self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def look_again(self, series: Sequence[ArchiveSeries]) -> bool:
        """Have what was decided about these series of one study, and made no job, decided once more, as late work.

        False where nothing was decided: they are not known yet, or are being decided about as it is.
        """
        subjects = {each.study_uid for each in series}
        with self._engine.begin() as connection:
            asked = [each for each in series if _asked_again(connection, each)]
            subjects |= {each.resource for each in asked}
            if asked:
                without = _verdict.c.subject.in_(subjects) & _verdict.c.job_id.is_(None)
                connection.execute(sa.delete(_verdict).where(without))
        return bool(asked)

    def forget(self, resource: str) -> None:
        """The series is no longer in the archive."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_arrival).where(_arrival.c.resource == resource))
            connection.execute(sa.delete(_verdict).where(_verdict.c.subject == resource))

    def judged_and_gone(self, after: str, limit: int) -> list[str]:
        """Studies of which something was decided and no series is known any more, in order, from behind `after`."""
        subject = _verdict.c.subject
        none = [~sa.exists().where(each == subject) for each in (_arrival.c.resource, _arrival.c.study_uid)]
        query = sa.select(subject).where(subject > after, *none).distinct().order_by(subject).limit(limit)
        with self._engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def gone_since(self, study_uids: Sequence[str], now: float) -> dict[str, float]:
        """Those of these studies of which no series is known, with when that was first found, which is noted."""
        found: dict[str, float] = {}
        with self._engine.begin() as connection:
            for start in range(0, len(study_uids), _MANY):
                some = study_uids[start : start + _MANY]
                there = sa.select(_arrival.c.study_uid).where(_arrival.c.study_uid.in_(some))
                gone = set(some) - set(connection.execute(there).scalars())
                rows = connection.execute(sa.select(_gone).where(_gone.c.study_uid.in_(gone))).all()
                known = {row.study_uid: row.since for row in rows}
                if new := sorted(gone - known.keys()):
                    connection.execute(sa.insert(_gone), [{"study_uid": uid, "since": now} for uid in new])
                found |= dict.fromkeys(new, now) | known
        return found

    def forget_study(self, study_uid: str) -> None:
        """Nothing is known of it any more, unless a series of it has come meanwhile."""
        series = sa.exists().where(_arrival.c.study_uid == study_uid)
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_verdict).where(_verdict.c.subject == study_uid, ~series))
            connection.execute(sa.delete(_gone).where(_gone.c.study_uid == study_uid, ~series))

    def _sequence(self, log: str) -> int | None:
        query = sa.select(_position.c.sequence).where(_position.c.log == log)
        with self._engine.connect() as connection:
            return connection.execute(query).scalar_one_or_none()

    def _select(self, query: sa.Select[Any]) -> list[Arrival]:
        with self._engine.connect() as connection:
            return [Arrival(**row) for row in connection.execute(query).mappings()]

    def _judged(self, arrivals: Sequence[Arrival]) -> list[Arrival]:
        said: dict[str, list[Verdict]] = {}
        subjects = sorted({each.resource for each in arrivals} | {each.study_uid for each in arrivals})
        with self._engine.connect() as connection:
            for start in range(0, len(subjects), _MANY):
                some = sa.select(_verdict).where(_verdict.c.subject.in_(subjects[start : start + _MANY]))
                for row in connection.execute(some.order_by(_verdict.c.route)).mappings():
                    verdict = Verdict(**{name: row[name] for name in Verdict.__dataclass_fields__})
                    said.setdefault(row["subject"], []).append(verdict)
        return [
            replace(each, verdicts=(*said.get(each.resource, ()), *said.get(each.study_uid, ())))
            for each in arrivals
        ]


def _place(connection: sa.Connection, log: str, sequence: int) -> None:
    moved = connection.execute(sa.update(_position).where(_position.c.log == log).values(sequence=sequence))
    if moved.rowcount == 0:
        connection.execute(sa.insert(_position).values(log=log, sequence=sequence))


def _asked_again(connection: sa.Connection, series: ArchiveSeries) -> bool:
    here = (_arrival.c.resource == series.resource) & ~_arrival.c.settling & ~_arrival.c.ours
    if connection.execute(sa.update(_arrival).where(here).values(settling=True, late=True)).rowcount == 0:
        return False
    unread = {  # of those that `was_there` noted
        "study_uid": series.study_uid,
        "series_uid": series.series_uid,
        "instances": len(series.instances),
        "fingerprint": fingerprint(series.instances),
        "arrived_at": series.updated_at,
        "changed_at": series.updated_at,
    }
    was_there = (_arrival.c.resource == series.resource) & (_arrival.c.study_uid == "")
    connection.execute(sa.update(_arrival).where(was_there).values(**unread))
    return True


def _note(connection: sa.Connection, series: ArchiveSeries, now: float, *, created: bool) -> None:
    """A series that is new, or has other instances than before, settles anew from now."""
    print_now = fingerprint(series.instances)
    here = _arrival.c.resource == series.resource
    known = connection.execute(sa.select(_arrival).where(here)).mappings().one_or_none()
    if known is not None and known["fingerprint"] == print_now and not created:
        return
    values = {
        "study_uid": series.study_uid,
        "series_uid": series.series_uid,
        "instances": len(series.instances),
        "fingerprint": print_now,
        "arrived_at": known["arrived_at"] if known is not None and known["settling"] else now,
        "changed_at": now,
        "settling": True,
        "late": False,
    }
    if known is None:
        connection.execute(sa.insert(_arrival).values(resource=series.resource, ours=False, **values))
        connection.execute(sa.delete(_gone).where(_gone.c.study_uid == series.study_uid))
    else:
        connection.execute(sa.update(_arrival).where(here).values(**values))
    if created:
        # What was said of images that were deleted since says nothing of these.
        forgotten = _verdict.c.subject.in_([series.resource, series.study_uid])
        connection.execute(sa.delete(_verdict).where(forgotten))
