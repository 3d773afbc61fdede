"""The status page: what a job found, as a table with units; how long it took, whenever it was asked for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from isocenter.arrivals import Arrival
from isocenter.gateway.page import status_page
from isocenter.job import Job

BEGAN = datetime(2026, 1, 5, 8, 30, tzinfo=UTC)


def job_of(**others: Any) -> Job:
    known = {
        "id": "f" * 64,
        "state": "done",
        "application": "ct_lung_density",
        "route": "chest",
        "study_uid": "1.2.3",
        "priority": "routine",
        "series_uids": ("1.2.3.4",),
        "created": BEGAN,
        "ended": BEGAN + timedelta(days=1),  # it was run again the day after
        "attempts": 2,
    }
    return Job(**{**known, **others})


def page_of(*jobs: Job, **others: Any) -> str:
    return bytes(status_page(jobs, [], "", **others).body).decode()


def test_the_numbers_of_a_job_and_the_time_of_its_last_attempt() -> None:
    job = job_of(
        groups=(
            {"label": "<Right> lung", "notes": ["cut off"], "volume_mL": 926.67, "laa_950_percent": None},
        ),
        seconds={"settle": 1.0, "inference": 2.5},
    )
    page = page_of(job)
    assert "<th></th><th>volume (mL)</th><th>laa 950 (%)</th>" in page
    assert "<td>&lt;Right&gt; lung</td><td>926.7</td><td>-</td>" in page
    assert "&lt;Right&gt; lung: cut off" in page
    assert "<small>3.5 s</small>" in page


def test_a_superseded_job_names_the_one_that_replaces_it_and_can_not_be_run_again() -> None:
    old, new = job_of(superseded_by="a" * 64), job_of(id="a" * 64, priority="STAT")
    page = page_of(new, old)
    first, second = page.split('<tr id="job-')[1:]
    assert first.startswith(f'{"a" * 12}"><td class="done">done</td>')
    assert "<small>STAT</small>" in first
    assert f"/api/jobs/{'a' * 64}/retry" in first
    assert second.startswith(f'{"f" * 12}" class="superseded"')
    assert f'superseded by <a href="#job-{"a" * 12}" class="uid">job {"a" * 12}</a>' in second
    assert "<small>routine</small>" in second
    assert "/retry" not in second


def test_a_series_that_waits_says_what_for() -> None:
    coming = Arrival("r", "1.2.3", "1.2.3.4", 3, "f", 1.0, 2.0, True, False)
    page = bytes(status_page([], [coming], "").body).decode()
    assert '<td class="queued">settling</td>' in page
    assert "<td>images may still be coming</td>" in page
    waiting = replace(coming, waiting="brain: waits for <a T2>, 60 s at most")
    page = bytes(status_page([], [waiting], "").body).decode()
    assert '<td class="queued">waiting</td>' in page
    assert "<td>brain: waits for &lt;a T2&gt;, 60 s at most</td>" in page


def test_destinations_say_how_they_stand() -> None:
    assert "Destinations" not in page_of()
    page = page_of(
        destinations={
            "vna": {"waiting": 0, "failed": 0, "failing_since": None, "reason": ""},
            "<ris>": {
                "waiting": 3,
                "failed": 1,
                "failing_since": "2026-01-05T08:30:00+00:00",
                "reason": "ris does not <answer>",
            },
        }
    )
    assert '<td class="done">up to date</td><td>vna</td><td>0</td><td>0</td>' in page
    assert (
        '<td class="failed">away</td><td>&lt;ris&gt;</td><td>3</td><td><span class="failed">1</span></td>'
        in page
    )
    assert "<td>ris does not &lt;answer&gt;</td><td>2026-01-05 08:30:00</td>" in page
