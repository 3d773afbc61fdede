"""How a client makes itself known to an archive."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Credentials"]


@dataclass(frozen=True)
class Credentials:
    """A name and a password for HTTP's Basic authentication; the password is never shown."""

    username: str
    password: str = field(repr=False)
