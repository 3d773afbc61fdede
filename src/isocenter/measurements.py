"""The numbers of a job as people read them: a row for each region, a column for each measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from isocenter.job_groups import said_in

__all__ = ["measurement_table", "measurement_title"]

# What the last word of a measurement's name may be; any other one is a word of the name.
_UNITS = {each: each for each in ("mL", "mm", "cm", "mm2", "cm2", "mm3", "HU", "ms", "s", "years", "g", "mg")}
_UNITS["percent"] = "%"


def measurement_table(groups: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The header, with the units, and the rows; "-" where there is no number and no answer."""
    said = [said_in(group) for group in groups]
    names = list(dict.fromkeys(name for each in said for name in each))
    header = ["", *map(measurement_title, names)]
    return [
        header,
        *(
            [str(group["label"]), *(_cell(values.get(name)) for name in names)]
            for group, values in zip(groups, said, strict=True)
        ),
    ]


def measurement_title(name: str) -> str:
    """`volume_mL` -> `volume (mL)`."""
    words, _, unit = name.rpartition("_")
    if not words or unit not in _UNITS:
        return name.replace("_", " ")
    return f"{words.replace('_', ' ')} ({_UNITS[unit]})"


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return _figure(value) if isinstance(value, int | float) else "-"


def _figure(value: float) -> str:
    """With one decimal; below 1 with three significant digits, as a probability or a coefficient is all decimals."""
    return f"{value:.3g}" if value and abs(round(value, 3)) < 1 else f"{value:.1f}"
