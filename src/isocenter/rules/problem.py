"""What is wrong with a rule, and where in the configuration it stands."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from isocenter_operators.errors import ConfigurationError

__all__ = ["Place", "Problem", "WrongCondition", "meant"]

Place = tuple[str | int, ...]  # the keys and indices that lead to something in the configuration


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a rule: `place` leads to it, as in ("routes", 0, "when", "Modalty")."""

    place: Place
    message: str
    route: str = ""

    def __str__(self) -> str:
        """For a person: `routes.0 (chest CT): when.Modalty: not a DICOM keyword; did you mean Modality?`."""
        inside = ".".join(map(str, self.place[2:]))
        where = ".".join(map(str, self.place[:2])) + (f" ({self.route})" if self.route else "")
        return ": ".join(part for part in (where, inside, self.message) if part)


class WrongCondition(ConfigurationError):
    """A condition that can not be read. `place` leads to it from where the conditions begin."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


def meant(given: str, possible: Iterable[str]) -> str:
    """`; did you mean Modality?`, or nothing where no name is near."""
    near = get_close_matches(given, list(possible), 1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""
