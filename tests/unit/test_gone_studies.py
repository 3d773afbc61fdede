"""What is known of studies that the archive has not held for long is forgotten, and nothing that is needed yet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from isocenter.arrivals import Arrivals, Verdict
from isocenter.gone_studies import GoneStudies
from isocenter.job import JobSpec
from isocenter.jobs import Jobs
from isocenter.ledger import Ledger
from isocenter.notices import Notices
from isocenter.pacs import ArchiveSeries
from isocenter.settings import Settings
from isocenter_operators.dicom.identity import Algorithm

DAY_S = 86400.0
RESULT = {"sop_instance_uid": "2.25.1", "series_uid": "2.25.2", "modality": "SEG"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "apps").mkdir()
    return Settings(data_dir=tmp_path / "data", apps_dir=tmp_path / "apps", routes=())


@pytest.fixture
def jobs(settings: Settings) -> Iterator[Jobs]:
    made = Jobs(settings)
    made.list()  # which makes the database
    yield made
    made.close()


def came(settings: Settings, number: int) -> None:
    series = ArchiveSeries(f"r{number}", f"1.{number}", f"2.{number}", frozenset({f"i{number}"}))
    Arrivals(settings.database).record(number, [series], now=1.0)


def spec(number: int, **other: object) -> JobSpec:
    asked = JobSpec(
        Algorithm("trivial", "1.0", {}), f"1.{number}", (f"2.{number}",), (f"3.{number}",), "everything"
    )
    return replace(asked, **other)  # type: ignore[arg-type]


def ended(settings: Settings, number: int, **other: object) -> str:
    """A job that only the ledger knows of."""
    asked, ledger = spec(number, **other), Ledger(settings.database)
    job_id = asked.identity.job_id
    ledger.enter(asked)
    ledger.begin(job_id, "worker", "life")
    ledger.store(job_id, [RESULT])
    ledger.end(job_id, "done")
    return job_id


def forgets(settings: Settings, jobs: Jobs) -> list[str]:
    """The studies that are left, when they were found gone and two years have passed."""
    gone = GoneStudies(settings, jobs)
    assert gone.forget() == 0
    gone.forget(time.time() + 730 * DAY_S)
    return sorted({each.study_uid for each in Ledger(settings.database).newest(100)})


def test_what_the_archive_holds_or_somebody_has_to_see_to_stays(settings: Settings, jobs: Jobs) -> None:
    arrivals, ledger = Arrivals(settings.database), Ledger(settings.database)
    for number in range(1, 8):
        came(settings, number)
        arrivals.judge(f"1.{number}", [Verdict("r", "trivial", None, "no", "f")])
    ended(settings, 1)
    ended(settings, 2)
    ended(settings, 3)
    ledger.enter(spec(3, sop_instance_uids=("3.3", "3.33")))  # another one, which waits
    ended(settings, 4, destinations=("ris",))  # of whose end the outbox does not know
    ended(settings, 5, outcome="always")  # whose study is to be told
    jobs.submit(spec(6))
    jobs.cancel(spec(6).identity.job_id)  # the queue has a record of it
    for number in range(2, 8):  # all but the first are deleted from the archive; of 7 there never was a job
        arrivals.forget(f"r{number}")
    assert forgets(settings, jobs) == ["1.1", "1.3", "1.4", "1.5", "1.6"]
    assert arrivals.judged_and_gone("", 10) == ["1.3", "1.4", "1.5", "1.6"]
    came(settings, 2)
    assert [each.verdicts for each in arrivals.of_study("1.2")] == [()]

    ledger.posted(ledger.of_study("1.4")[0])
    notices = Notices(settings.database)
    notices.settled(notices.open()[0])
    assert forgets(settings, jobs) == ["1.1", "1.3", "1.6"]
    assert notices.newest([spec(5).identity.job_id]) == {}


def test_a_study_that_came_back_in_between_is_as_if_it_had_never_gone(settings: Settings, jobs: Jobs) -> None:
    arrivals, now = Arrivals(settings.database), time.time()
    came(settings, 1)
    ended(settings, 1)
    arrivals.forget("r1")
    gone = GoneStudies(settings, jobs)
    assert gone.forget(now + 400 * DAY_S) == 0
    came(settings, 1)
    arrivals.forget("r1")
    assert gone.forget(now + 800 * DAY_S) == 0  # since then
    assert gone.forget(now + 1100 * DAY_S) == 0
    assert gone.forget(now + 1200 * DAY_S) == 1


def test_many_studies_are_looked_at_in_parts(
    settings: Settings, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isocenter.gone_studies._AT_ONCE", 2)
    for number in range(1, 8):
        if number % 3 == 0:
            came(settings, number)
        ended(settings, number)
    assert forgets(settings, jobs) == ["1.3", "1.6"]
