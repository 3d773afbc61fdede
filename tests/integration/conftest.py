"""Fixtures of the tests against real servers and the real queue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from isocenter.jobs import Jobs
from isocenter.settings import Settings


@pytest.fixture
def jobs(settings: Settings) -> Iterator[Jobs]:
    """The queue of the test's own settings."""
    queue = Jobs(settings)
    yield queue
    queue.close()
