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

__all__ = ["ChangeLog"]

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

    def read(self) -> None:
        """Note everything that the log tells since the last time."""
        known = self._arrivals.position()
        since = self._start(known)
        while True:
            page = self._orthanc.changes(since)
            seen = self._touched(page.changes)
            if page.last != known or seen:
                created = {
                    c.resource for c in page.changes if c.kind == "NewSeries" and c.sequence > (known or 0)
                }
                self._arrivals.record(page.last, seen, time.time(), created=created)
            since = page.last
            if page.done:
                return

    def compare(self) -> None:
        """Find what the archive holds and nobody noted, and forget what it holds no more."""
        there, known = self._orthanc.series_resources(), self._arrivals.resources()
        for resource in known.keys() - there:
            self._arrivals.forget(resource)
        missed = set(there - known.keys())
        if self._everything and self._differs(sum(known[each] for each in known.keys() & there)):
            missed = set(there)
        for resource in missed:
            series = self._orthanc.series(resource)
            if series is not None:
                self._arrivals.found(series, time.time())

    def _differs(self, instances: int) -> bool:
        """Whether the archive holds another number of instances, and nothing is just arriving that would explain it."""
        count = self._orthanc.instance_count()
        return count != instances and self._orthanc.last_change() == self._arrivals.position()

    def _start(self, known: int | None) -> int:
        """Where to read on from, having read up to `known`."""
        newest = self._orthanc.last_change()
        if known is not None and known <= newest:
            return known
        # The first time; or the log has become shorter: images were deleted, which takes their lines away, or it is
        # another archive's. Ours is read from the start, which makes no work twice.
        if self._everything:
            log.info("reading the archive's changes from the beginning")
            return 0
        if known is None:
            self._arrivals.was_there(self._orthanc.series_resources() - self._arrivals.resources().keys())
        return newest

    def _touched(self, changes: Sequence[Change]) -> list[ArchiveSeries]:
        """The series that these changes are about, as they are now, with as few questions as possible."""
        instances = {change.resource for change in changes if change.kind == "NewInstance"}
        resources = [change.resource for change in changes if change.kind == "NewSeries"]
        if instances:
            resources += [arrival.resource for arrival in self._arrivals.settling()]
        seen: dict[str, ArchiveSeries] = {}
        while resources or instances:
            if not resources:
                parent = self._orthanc.series_of_instance(instances.pop())
                resources = [parent] if parent else []
                continue
            resource = resources.pop()
            series = None if resource in seen else self._orthanc.series(resource)
            if series is not None:
                seen[resource] = series
                instances -= series.instances
        return list(seen.values())
