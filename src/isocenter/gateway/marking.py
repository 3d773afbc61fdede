"""Superseded results as a reader sees them: left out of DICOM JSON answers, or called superseded in them."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy.exc import SQLAlchemyError

from isocenter.database import database_error, prepare
from isocenter.ledger import Ledger
from isocenter.route import Superseded
from isocenter.settings import Settings

__all__ = ["PREFIX", "Listing", "Marking", "listing_of", "marked"]

PREFIX = "SUPERSEDED: "

_SERIES_INSTANCE_UID, _SERIES_DESCRIPTION = "0020000E", "0008103E"
_LONGEST = 64  # characters of a Long String (PS3.5, 6.2)
_FRESH_S = 1.0
_STUDIES_REMEMBERED = 1000

_Level = Literal["series", "instances", "metadata"]
_STUDY = "studies/(?P<study>[^/]+)"
_SERIES = f"{_STUDY}/series/(?P<series>[^/]+)"
_LISTINGS: tuple[tuple[_Level, re.Pattern[str]], ...] = (
    ("series", re.compile("series")),
    ("series", re.compile(f"{_STUDY}/series")),
    ("instances", re.compile("instances")),
    ("instances", re.compile(f"{_STUDY}/instances")),
    ("instances", re.compile(f"{_SERIES}/instances")),
    ("metadata", re.compile(f"{_STUDY}/metadata")),
    ("metadata", re.compile(f"{_SERIES}/metadata")),
    ("metadata", re.compile(f"{_SERIES}/instances/[^/]+/metadata")),
)

_Attributes = dict[str, Any]  # one item of DICOM JSON (PS3.18, F.2)


@dataclass(frozen=True)
class Listing:
    """A resource whose answer tells of series or instances. Of which study and series: None where of any."""

    level: _Level
    study_uid: str | None = None
    series_uid: str | None = None


def listing_of(path: str) -> Listing | None:
    """What a path below the service's root lists (PS3.18, 10.4.1, 10.6.1); None where it lists no series."""
    for level, pattern in _LISTINGS:
        found = pattern.fullmatch(path.rstrip("/"))
        if found is not None:
            named = found.groupdict()
            return Listing(level, named.get("study"), named.get("series"))
    return None


class Marking:
    """Which series hold superseded results, by the ledger. Safe to use from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger: Ledger | None = None
        self._opening = threading.Lock()
        self._remembered: dict[str | None, tuple[float, Mapping[str, Superseded]]] = {}

    def of(self, listing: Listing) -> Mapping[str, Superseded]:
        """The superseded series that this listing may hold, each with what becomes of it.

        While the database is away, as it was when it was last asked; raises Unavailable where it never was.
        """
        superseded = self._of_study(listing.study_uid)
        if listing.series_uid is None:
            return superseded
        return {uid: policy for uid, policy in superseded.items() if uid == listing.series_uid}

    def _of_study(self, study_uid: str | None) -> Mapping[str, Superseded]:
        known = self._remembered.get(study_uid)
        if known is not None and time.monotonic() - known[0] < _FRESH_S:
            return known[1]
        try:
            superseded = self._opened().superseded_series(study_uid)
        except SQLAlchemyError as error:
            if known is not None:
                return known[1]
            raise database_error(self._settings, error) from error
        if len(self._remembered) >= _STUDIES_REMEMBERED:
            self._remembered.clear()
        self._remembered[study_uid] = time.monotonic(), superseded
        return superseded

    def _opened(self) -> Ledger:
        """Raises Unavailable and SQLAlchemy's errors."""
        with self._opening:
            if self._ledger is None:
                prepare(self._settings)
                self._ledger = Ledger(self._settings.database)
            return self._ledger


def marked(
    answer: Sequence[_Attributes], listing: Listing, superseded: Mapping[str, Superseded]
) -> list[_Attributes]:
    """The answer without what is hidden, and with what is kept called superseded.

    Who asks for the metadata of a hidden series by its UID gets it, called superseded too, as the images themselves can
    be had by their UIDs: whoever knows these has not found them here.
    """
    by_uid = listing.level == "metadata" and listing.series_uid is not None
    shown = []
    for item in answer:
        policy = superseded.get(_series_uid(item) or listing.series_uid or "")
        if policy is None:
            shown.append(item)
        elif by_uid or policy != "hide":
            shown.append(_called_superseded(item, always=listing.level != "instances"))
    return shown


def _series_uid(item: _Attributes) -> str | None:
    values = item.get(_SERIES_INSTANCE_UID, {}).get("Value") or [None]
    uid: str | None = values[0]
    return uid


def _called_superseded(item: _Attributes, *, always: bool) -> _Attributes:
    """A list of instances names its series only where it was asked to; all others do."""
    if not always and _SERIES_DESCRIPTION not in item:
        return item
    values = item.get(_SERIES_DESCRIPTION, {}).get("Value") or [""]
    described = f"{PREFIX}{values[0] or ''}"[:_LONGEST].strip()
    return {**item, _SERIES_DESCRIPTION: {"vr": "LO", "Value": [described]}}
