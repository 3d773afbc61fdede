"""Whom an image says it runs as: a name, a number, or nothing, which is root."""

from __future__ import annotations

from dataclasses import dataclass

from isocenter.maps.filesystem import Entry
from isocenter.maps.package import Package
from isocenter_operators.errors import InputError

__all__ = ["ROOT", "UnknownUser", "User", "may_write", "user_of"]


@dataclass(frozen=True)
class User:
    """`home` is "/" where the image does not say."""

    uid: int
    gid: int
    home: str = "/"


@dataclass(frozen=True)
class UnknownUser:
    """A name that the image's own list of users, or of groups, does not have."""

    name: str


ROOT = User(0, 0, "/root")


def user_of(package: Package) -> User | UnknownUser:
    """As engines resolve it: by the image's `/etc/passwd` and `/etc/group`."""
    said = package.config.config.user
    if not said:
        return ROOT
    name, _, group = said.partition(":")
    users = _lines(package, "/etc/passwd")
    for fields in users:
        if name in (fields[0], fields[2]):
            found = User(int(fields[2]), int(fields[3]), fields[5] or "/")
            break
    else:
        if not name.isdigit():
            return UnknownUser(name)
        found = User(int(name), 0)
    if not group:
        return found
    for fields in _lines(package, "/etc/group"):
        if group in (fields[0], fields[2]):
            return User(found.uid, int(fields[2]), found.home)
    return User(found.uid, int(group), found.home) if group.isdigit() else UnknownUser(group)


def may_write(user: User, entry: Entry) -> bool:
    """Whether the owner, the group or all others may, whichever it is."""
    if user.uid in (0, entry.uid):
        return user.uid == 0 or bool(entry.mode & 0o200)
    return bool(entry.mode & (0o020 if user.gid == entry.gid else 0o002))


def _lines(package: Package, file: str) -> list[list[str]]:
    """The lines of a file as `/etc/passwd` is, those that are not broken."""
    try:
        text = package.files.read(file).decode("utf-8", "replace")
    except InputError:
        return []
    length = {"/etc/passwd": 7, "/etc/group": 4}[file]
    lines = [line.split(":") for line in text.splitlines()]
    return [
        fields
        for fields in lines
        if len(fields) == length and fields[2].isdigit() and (length != 7 or fields[3].isdigit())
    ]
