"""What has arrived, durably: how far the archive's change log was read, and how each series stands."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from isocenter.pacs import ArchiveSeries

__all__ = ["Arrival", "Arrivals", "Verdict", "fingerprint"]

_LOG = "archive"

_tables = sa.MetaData()
_position = sa.Table(
    "isocenter_position",
    _tables,
    sa.Column("log", sa.String, primary_key=True),
    sa.Column("sequence", sa.BigInteger, nullable=False),
)
_series = sa.Table(
    "isocenter_series",
    _tables,
    sa.Column("resource", sa.String, primary_key=True),
    sa.Column("study_uid", sa.String, nullable=False),
    sa.Column("series_uid", sa.String, nullable=False),
    sa.Column("instances", sa.Integer, nullable=False),
    sa.Column("fingerprint", sa.String, nullable=False),
    sa.Column("changed_at", sa.Float, nullable=False, index=True),
    sa.Column("settling", sa.Boolean, nullable=False, index=True),
    sa.Column("verdicts", sa.String, nullable=False, default="[]"),
)


@dataclass(frozen=True)
class Verdict:
    """What became of a series by one route: a job, or the reason why there is none."""

    route: str
    application: str
    job_id: str | None
    reason: str

    def __str__(self) -> str:
        return f"job {self.job_id}" if self.job_id else f"not wanted: {self.route}: {self.reason}"


@dataclass(frozen=True)
class Arrival:
    """One series as it was last seen. `changed_at` is in seconds since 1970."""

    resource: str  # Orthanc's identifier
    study_uid: str
    series_uid: str
    instances: int
    fingerprint: str
    changed_at: float
    settling: bool
    verdicts: tuple[Verdict, ...]  # of the last time it was quiet


def fingerprint(instances: Iterable[str]) -> str:
    """The same for the same set of instances, in whatever order."""
    return hashlib.sha256("\n".join(sorted(instances)).encode()).hexdigest()


class Arrivals:
    """The tables, in the queue's own database. Errors are SQLAlchemy's."""

    def __init__(self, database: str) -> None:
        url = sa.make_url(database)
        if url.get_backend_name() == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        # One thread writes, seldom: a pool would only keep files open.
        self._engine = sa.create_engine(url, poolclass=NullPool)
        _tables.create_all(self._engine)

    def position(self) -> int | None:
        """The sequence number up to which the change log was read, None before the first time."""
        query = sa.select(_position.c.sequence).where(_position.c.log == _LOG)
        with self._engine.connect() as connection:
            return connection.execute(query).scalar_one_or_none()

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
        with self._engine.begin() as connection:
            moved = connection.execute(
                sa.update(_position).where(_position.c.log == _LOG).values(sequence=sequence)
            )
            if moved.rowcount == 0:
                connection.execute(sa.insert(_position).values(log=_LOG, sequence=sequence))
            for series in seen:
                _note(connection, series, now, created=series.resource in created)

    def settling(self) -> list[Arrival]:
        """The series that are still arriving, or were quiet but not judged yet."""
        return self._select(sa.select(_series).where(_series.c.settling).order_by(_series.c.changed_at))

    def newest(self, limit: int = 100) -> list[Arrival]:
        """The series that changed last."""
        return self._select(sa.select(_series).order_by(_series.c.changed_at.desc()).limit(limit))

    def of_study(self, study_uid: str) -> list[Arrival]:
        """The series of one study."""
        return self._select(sa.select(_series).where(_series.c.study_uid == study_uid))

    def judge(self, arrival: Arrival, verdicts: Sequence[Verdict]) -> None:
        """Note what became of the series, unless it has changed meanwhile."""
        same = (_series.c.resource == arrival.resource) & (_series.c.fingerprint == arrival.fingerprint)
        said = json.dumps([asdict(each) for each in verdicts])
        with self._engine.begin() as connection:
            connection.execute(sa.update(_series).where(same).values(settling=False, verdicts=said))

    def forget(self, arrival: Arrival) -> None:
        """The series is no longer in the archive."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(_series).where(_series.c.resource == arrival.resource))

    def _select(self, query: sa.Select[Any]) -> list[Arrival]:
        with self._engine.connect() as connection:
            rows = connection.execute(query).mappings().all()
        return [
            Arrival(**{**row, "verdicts": tuple(Verdict(**each) for each in json.loads(row["verdicts"]))})
            for row in rows
        ]


def _note(connection: sa.Connection, series: ArchiveSeries, now: float, *, created: bool) -> None:
    """A series that is new, or has other instances than before, settles anew from now."""
    print_now = fingerprint(series.instances)
    known = connection.execute(
        sa.select(_series.c.fingerprint).where(_series.c.resource == series.resource)
    ).scalar_one_or_none()
    if known == print_now and not created:
        return
    values = {
        "study_uid": series.study_uid,
        "series_uid": series.series_uid,
        "instances": len(series.instances),
        "fingerprint": print_now,
        "changed_at": now,
        "settling": True,
    }
    if known is None:
        connection.execute(sa.insert(_series).values(resource=series.resource, verdicts="[]", **values))
    else:
        connection.execute(sa.update(_series).where(_series.c.resource == series.resource).values(**values))
