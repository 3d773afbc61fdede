"""The fault test in its short form: whatever breaks, every study has exactly one current set of results in the end.

`ISOCENTER_CHAOS_SEED` repeats a run; the seed of each is printed. `make chaos` is the long form.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from postgres import running_postgres

from chaos.faults import FAULTS, POSTGRES_FAULTS
from chaos.modality import KINDS
from chaos.run import Report, run, told
from chaos.site import running_site

pytestmark = pytest.mark.integration

NUMBER = 32  # faults
STUDIES = 2 * len(KINDS)


@pytest.fixture
def seed() -> int:
    chosen = int(os.environ.get("ISOCENTER_CHAOS_SEED", random.randrange(1_000_000)))
    print(f"ISOCENTER_CHAOS_SEED={chosen}")  # noqa: T201 - shown by pytest when the test fails
    return chosen


def test_no_scan_is_lost_on_sqlite(tmp_path: Path, seed: int) -> None:
    with running_site(tmp_path) as site:
        report = run(site, FAULTS, faults=NUMBER, studies=STUDIES, seed=seed)
    assert_nothing_is_lost(report)


def test_no_scan_is_lost_on_postgresql_with_three_workers(tmp_path: Path, seed: int) -> None:
    with running_postgres() as server, running_site(tmp_path, postgres=server, workers=3) as site:
        report = run(site, POSTGRES_FAULTS, faults=NUMBER, studies=STUDIES, seed=seed)
    assert_nothing_is_lost(report)


def assert_nothing_is_lost(report: Report) -> None:
    told(report)
    assert sum(report.faults.values()) == NUMBER
    assert report.counted.lost == []
    assert report.counted.double == []
    assert report.counted.images_missing == []
    assert report.failed == []
    assert report.poisonous == STUDIES // len(KINDS)
    assert report.counted.superseded > 0
