"""The status page: what a job found, as a table with units; how long it took, whenever it was asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from isocenter.gateway.page import status_page
from isocenter.job import Job

BEGAN = datetime(2026, 1, 5, 8, 30, tzinfo=UTC)


def test_the_numbers_of_a_job_and_the_time_of_its_last_attempt() -> None:
    job = Job(
        id="f" * 64,
        state="done",
        application="ct_lung_density",
        route="chest",
        study_uid="1.2.3",
        priority="routine",
        series_uids=("1.2.3.4",),
        created=BEGAN,
        ended=BEGAN + timedelta(days=1),  # it was run again the day after
        attempts=2,
        groups=(
            {"label": "<Right> lung", "notes": ["cut off"], "volume_mL": 926.67, "laa_950_percent": None},
        ),
        seconds={"settle": 1.0, "inference": 2.5},
    )
    page = bytes(status_page([job], [], "").body).decode()
    assert "<th></th><th>volume (mL)</th><th>laa 950 (%)</th>" in page
    assert "<td>&lt;Right&gt; lung</td><td>926.7</td><td>-</td>" in page
    assert "&lt;Right&gt; lung: cut off" in page
    assert "<small>3.5 s</small>" in page
