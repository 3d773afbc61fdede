"""Which workers are there, where several share a PostgreSQL: each beats, and takes over from one that is silent.

On SQLite there is one worker, and the next one takes over from it; nothing of this is needed.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable

import psutil
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from isocenter.database import engine
from isocenter.settings import Settings
from isocenter_operators.errors import ConfigurationError

__all__ = ["Attendance"]

log = logging.getLogger("isocenter.worker")

_BEAT_S = 5.0
_LOCK = 0x150CE27F  # of PostgreSQL's advisory locks, for making the table

_tables = sa.MetaData()
_worker = sa.Table(
    "isocenter_worker",
    _tables,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column(
        "beat", sa.Float, nullable=False
    ),  # seconds since 1970, by the database's clock; 0: it has left
)

_NOW = sa.func.extract("epoch", sa.func.clock_timestamp())


class Attendance:
    """This worker's line in the table, and its eye on the others'.

    `adopt` is called with the names of workers that are lost: it gives their work back to the queue. Errors are
    SQLAlchemy's.
    """

    def __init__(self, settings: Settings, adopt: Callable[[list[str]], object]) -> None:
        self._name = settings.worker.name
        self._lost_after_s = settings.worker.lost_after_s
        self._beat_s = min(_BEAT_S, self._lost_after_s / 4)
        self._adopt = adopt
        self._engine = engine(settings.database)
        self._left = threading.Event()
        # Until it has itself been heard without a pause for long enough, it can not tell others' silence from the
        # database's: when that was away, or all machines were, everybody comes back at about the same time.
        self._steady_since = time.monotonic()
        self._beaten_at = time.monotonic()
        with self._engine.begin() as connection:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            _tables.create_all(connection)

    def arrive(self) -> None:
        """Take the name. Raises ConfigurationError when another worker that is alive has it."""
        with self._engine.begin() as connection:
            mine = sa.select(_worker, (_NOW - _worker.c.beat).label("silent_s")).where(
                _worker.c.name == self._name
            )
            other = connection.execute(mine).mappings().one_or_none()
            if (
                other is not None
                and other["silent_s"] < self._lost_after_s
                and _lives(other["host"], other["pid"])
            ):
                raise ConfigurationError(
                    f"worker.name: a worker {self._name!r} is at work on {other['host']} already; give this one "
                    "another name (`--name`)"
                )
            connection.execute(self._beat())

    def start(self) -> None:
        """Beat from a thread, as long as the process lives."""
        threading.Thread(target=self._work, name="attendance", daemon=True).start()

    def leave(self) -> None:
        """Say that this worker is gone: others need not wait until they believe it."""
        self._left.set()
        with self._engine.begin() as connection:
            connection.execute(sa.update(_worker).where(_worker.c.name == self._name).values(beat=0.0))

    def look(self) -> None:
        """Beat once, and take over from who is lost."""
        with self._engine.begin() as connection:
            connection.execute(self._beat())
        now = time.monotonic()
        if now - self._beaten_at > self._lost_after_s / 2:
            self._steady_since = now
        self._beaten_at = now
        for name in self._lost():
            self._take_over(name)

    def _take_over(self, name: str) -> None:
        """A crash in between repeats it, which changes nothing."""
        with self._engine.begin() as connection:
            # Locked: a worker that comes back under its name arrives before this, or has to wait until it is done.
            lost = (
                sa.select(_worker.c.name).where(_worker.c.name == name, self._is_silent()).with_for_update()
            )
            if connection.execute(lost).one_or_none() is None:
                return
            log.warning("worker %s is lost: its jobs are taken over", name)
            self._adopt([name])
            connection.execute(sa.delete(_worker).where(_worker.c.name == name))

    def _lost(self) -> list[str]:
        with self._engine.connect() as connection:
            silent = sa.select(_worker.c.name).where(_worker.c.name != self._name, self._is_silent())
            return list(connection.execute(silent).scalars())

    def _is_silent(self) -> sa.ColumnElement[bool]:
        steady = time.monotonic() - self._steady_since > self._lost_after_s
        return _worker.c.beat < _NOW - self._lost_after_s if steady else _worker.c.beat == 0.0

    def _beat(self) -> sa.Executable:
        line = {"host": socket.gethostname(), "pid": os.getpid(), "beat": _NOW}
        return (
            insert(_worker)
            .values(name=self._name, **line)
            .on_conflict_do_update(index_elements=["name"], set_=line)
        )

    def _work(self) -> None:
        away = False
        while not self._left.wait(self._beat_s):
            try:
                self.look()
                away = False
            except sa.exc.SQLAlchemyError:
                if not away:
                    log.warning("the database does not answer: this worker can not show that it is there")
                away = True


def _lives(host: str, pid: int) -> bool:
    """Whether that process is there; of another machine's nobody can tell, so it is."""
    return host != socket.gethostname() or (pid != os.getpid() and psutil.pid_exists(pid))
