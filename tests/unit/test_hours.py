"""When a route's jobs may begin."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isocenter.hours import told, until_open_s
from isocenter.route import Hours

NIGHT = Hours(start=time(20), end=time(6))
DAY = Hours(start=time(8), end=time(17, 30))
WEEKDAY_NIGHTS = Hours(start=time(20), end=time(6), days=("Mon", "Tue", "Wed", "Thu", "Fri"))
HOUR = 3600.0


@pytest.mark.parametrize(
    ("hours", "now", "wait_s"),
    [
        (NIGHT, "2026-11-24 20:00", 0),
        (NIGHT, "2026-11-24 05:59", 0),
        (NIGHT, "2026-11-24 06:00", 14 * HOUR),
        (NIGHT, "2026-11-24 19:59:30", 30),
        (DAY, "2026-11-24 17:30", 14.5 * HOUR),
        (DAY, "2026-11-24 07:00", HOUR),
        (DAY, "2026-11-24 12:00", 0),
        # 2026-11-28 is a Saturday: Friday's night reaches into it, the next one is Monday's.
        (WEEKDAY_NIGHTS, "2026-11-28 05:59", 0),
        (WEEKDAY_NIGHTS, "2026-11-28 06:00", 62 * HOUR),
        (WEEKDAY_NIGHTS, "2026-11-30 05:00", 15 * HOUR),
        (Hours(start=time(8), end=time(9), days=("Tue",)), "2026-11-24 09:00", 7 * 24 * HOUR - HOUR),
    ],
)
def test_a_window_opens(hours: Hours, now: str, wait_s: float) -> None:
    assert until_open_s(hours, datetime.fromisoformat(now)) == wait_s


@given(
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)),
    st.times(),
    st.times(),
    st.sets(st.sampled_from(["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"])),
)
def test_after_the_wait_it_is_open(now: datetime, start: time, end: time, days: set[str]) -> None:
    if start == end:
        return
    hours = Hours.model_validate({"start": start, "end": end, "days": sorted(days)})
    wait_s = until_open_s(hours, now)
    assert 0 <= wait_s <= 8 * 24 * HOUR
    later = (now.astimezone() + timedelta(seconds=wait_s + 0.001)).astimezone().replace(tzinfo=None)
    window_s = (datetime.combine(now, end) - datetime.combine(now, start)).total_seconds() % (24 * HOUR)
    assert window_s < 0.01 or until_open_s(hours, later) == 0


def test_hours_are_read_as_they_are_written_and_come_back_from_json() -> None:
    hours = Hours.model_validate({"start": "8:00", "end": "17:30:15"})
    assert (hours.start, hours.end) == (time(8), time(17, 30, 15))
    assert Hours.model_validate(hours.model_dump(mode="json")) == hours
    with pytest.raises(ValueError, match="is no time of day like 20:00"):
        Hours(start=time(8, tzinfo=UTC), end=time(9))


def test_hours_are_told() -> None:
    assert told(NIGHT) == "20:00 to 06:00"
    assert told(WEEKDAY_NIGHTS) == "20:00 to 06:00 (Mon, Tue, Wed, Thu, Fri)"
