"""The numbers of a job as people read them: a row for each region, a column for each measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["measurement_table", "measurement_title"]

_UNITS = {"percent": "%"}


def measurement_table(groups: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The header, with the units, and the rows; "-" where there is no number."""
    names = [name for name in (groups[0] if groups else {}) if name not in {"label", "notes"}]
    header = ["", *map(measurement_title, names)]
    return [
        header,
        *([str(group["label"]), *(_number(group.get(name)) for name in names)] for group in groups),
    ]


def measurement_title(name: str) -> str:
    """`volume_mL` -> `volume (mL)`."""
    words, _, unit = name.rpartition("_")
    return f"{words.replace('_', ' ')} ({_UNITS.get(unit, unit)})"


def _number(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else "-"
