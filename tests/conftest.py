"""Fixtures that every kind of test uses."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real DICOM data: `$ISOCENTER_TEST_DATA/dicom`, else `../shared/dicom` beside the project."""
    folder = Path(os.environ.get("ISOCENTER_TEST_DATA", ROOT.parent / "shared")) / "dicom"
    if not folder.is_dir():
        message = f"no real DICOM data at {folder}; set ISOCENTER_TEST_DATA to the folder that holds dicom/"
        if os.environ.get("ISOCENTER_REQUIRE_TEST_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that gives a TCP port of loopback which was free a moment ago, a new one at each call."""

    def take() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port

    return take
