"""What the archive says has changed, noted durably: its ordered log, and now and then all that it holds.

Orthanc's log `/changes` is read on from the last sequence number that was recorded, so an event that was lost, or came
while nothing listened, loses nothing. The comparison finds what even the log did not tell.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from isocenter.arrivals import Arrivals
from isocenter.pacs import ArchiveSeries, Change, Orthanc
from isocenter_operators.errors import ArchiveUnavailable

__all__ = ["ChangeLog"]

_CHECK_S = 1.0  # of one look, for comparing series
_COUNTS = 3  # of the instances, until nothing arrives in between

log = logging.getLogger("isocenter.routing")


class ChangeLog:
    """Reads the archive into the table of arrivals. Raises ArchiveUnavailable, and SQLAlchemy's errors.

    `everything`: whether all that the archive holds is ours to route. What somebody else's archive held before we
    first looked was not sent to be analysed.
    """

    def __init__(self, orthanc: Orthanc, arrivals: Arrivals, *, everything: bool) -> None:
        self._orthanc = orthanc
        self._arrivals = arrivals
        self._everything = everything
        self._unchecked: list[str] = []  # resources that `check` has not come to yet
        # How many instances the archive held beside those that are known, when all was last compared.
        self._others = 0 if everything else None
        self._others_now = self._others

    def read(self) -> None:
        """Note everything that the log tells since the last time."""
        known, newest = self._arrivals.position(), self._arrivals.newest_position()
        since = self._start(known)
        while True:
            page = self._orthanc.changes(since)
            seen = self._touched(page.changes)
            if page.last != known or seen:
                # Read once more from the start, the log tells of nothing that was created since: to forget what was
                # decided about it would do all of it again.
                created = {c.resource for c in page.changes if c.kind == "NewSeries" and c.sequence > newest}
                self._arrivals.record(page.last, seen, time.time(), created=created)
            since = page.last
            if page.done:
                return

    def compare(self) -> bool:
        """Forget what the archive holds no more, and begin to check what nobody noted, or what may have grown.

        False when images arrived all the time, so that their number says nothing: to be called again.
        """
        for _ in range(_COUNTS):
            there, known = self._orthanc.series_resources(), self._arrivals.resources()
            for resource in known.keys() - there:
                self._arrivals.forget(resource)
            others = self._orthanc.instance_count() - sum(known[each] for each in known.keys() & there)
            quiet = self._orthanc.last_change() == self._arrivals.position()
            self._unchecked, self._others_now = sorted(there - known.keys()), self._others
            if others == self._others:
                return True
            if quiet:
                self._others_now = others
                self._unchecked += sorted(each for each in known.keys() & there if known[each])
                return True
            self.read()
        return False

    def check(self) -> bool:
        """Note some of what is to be checked, as it is now; whether nothing is left. One at fault holds up no other."""
        until = time.monotonic() + _CHECK_S
        while self._unchecked and time.monotonic() < until:
            resource = self._unchecked.pop()
            try:
                series = self._orthanc.series(resource)
            except ArchiveUnavailable as error:
                if not self._orthanc.answers():
                    self._unchecked.append(resource)
                    raise
                log.warning("series %s can not be compared: %s", resource, error)
                continue
            if series is not None:
                self._arrivals.found(series, time.time())
        if not self._unchecked:
            self._others = self._others_now
        return not self._unchecked

    def _start(self, known: int | None) -> int:
        """Where to read on from, having read up to `known`."""
        newest = self._orthanc.last_change()
        if known is not None and known <= newest:
            return known
        # The first time; or the log has become shorter: images were deleted, which takes their lines away, somebody
        # emptied it, or it is another archive's. Ours is read from the start, which makes no work twice.
        if self._everything:
            log.info("reading the archive's changes from the beginning")
            return 0
        if known is None:
            self._arrivals.was_there(self._orthanc.series_resources() - self._arrivals.resources().keys())
        return newest

    def _touched(self, changes: Sequence[Change]) -> list[ArchiveSeries]:
        """The series that these changes are about, as they are now; each is asked for once."""
        seen: dict[str, ArchiveSeries | None] = {}
        instances = {change.resource for change in changes if change.kind == "NewInstance"}

        def look(resource: str) -> None:
            if resource not in seen:
                seen[resource] = self._orthanc.series(resource)
            instances.difference_update(series.instances if (series := seen[resource]) else ())

        for change in changes:
            if change.kind == "NewSeries":
                look(change.resource)
        while instances:
            parent = self._orthanc.series_of_instance(instances.pop())
            if parent is not None:
                look(parent)
        return [series for series in seen.values() if series is not None]
