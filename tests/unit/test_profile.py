"""What a destination takes decides how a segmentation is written for it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    RLELossless,
    SegmentationStorage,
)

from isocenter_operators.dicom.results.profile import ANY, MODERN, DestinationProfile, profile_of
from isocenter_operators.errors import ConfigurationError, InvalidResult


def test_the_default_is_what_every_archive_takes() -> None:
    assert profile_of("any") == ANY == DestinationProfile()
    assert ANY.segmentation == "BINARY"
    assert ANY.transfer_syntax("BINARY") == ANY.transfer_syntax("FRACTIONAL") == ExplicitVRLittleEndian


def test_run_lengths_are_for_whole_bytes_alone() -> None:
    assert MODERN.transfer_syntax(MODERN.segmentation) == RLELossless
    assert MODERN.transfer_syntax("BINARY") == ExplicitVRLittleEndian
    both = profile_of({"transfer_syntaxes": ["RLELossless", "DeflatedExplicitVRLittleEndian"]})
    assert both.transfer_syntax("BINARY") == DeflatedExplicitVRLittleEndian
    assert both.transfer_syntax("FRACTIONAL") == RLELossless


def test_fields_are_those_of_the_profile_they_are_like() -> None:
    assert profile_of({"like": "modern", "pictures": False}) == DestinationProfile(
        segmentation="LABELMAP", transfer_syntaxes=("RLELossless",), pictures=False
    )
    assert profile_of(MODERN) is MODERN


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("modem", "there is none called 'modem'; known are any, modern"),
        ({"like": 3}, "there is none called 3"),
        (
            {"segmentations": "BINARY"},
            "there is no 'segmentations'; known are documents, largest_instance_mb",
        ),
        ({"segmentation": "labelmap"}, "segmentation is 'labelmap'; it may be BINARY or LABELMAP"),
        ({"transfer_syntaxes": ["JPEG2000"]}, "transfer_syntaxes is 'JPEG2000'; it may be RLELossless and"),
        ({"largest_instance_mb": 0}, "largest_instance_mb is 0; it may be a whole number"),
        ({"pictures": "no"}, "pictures is 'no'; it may be true or false"),
    ],
)
def test_what_is_wrong_is_named(given: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        profile_of(given)


def test_what_is_too_large_is_refused() -> None:
    result = Dataset()
    result.SOPClassUID, result.SOPInstanceUID, result.SeriesInstanceUID = (
        SegmentationStorage,
        "1.2.3",
        "1.2.4",
    )
    result.add_new("PixelData", "OB", bytes(3 << 20))
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    profile_of({"largest_instance_mb": 4}).refuse_large(result)
    small = profile_of({"largest_instance_mb": 3})
    with pytest.raises(
        InvalidResult, match="has 4 MB and its destination takes 3 MB; write it as LABELMAP or"
    ):
        small.refuse_large(result)
    result.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    small.refuse_large(result)
