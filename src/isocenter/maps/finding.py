"""One thing that is wrong with a package, or will be once it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Severity", "error", "warning"]

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """`name` stays the same from version to version, so that it can be waited for, or let pass, by scripts."""

    name: str
    severity: Severity  # error: the specification is broken, or it can not run; warning: it will bite
    where: str  # a path in the package, `file#key` in a manifest, or `image` and the name of a field
    message: str
    advice: str  # what to do about it


def error(name: str, where: str, message: str, advice: str) -> Finding:
    return Finding(name, "error", where, message, advice)


def warning(name: str, where: str, message: str, advice: str) -> Finding:
    return Finding(name, "warning", where, message, advice)
