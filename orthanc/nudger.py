# Part of Isocenter's script for Orthanc's Python plugin
#
# SPDX-License-Identifier: AGPL-3.0-or-later
#
# This program is free software: you can redistribute it and/or modify it under the terms of the GNU Affero
# General Public License as published by the Free Software Foundation, either version 3 of the License, or
# (at your option) any later version. It is distributed in the hope that it will be useful, but WITHOUT ANY
# WARRANTY; without even the implied warranty of MERCHANTABILITY or FITNESS FOR A PARTICULAR PURPOSE. See
# the file LICENSE beside this one.
"""Tells Isocenter's gateway that a series changed, and does nothing else.

It runs inside Orthanc, in the interpreter that Orthanc's plugin brings (Python 3.11 or newer), with the
standard library only. An event is a nudge and may be lost: what Isocenter counts by is Orthanc's log
`/changes`. So Orthanc never waits here: what changed goes into a small table, and a thread of its own posts
the table to `Isocenter.EventsUrl` of Orthanc's configuration.
"""

from __future__ import annotations

import http.client
import json
import threading
import urllib.parse
from collections.abc import Callable
from types import ModuleType
from typing import Any

Change = tuple[str, str]  # what happened, and to which of Orthanc's resources
Post = Callable[[bytes], None]

TIMEOUT_S = 2.0
LARGEST_PAUSE_S = 10.0


class Nudger:
    """Gathers changes and posts them from one background thread.

    The same change of the same series is kept once. When `capacity` changes wait, the oldest is dropped.
    """

    def __init__(
        self,
        describe: Callable[[Change], dict[str, str]],
        post: Post,
        warn: Callable[[str], None],
        capacity: int = 64,
    ) -> None:
        self._describe = describe
        self._post = post
        self._warn = warn
        self._capacity = capacity
        self._waiting: dict[Change, None] = {}
        self._wake = threading.Condition()
        self._stopped = False
        self._reachable = True
        self._thread = threading.Thread(target=self._run, name="isocenter-nudger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 2 * TIMEOUT_S) -> None:
        with self._wake:
            self._stopped = True
            self._wake.notify()
        self._thread.join(timeout_s)

    def add(self, change: Change) -> None:
        """Note a change. Returns at once."""
        with self._wake:
            self._waiting.pop(change, None)
            self._waiting[change] = None
            while len(self._waiting) > self._capacity:
                del self._waiting[next(iter(self._waiting))]
            self._wake.notify()

    def _run(self) -> None:
        pause_s = 0.0
        while changes := self._take(pause_s):
            pause_s = 0.0 if self._send(changes) else min(LARGEST_PAUSE_S, 2 * pause_s or 0.5)

    def _take(self, pause_s: float) -> list[Change]:
        """Wait for changes, at least `pause_s`, and take all of them. Empty once stopped."""
        with self._wake:
            self._wake.wait_for(lambda: self._stopped, timeout=pause_s)
            self._wake.wait_for(lambda: self._stopped or self._waiting)
            changes = [] if self._stopped else list(self._waiting)
            self._waiting.clear()
            return changes

    def _send(self, changes: list[Change]) -> bool:
        described = [found for change in changes if (found := self._describe(change))]
        if not described:
            return True
        try:
            self._post(json.dumps({"changes": described}).encode())
        except (OSError, http.client.HTTPException) as error:
            if self._reachable:
                self._warn(
                    f"Isocenter's gateway is not told of new series: {error}; it will find them in /changes"
                )
            self._reachable = False
            return False
        self._reachable = True
        return True


def http_post(url: str) -> Post:
    """A function that posts JSON to `url`; raises OSError or HTTPException when that fails."""
    parts = urllib.parse.urlsplit(url)
    connect = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection

    def post(body: bytes) -> None:
        connection = connect(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
        try:
            connection.request("POST", parts.path or "/", body, {"Content-Type": "application/json"})
            status = connection.getresponse().status
        finally:
            connection.close()
        if status >= 400:
            raise http.client.HTTPException(f"{url} answered {status}")

    return post


def describe(orthanc: ModuleType | Any, change: Change) -> dict[str, str]:
    """The change with the DICOM identifiers of its series; empty when the series is gone already."""
    what, series = change
    try:
        found = json.loads(orthanc.RestApiGet(f"/series/{series}"))
        study = json.loads(orthanc.RestApiGet(f"/studies/{found['ParentStudy']}"))
    except Exception:  # noqa: BLE001 - the plugin raises its own exception, which differs between its versions
        return {}
    return {
        "change": what,
        "series": found["MainDicomTags"]["SeriesInstanceUID"],
        "study": study["MainDicomTags"]["StudyInstanceUID"],
    }


def install(orthanc: ModuleType | Any) -> Nudger | None:
    """Register with the host. Without `Isocenter.EventsUrl` in its configuration nothing is registered."""
    url = json.loads(orthanc.GetConfiguration()).get("Isocenter", {}).get("EventsUrl", "")
    if not url:
        orthanc.LogWarning("Isocenter.EventsUrl is not configured: Isocenter is not told of new series")
        return None
    names = {
        orthanc.ChangeType.NEW_SERIES: "NewSeries",
        orthanc.ChangeType.STABLE_SERIES: "StableSeries",
    }
    nudger = Nudger(lambda change: describe(orthanc, change), http_post(url), orthanc.LogWarning)

    def on_change(change_type: int, _level: int, resource: str) -> None:
        if change_type in names:
            nudger.add((names[change_type], resource))
        elif change_type == orthanc.ChangeType.ORTHANC_STOPPED:
            nudger.stop()

    orthanc.RegisterOnChangeCallback(on_change)
    nudger.start()
    return nudger
