"""What the rules look at: the series of one study, asked of the archive once for each set of images.

What the archive does not hold as it was noted is neither judged nor remembered: it is noted as it is, and looked at
again.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from isocenter.arrivals import Arrival, Arrivals, fingerprint
from isocenter.pacs import Orthanc
from isocenter.rules import Series, place_in_series

__all__ = ["Changed", "View", "Views", "study_in_archive"]


class Changed(Exception):
    """The archive does not hold a series as it was noted."""


@dataclass(frozen=True)
class View:
    """A series with exactly the images that were noted."""

    series: Series
    sop_instance_uids: tuple[str, ...]


class Views:
    """The series of one study. Raises ArchiveUnavailable, and Changed."""

    def __init__(self, orthanc: Orthanc, arrivals: Arrivals) -> None:
        self._orthanc = orthanc
        self._arrivals = arrivals
        self._glances: dict[str, tuple[str, Series]] = {}  # by resource, with the fingerprint they are of
        self._views: dict[str, tuple[str, View]] = {}

    def glance(self, arrival: Arrival) -> Series:
        """A series that may still be arriving, by any one instance: cheap, as it is asked again at every image."""
        print_of, known = self._glances.get(arrival.resource, ("", None))
        if known is not None and print_of == arrival.fingerprint:
            return known
        series = self._orthanc.series(arrival.resource)
        if series is None:
            self._arrivals.forget(arrival.resource)
            raise Changed
        attributes = self._attributes(min(series.instances))
        every = partial(self._orthanc.every_attributes, arrival.resource)
        seen = Series(arrival.study_uid, arrival.series_uid, arrival.instances, attributes, every)
        self._glances[arrival.resource] = arrival.fingerprint, seen
        return seen

    def view(self, arrival: Arrival) -> View:
        """A series that is complete, by its first instance."""
        print_of, known = self._views.get(arrival.resource, ("", None))
        if known is not None and print_of == arrival.fingerprint:
            return known
        instances = self._orthanc.instances(arrival.resource)
        if fingerprint(each.resource for each in instances) != arrival.fingerprint:
            self.refuse_changed(arrival)
            raise Changed
        first = min(instances, key=lambda each: place_in_series(each.number, each.sop_instance_uid))
        series = Series(
            arrival.study_uid,
            arrival.series_uid,
            arrival.instances,
            self._attributes(first.resource),
            partial(self._every, arrival),
        )
        seen = View(series, tuple(sorted(each.sop_instance_uid for each in instances)))
        self._views[arrival.resource] = arrival.fingerprint, seen
        return seen

    def refuse_changed(self, arrival: Arrival) -> None:
        """Raises Changed, and notes the series as it is, when that is not what was noted.

        Not quiet after all, or images were deleted, which the log does not tell by series.
        """
        series = self._orthanc.series(arrival.resource)
        if series is None:
            self._arrivals.forget(arrival.resource)
            raise Changed
        if fingerprint(series.instances) != arrival.fingerprint:
            self._arrivals.mended(series, time.time())
            raise Changed

    def _attributes(self, instance: str) -> Mapping[str, Any]:
        attributes = self._orthanc.attributes(instance)
        if attributes is None:
            raise Changed
        return attributes

    def _every(self, arrival: Arrival) -> Sequence[Mapping[str, Any]]:
        found = self._orthanc.every_attributes(arrival.resource)
        if len(found) != arrival.instances:
            raise Changed
        return found


def study_in_archive(orthanc: Orthanc, study_uid: str) -> list[Series]:
    """The series of a study as the archive holds them now, without results of ours; whether they were noted or not."""
    found = []
    for each in orthanc.study_series(study_uid):
        instances = orthanc.instances(each.resource)
        first = min(
            instances, key=lambda one: place_in_series(one.number, one.sop_instance_uid), default=None
        )
        attributes = orthanc.attributes(first.resource) if first else None
        if attributes is None:
            continue  # it was deleted just now
        every = partial(orthanc.every_attributes, each.resource)
        series = Series(each.study_uid, each.series_uid, len(instances), attributes, every)
        found += [] if series.ours else [series]
    return found
