"""What studies are told of how their jobs ended: which notes are due, which are there, which are not valid any more.

A notice is made by the transaction that ends its job, so none is lost; whatever else is done about it, by
`isocenter.telling`, can not change the job.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from isocenter.database import engine
from isocenter.route import OutcomeWanted, Superseded

__all__ = ["Ending", "Notice", "Notices", "forget_study", "note_destinations", "note_end", "tables"]

Ending = Literal["done", "not_applicable", "refused", "failed"]

tables = sa.MetaData()
_notice = sa.Table(
    "isocenter_notice",
    tables,
    sa.Column("job_id", sa.String, primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True),  # that the job ended with
    sa.Column("subject", sa.String, nullable=False, index=True),
    sa.Column("study_uid", sa.String, nullable=False, index=True),
    sa.Column("application", sa.String, nullable=False),
    sa.Column("policy", sa.String, nullable=False),  # what becomes of the note when it is not valid any more
    sa.Column("ending", sa.String, nullable=False),
    sa.Column("reason", sa.String, nullable=False),
    sa.Column("ended", sa.Float, nullable=False),  # seconds since 1970
    sa.Column("picture", sa.Boolean, nullable=False),
    sa.Column("open", sa.Boolean, nullable=False),  # something may have to be done about it
    sa.Column("version", sa.Integer, nullable=False),  # counts how often it was opened
    sa.Column("instances", sa.String, nullable=False),  # JSON: of the note, all that may be in the archive
    sa.Column("stored", sa.Boolean, nullable=False),
    sa.Column("withdrawn_by", sa.String),  # the job whose end has made it invalid
    sa.Column("marks", sa.String, nullable=False),  # JSON: what says so in the archive
    sa.Column("trouble", sa.String, nullable=False),  # why it is not there yet, or never will be
    sa.Column(
        "posted", sa.Boolean, nullable=False, server_default=sa.true()
    ),  # the outbox knows how it stands
)
# Few of those that ever were: see isocenter.ledger.
sa.Index(
    "ix_isocenter_notice_open",
    _notice.c.ended,
    sqlite_where=_notice.c.open,
    postgresql_where=_notice.c.open,
)
_to_post = _notice.c.posted == sa.false()
sa.Index("ix_isocenter_notice_to_post", _notice.c.ended, sqlite_where=_to_post, postgresql_where=_to_post)
_WANTED: Mapping[OutcomeWanted, frozenset[Ending]] = {
    "always": frozenset({"done", "not_applicable", "refused", "failed"}),
    "on_failure": frozenset({"not_applicable", "refused", "failed"}),
    "never": frozenset(),
}

_Instances = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Notice:
    """What a study is to be told of one end of a job. `instances` and `marks`: per instance its UIDs and modality."""

    job_id: str
    attempt: int
    subject: str
    study_uid: str
    application: str
    policy: Superseded
    ending: Ending
    reason: str
    ended: float
    picture: bool
    version: int
    instances: tuple[Mapping[str, str], ...]
    stored: bool
    withdrawn_by: str | None
    marks: tuple[Mapping[str, str], ...]
    trouble: str

    @property
    def said(self) -> str:
        """How it stands, for a person."""
        if self.withdrawn_by is not None:
            return f"not valid any more, since job {self.withdrawn_by[:12]} ended"
        if self.stored:
            return f"in the study: {self.instances[0]['sop_instance_uid']}"
        return f"not in the study yet: {self.trouble}" if self.trouble else "not in the study yet"


def note_end(
    connection: sa.Connection, job: Mapping[str, Any], ending: Ending | None, reason: str, ended: float
) -> None:
    """A job has ended: its study is to be told, where its route wants that, and earlier notes may have become invalid.

    job: its line in the ledger. ending: None where it ended in a way that nobody has to be told of.
    """
    of_subject = _notice.c.subject == job["subject"]
    connection.execute(sa.update(_notice).where(of_subject).values(open=True, version=_notice.c.version + 1))
    if ending is None or ending not in _WANTED[job["outcome"]]:
        return
    known = (_notice.c.job_id == job["job_id"]) & (_notice.c.attempt == job["attempt"])
    if connection.execute(sa.select(_notice.c.job_id).where(known)).first() is not None:
        return
    connection.execute(
        sa.insert(_notice).values(
            job_id=job["job_id"],
            attempt=job["attempt"],
            subject=job["subject"],
            study_uid=job["study_uid"],
            application=job["application"],
            policy=job["policy"],
            ending=ending,
            reason=reason,
            ended=ended,
            picture=job["outcome_picture"],
            open=True,
            version=1,
            instances="[]",
            stored=False,
            withdrawn_by=None,
            marks="[]",
            trouble="",
            posted=True,
        )
    )


def forget_study(connection: sa.Connection, study_uid: str) -> bool:
    """Delete the notices of a study. False, and nothing is deleted, where one is still to be seen to."""
    of_study = _notice.c.study_uid == study_uid
    needed = sa.select(_notice.c.job_id).where(of_study, (_notice.c.open == sa.true()) | _to_post)
    if connection.execute(needed.limit(1)).first() is not None:
        return False
    connection.execute(sa.delete(_notice).where(of_study))
    return True


def note_destinations(connection: sa.Connection, job_id: str) -> None:
    """A job goes to more destinations than before: these have to get its notes too."""
    known = (_notice.c.job_id == job_id) & (_notice.c.stored == sa.true())
    connection.execute(sa.update(_notice).where(known).values(posted=False))


class Notices:
    """The table, in the queue's own database. Errors are SQLAlchemy's. Safe to use from several threads."""

    def __init__(self, database: str) -> None:
        self._engine = engine(database)

    def open(self) -> list[Notice]:
        """Those about which something may have to be done, oldest first."""
        return self._select(sa.select(_notice).where(_notice.c.open == sa.true()).order_by(_notice.c.ended))

    def newest(self, job_ids: Iterable[str]) -> dict[str, Notice]:
        """The newest notice of each of these jobs that has one, by job."""
        query = sa.select(_notice).where(_notice.c.job_id.in_(list(job_ids)))
        return {each.job_id: each for each in self._select(query.order_by(_notice.c.attempt))}

    def withdrawn_series(self, study_uid: str | None = None) -> dict[str, Superseded]:
        """The Series Instance UIDs of notes that are not valid any more and still there, each with its policy."""
        query = sa.select(_notice).where(_notice.c.withdrawn_by.is_not(None), _notice.c.stored == sa.true())
        if study_uid is not None:
            query = query.where(_notice.c.study_uid == study_uid)
        return {
            instance["series_uid"]: each.policy for each in self._select(query) for instance in each.instances
        }

    def storing(self, notice: Notice, instances: _Instances) -> None:
        """These are about to be stored."""
        self._set(notice, instances=json.dumps(list(instances)))

    def stored(self, notice: Notice) -> None:
        """The archive has them."""
        self._set(notice, stored=True, trouble="", posted=False)

    def marking(self, notice: Notice, marks: _Instances) -> None:
        """These, which say that the note is not valid, are about to be stored."""
        self._set(notice, marks=json.dumps(list(marks)))

    def withdrawn(self, notice: Notice, by: str) -> None:
        """The archive says by now that the note is not valid, or never held it."""
        self._set(notice, withdrawn_by=by, trouble="", posted=False)

    def deleted(self, notice: Notice, by: str) -> None:
        """Nothing of the note is in the archive any more."""
        self._set(notice, instances="[]", stored=False, withdrawn_by=by, trouble="", posted=False)

    def restored(self, notice: Notice) -> None:
        """The note is valid again: nothing in the archive says otherwise."""
        self._set(notice, marks="[]", withdrawn_by=None, posted=False)

    def troubled(self, notices: Sequence[Notice], trouble: str) -> None:
        """Why these are not in their studies yet."""
        jobs = {each.job_id for each in notices}
        waits = _notice.c.job_id.in_(jobs) & (_notice.c.open == sa.true()) & (_notice.c.trouble != trouble)
        with self._engine.begin() as connection:
            connection.execute(sa.update(_notice).where(waits).values(trouble=trouble))

    def to_post(self) -> list[Notice]:
        """Those that the outbox does not know as they stand, oldest first."""
        return self._select(sa.select(_notice).where(_to_post).order_by(_notice.c.ended))

    def posted(self, notice: Notice) -> None:
        """The outbox knows it, as it was when it was read."""
        by = _notice.c.withdrawn_by
        same = self._this(notice) & (_notice.c.stored == notice.stored)
        same &= by.is_(None) if notice.withdrawn_by is None else by == notice.withdrawn_by
        with self._engine.begin() as connection:
            connection.execute(sa.update(_notice).where(same).values(posted=True))

    def settled(self, notice: Notice) -> None:
        """Nothing is left to do about it, unless something has happened since it was read."""
        same = self._this(notice) & (_notice.c.version == notice.version)
        with self._engine.begin() as connection:
            connection.execute(sa.update(_notice).where(same).values(open=False))

    def _this(self, notice: Notice) -> sa.ColumnElement[bool]:
        return (_notice.c.job_id == notice.job_id) & (_notice.c.attempt == notice.attempt)

    def _set(self, notice: Notice, **values: Any) -> None:
        with self._engine.begin() as connection:
            connection.execute(sa.update(_notice).where(self._this(notice)).values(**values))

    def _select(self, query: sa.Select[Any]) -> list[Notice]:
        with self._engine.connect() as connection:
            return [_read(row) for row in connection.execute(query).mappings()]


def _read(row: sa.RowMapping) -> Notice:
    content = {name: row[name] for name in Notice.__dataclass_fields__}
    lists = {name: tuple(json.loads(row[name])) for name in ("instances", "marks")}
    return Notice(**{**content, **lists})
