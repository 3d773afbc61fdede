"""The site's secret, made once and kept in the database: by it identities are hidden from graphs, always alike.

Every worker has the same one, so that a job that another worker repeats gives the same results.
"""

from __future__ import annotations

import secrets

import sqlalchemy as sa

from isocenter.database import engine

__all__ = ["site_key"]

_LOCK = 0x150CE281  # of PostgreSQL's advisory locks, for making the key
_BYTES = 32

_tables = sa.MetaData()
_key = sa.Table(
    "isocenter_key",
    _tables,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("content", sa.String, nullable=False),  # in hexadecimal digits
)


def site_key(database: str, name: str = "deidentification") -> bytes:
    """The key of this name, which is made where there is none yet. Errors are SQLAlchemy's."""
    with engine(database).connect() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        _tables.create_all(connection)
        content = connection.execute(sa.select(_key.c.content).where(_key.c.name == name)).scalar()
        if content is None:
            content = secrets.token_hex(_BYTES)
            connection.execute(sa.insert(_key).values(name=name, content=content))
        connection.commit()
    return bytes.fromhex(content)
