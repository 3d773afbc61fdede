"""The one database: SQLite in the data folder, or PostgreSQL. Made ready, opened, and told about when it fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from isocenter.settings import Settings
from isocenter_operators.errors import StorageFull, Unavailable

__all__ = ["alone", "database_error", "engine", "is_made", "make_tables", "prepare"]

_WAIT_S = 30.0  # for another writer of the same SQLite file


def engine(database: str) -> sa.Engine:
    """An engine for tables of ours. A connection lives as long as its block: no pool keeps files open."""
    url = sa.make_url(database)
    if url.get_backend_name() == "postgresql":
        return sa.create_engine(url.set(drivername="postgresql+psycopg"), poolclass=NullPool)
    return sa.create_engine(url, poolclass=NullPool, connect_args={"timeout": _WAIT_S})


@contextmanager
def alone(opened: sa.Engine, lock: int) -> Iterator[sa.Connection]:
    """A transaction for what is read and then written: it waits until no other one under this lock goes on.

    lock: of PostgreSQL's advisory locks; SQLite has one for all.
    """
    with opened.connect() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(lock)))
        yield connection
        connection.commit()


def prepare(settings: Settings) -> None:
    """Make the database and DBOS's tables, where they are missing. Raises StorageFull or Unavailable."""
    from dbos import DBOS

    logging.getLogger("dbos").setLevel(logging.WARNING)
    url = sa.make_url(settings.database)
    try:
        if url.get_backend_name() == "sqlite" and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            opened = sa.create_engine(url, isolation_level="AUTOCOMMIT")
            with opened.connect() as connection:
                # Readers and the writer do not wait for each other; the file remembers it.
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            opened.dispose()
        DBOS.migrate(settings.database)
    except (OSError, sa.exc.DBAPIError) as error:
        raise database_error(settings, error) from error


def is_made(settings: Settings) -> bool:
    """Whether there is a database to be asked, without making one; of PostgreSQL that is believed.

    Raises Unavailable where its folder may not be entered.
    """
    url = sa.make_url(settings.database)
    try:
        return url.get_backend_name() != "sqlite" or Path(url.database or "").is_file()
    except OSError as error:
        raise database_error(settings, error) from error


def make_tables(connection: sa.Connection, tables: sa.MetaData) -> None:
    """Make what is missing: tables, and columns and indexes that a table of an earlier version does not have yet."""
    there = sa.inspect(connection)
    known = {table.name for table in tables.sorted_tables if there.has_table(table.name)}
    tables.create_all(connection)
    quoted = connection.dialect.identifier_preparer.quote
    for table in tables.sorted_tables:
        if table.name not in known:
            continue
        columns = {column["name"] for column in there.get_columns(table.name)}
        for column in table.columns:
            if column.name not in columns:
                definition = sa.schema.CreateColumn(column).compile(dialect=connection.dialect)
                connection.exec_driver_sql(f"ALTER TABLE {quoted(table.name)} ADD COLUMN {definition}")
        for index in table.indexes:
            index.create(connection, checkfirst=True)


def database_error(settings: Settings, error: Exception) -> Unavailable:
    """What a person is told when the database does not do its work."""
    url = sa.make_url(settings.database)
    where = url.database if url.get_backend_name() == "sqlite" else f"{url.host}:{url.port or 5432}"
    if "disk is full" in str(error) or getattr(error, "errno", None) == 28:
        return StorageFull(f"no room left for the database {where}; free some space on that disk")
    cause = str(getattr(error, "orig", error)).splitlines()[0]
    return Unavailable(f"the database {where} can not be used: {cause}; see database_url and data_dir")
