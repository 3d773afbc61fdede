"""The fault test in its short form: whatever breaks, every study has exactly one current set of results in the end.

`ISOCENTER_CHAOS_SEED` repeats a run; the seed of each is printed. `make chaos` is the long form.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import httpx
import pytest
from postgres import running_postgres

from chaos.count import count
from chaos.report import Report, told
from chaos.run import run
from chaos.site import Site, running_site

pytestmark = [
    pytest.mark.integration,
    # pynetdicom leaves the socket of a refused connection to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

NUMBER = 32  # faults
STUDIES = 16  # of each kind one at least; of those that are sent in two parts two


@pytest.fixture
def seed() -> int:
    chosen = int(os.environ.get("ISOCENTER_CHAOS_SEED", random.randrange(1_000_000)))
    print(f"ISOCENTER_CHAOS_SEED={chosen}")  # noqa: T201 - shown by pytest when the test fails
    return chosen


def test_no_scan_is_lost_on_sqlite(tmp_path: Path, seed: int) -> None:
    with running_site(tmp_path) as site:
        report = run(site, faults=NUMBER, studies=STUDIES, seed=seed)
        assert_nothing_is_lost(report)
        assert_the_count_notices(site, report)


def test_no_scan_is_lost_on_postgresql_with_three_workers(tmp_path: Path, seed: int) -> None:
    with running_postgres() as server, running_site(tmp_path, postgres=server, workers=3) as site:
        report = run(site, faults=NUMBER, studies=STUDIES, seed=seed)
    assert_nothing_is_lost(report)


def assert_the_count_notices(site: Site, report: Report) -> None:
    """What all this stands on: without its report a study is lost, and without their mark old results are double."""
    plain = next(each for each in report.sent if each.kind == "plain")
    assert delete(site, {"StudyInstanceUID": plain.uid, "Modality": "SR"}) > 0
    assert delete(site, {"Modality": "KO"}) > 0
    noticed = count(f"{site.archive_url}/dicom-web", report.sent)
    assert len(noticed.lost) == 2  # of both applications
    assert all(plain.uid in each for each in noticed.lost)
    assert noticed.double


def delete(site: Site, query: dict[str, str]) -> int:
    """Delete the series of the archive that match, and give how many there were."""
    with httpx.Client(base_url=site.archive_url, timeout=20, trust_env=False) as archive:
        found = (
            archive.post("/tools/find", json={"Level": "Series", "Query": query}).raise_for_status().json()
        )
        for each in found:
            archive.delete(f"/series/{each}").raise_for_status()
        return len(found)


def assert_nothing_is_lost(report: Report) -> None:
    told(report)
    assert sum(report.faults.values()) == NUMBER
    assert report.wrong == []
    assert report.poisonous == report.poisonous_sent == 1
    assert report.marked_expected > 0
    assert report.counted.superseded >= report.marked_expected
