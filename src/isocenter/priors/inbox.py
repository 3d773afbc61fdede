"""Where the images of one series arrive by C-STORE, for one job, and nothing else is taken."""

from __future__ import annotations

import time
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pynetdicom import evt

from isocenter_operators.errors import StorageFull

__all__ = ["Inbox"]

_OUT_OF_RESOURCES, _NOT_WHAT_WAS_ASKED, _NOT_UNDERSTOOD = 0xA700, 0xA900, 0xC000  # PS3.4, B.2.3


class Inbox:
    """Writes what arrives, as it was sent, into one folder. Every thread of a server may call `store`."""

    def __init__(self, folder: Path, study_uid: str, series_uid: str) -> None:
        self._folder = folder
        self._asked = (study_uid, series_uid)
        self._full = False
        self.heard = time.monotonic()  # when the other side last gave a sign of life

    def store(self, event: evt.Event) -> int:
        """The status of one C-STORE request."""
        self.beat()
        content = event.encoded_dataset()
        try:
            header = dcmread(
                BytesIO(content), specific_tags=["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
            )
            arrived = (str(header.StudyInstanceUID), str(header.SeriesInstanceUID))
            name = f"{int(header.SOPInstanceUID.replace('.', '')):x}.dcm"  # no path can hide in a number
        except (InvalidDicomError, EOFError, ValueError, KeyError, AttributeError, NotImplementedError):
            return _NOT_UNDERSTOOD
        if arrived != self._asked:
            return _NOT_WHAT_WAS_ASKED
        try:
            (self._folder / name).write_bytes(content)
        except OSError:
            self._full = True
            return _OUT_OF_RESOURCES
        return 0

    def beat(self) -> None:
        """A sign of life that is no image."""
        self.heard = time.monotonic()

    def refuse_full(self) -> None:
        """Raises StorageFull when there was no room for an image."""
        if self._full:
            raise StorageFull(f"no room for priors in {self._folder}: free some space")
