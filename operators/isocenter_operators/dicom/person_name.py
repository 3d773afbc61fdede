"""Whether two names are one person's (PS3.5, 6.2, Value Representation PN)."""

from __future__ import annotations

import unicodedata
from typing import Any

__all__ = ["same_name"]

_ESCAPES = ("\x1b$)A", "\x1b$)C", "\x1b(B")  # that Python's decoders leave in (see `unicode`)


def same_name(one: Any, other: Any) -> bool:
    """Two values of PN, as pydicom gives them or as text; None is as an empty one.

    Case, spaces around a component, and components and groups that are empty at the end do not count. Of the groups
    (alphabetic, ideographic, phonetic) those count that both have; there has to be one. No name is the same as
    none alone.
    """
    groups, others = _groups(one), _groups(other)
    if not any(groups) or not any(others):
        return not any(groups) and not any(others)
    shared = [(group, its) for group, its in zip(groups, others, strict=False) if group and its]
    return bool(shared) and all(group == its for group, its in shared)


def _groups(value: Any) -> list[tuple[str, ...]]:
    text = "" if value is None else str(value)
    for escape in _ESCAPES:
        text = text.replace(escape, "")
    text = unicodedata.normalize("NFC", text).casefold()
    return [_components(group) for group in text.split("=")]


def _components(group: str) -> tuple[str, ...]:
    found = [component.strip(" \0") for component in group.split("^")]
    while found and not found[-1]:
        found.pop()
    return tuple(found)
