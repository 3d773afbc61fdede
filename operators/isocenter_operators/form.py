"""In which form a site wants its results: for whom they are written, in which characters, with which words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydicom.dataset import Dataset

from isocenter_operators.dicom.header import DISCLAIMER
from isocenter_operators.dicom.results.profile import ANY, DestinationProfile
from isocenter_operators.dicom.unicode import in_unicode

__all__ = ["AS_SOURCE", "ResultForm"]


@dataclass(frozen=True)
class ResultForm:
    """`character_set`: that of the source images where it holds the text, or UTF-8 for all. `disclaimer`: stands in
    every result, where the standard has a place for it."""

    profile: DestinationProfile = ANY
    character_set: Literal["source", "UTF-8"] = "source"
    disclaimer: str = DISCLAIMER

    def given(self, results: Iterable[Dataset]) -> list[Dataset]:
        """The results that the destination wants, in this form. Raises InvalidResult where one is too large for it."""
        wanted = [result for result in results if self.profile.wants(str(result.get("SOPClassUID")))]
        for result in wanted:
            if self.character_set == "UTF-8":
                in_unicode(result)
            self.profile.refuse_large(result)
        return wanted


AS_SOURCE = ResultForm()
