"""What a job's answer says of one region: its numbers, a classifier's answers, and where a box lies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from isocenter_operators.dicom.findings import Box

__all__ = ["FoundGroup", "notes_of", "said_in"]

# What each key is where it is the group's own (`isocenter_operators.run.GROUP_KEYS`), and no measurement that an
# earlier release has written over it.
_OWN = {"label": str, "notes": Sequence, "box": Mapping, "measurements": Mapping}

# Boxes of jobs that were done by an earlier release, which did not note where they lie.
_SIZES = {"width_mm", "depth_mm", "height_mm"}
_NUMBERED = re.compile(r"(.+) \d+")


def said_in(group: Mapping[str, Any]) -> dict[str, Any]:
    """The measurements and answers of a group, by name."""
    said = {name: value for name, value in group.items() if not _is_own(name, value)}
    below = group.get("measurements")
    return {**said, **below} if isinstance(below, Mapping) else said


def notes_of(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """The notes of all groups, each with what it is about."""
    return [
        f"{group['label']}: {note}"
        for group in groups
        if _is_own("notes", notes := group.get("notes", ()))
        for note in notes
    ]


def _is_own(name: str, value: Any) -> bool:
    own = _OWN.get(name)
    return own is not None and isinstance(value, own) and not (own is Sequence and isinstance(value, str))


@dataclass(frozen=True)
class FoundGroup:
    """One group as `Job.groups` has it. `numbers`: None where there was one that is none, as of an empty region.

    `kind`: what a box is one of, "" where the group is about something else. `box`: None also where it is not known
    where that lies.
    """

    label: str
    numbers: Mapping[str, float | None] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    box: Box | None = None

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> Self:
        label, place = str(group["label"]), group.get("box")
        said = said_in(group)
        box = None
        if isinstance(place, Mapping):
            kind, box = str(place["kind"]), Box(_three(place["centre_mm"]), _three(place["size_mm"]))
        else:
            numbered = _NUMBERED.fullmatch(label) if said.keys() >= _SIZES else None
            kind = numbered[1] if numbered else ""
        return cls(
            label=label,
            numbers={
                name: None if value is None else float(value)
                for name, value in said.items()
                if not isinstance(value, str)
            },
            answers={name: value for name, value in said.items() if isinstance(value, str)},
            kind=kind,
            box=box,
        )


def _three(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(each) for each in values)
    return x, y, z
