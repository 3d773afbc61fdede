"""One job in the ledger: the columns of its table, and what a line of it says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from isocenter.job import State
from isocenter.route import Superseded

__all__ = ["TO_BE_SETTLED", "WAITING", "Entry", "entry_of", "job_table", "tables"]

tables = sa.MetaData()
job_table = sa.Table(
    "isocenter_job",
    tables,
    sa.Column("job_id", sa.String, primary_key=True),
    sa.Column("generation", sa.Integer, nullable=False, index=True),
    sa.Column("subject", sa.String, nullable=False, index=True),
    sa.Column("application", sa.String, nullable=False),
    sa.Column("route", sa.String, nullable=False),
    sa.Column("study_uid", sa.String, nullable=False, index=True),
    sa.Column("policy", sa.String, nullable=False),  # what becomes of its results when they are superseded
    sa.Column("destinations", sa.String, nullable=False),  # JSON: names of peers
    sa.Column("state", sa.String, index=True),  # how it ended; NULL: it waits or runs
    sa.Column("ended", sa.Float),  # seconds since 1970
    sa.Column(
        "attempt", sa.Integer, nullable=False, default=1
    ),  # the newest; no other may change anything here
    sa.Column("queue", sa.String, nullable=False, server_default=""),  # in which the newest attempt waits
    sa.Column("rank", sa.Integer, nullable=False, server_default="0"),  # in it; 1 is done first
    sa.Column("begins_at", sa.Float, nullable=False, server_default="0"),  # not before; seconds since 1970
    sa.Column("cancelled", sa.String),  # why it should stop; NULL: it should not
    sa.Column("worker", sa.String, index=True),  # that has begun it and not ended it; NULL: none
    sa.Column("life", sa.String),  # of the stack that this worker belongs to
    sa.Column("deaths", sa.Integer, nullable=False, default=0),  # workers lost while they ran it
    sa.Column("restarts", sa.Integer, nullable=False, server_default="0"),  # of the stack while it ran
    sa.Column("storing", sa.Boolean, nullable=False, default=False),
    sa.Column("results", sa.String, nullable=False, default="[]"),  # JSON: all that may be in the archive
    sa.Column(
        "outdated", sa.Boolean, nullable=False, server_default=sa.false()
    ),  # a newer one has ended well
    sa.Column("superseded_by", sa.String),
    sa.Column("marks", sa.String, nullable=False, default="[]"),  # JSON: what says so in the archive
    sa.Column("revivals", sa.Integer, nullable=False, server_default="0"),  # times it was current again
    sa.Column("posted", sa.Boolean, nullable=False, default=False),  # its outcome is in the outbox
    sa.Column(
        "outcome", sa.String, nullable=False, server_default="never"
    ),  # when its study gets a note on it
    sa.Column("outcome_picture", sa.Boolean, nullable=False, server_default=sa.false()),
)
# Few of the jobs that ever were, and each kind is looked for every second: so each has an index of its own. The values
# are written out, because SQLite does not use such an index for what it sees as a parameter.
_NOTHING: sa.ColumnClause[str] = sa.literal_column("'[]'")
_BADLY: list[sa.ColumnClause[str]] = [
    sa.literal_column(f"'{state}'") for state in ("failed", "cancelled", "not_applicable")
]
TO_BE_SETTLED = {
    "outdated": job_table.c.outdated
    & job_table.c.superseded_by.is_(None)
    & (job_table.c.results != _NOTHING),
    "restored": job_table.c.superseded_by.is_(None) & (job_table.c.marks != _NOTHING),
    "withdrawn": job_table.c.state.in_(_BADLY) & (job_table.c.results != _NOTHING),
    "posted": job_table.c.state.is_not(None) & (job_table.c.destinations != _NOTHING) & ~job_table.c.posted,
}
WAITING = job_table.c.state.is_(None) & job_table.c.worker.is_(None)
sa.Index(
    "ix_isocenter_job_waiting",
    job_table.c.queue,
    job_table.c.rank,
    sqlite_where=WAITING,
    postgresql_where=WAITING,
)
for _name, _which in TO_BE_SETTLED.items():
    sa.Index(
        f"ix_isocenter_job_to_be_{_name}",
        job_table.c.generation,
        sqlite_where=_which,
        postgresql_where=_which,
    )


@dataclass(frozen=True)
class Entry:
    """One job in the ledger. `results` and `marks`: per instance its UIDs and modality."""

    job_id: str
    generation: int
    subject: str
    application: str
    route: str
    study_uid: str
    policy: Superseded
    destinations: tuple[str, ...]
    state: State | None
    ended: float | None
    cancelled: str | None
    worker: str | None
    deaths: int
    storing: bool
    results: tuple[Mapping[str, str], ...]
    superseded_by: str | None
    marks: tuple[Mapping[str, str], ...]
    attempt: int = 1
    restarts: int = 0
    revivals: int = 0


def entry_of(row: sa.RowMapping) -> Entry:
    content = {name: row[name] for name in Entry.__dataclass_fields__}
    lists = {name: tuple(json.loads(row[name])) for name in ("destinations", "results", "marks")}
    return Entry(**{**content, **lists})
