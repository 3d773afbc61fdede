"""The address of a PostgreSQL database, with what every connection of ours asks of the server."""

from __future__ import annotations

import sqlalchemy as sa

__all__ = ["bounded"]

_IDLE_S = 15
_SETTING = "idle_in_transaction_session_timeout"


def bounded(url: str) -> str:
    """A process of ours that is frozen in the middle of a transaction gives its locks back after 15 s.

    Otherwise a worker that is stopped (a virtual machine that is moved, a host that the network has lost) could hold
    the lock that all the others wait for. When it wakes its transaction has failed, and it tries again. Who sets this
    in the address himself is left alone, and so is what is no address of PostgreSQL. PgBouncer takes it only where its
    `ignore_startup_parameters` names `options`.

    Source: PostgreSQL documentation, "Client Connection Defaults"; libpq, `options`.
    """
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError:
        return url  # told where it is opened
    given = parsed.query.get("options", "")
    options = given if isinstance(given, str) else " ".join(given)
    if parsed.get_backend_name() != "postgresql" or _SETTING in options:
        return url
    told = parsed.update_query_dict({"options": f"{options} -c {_SETTING}={_IDLE_S}s".strip()})
    return told.render_as_string(hide_password=False)
