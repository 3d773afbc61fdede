"""When a route's jobs may begin, by the service's own clock."""

from __future__ import annotations

from datetime import datetime, timedelta

from isocenter.job import JobSpec
from isocenter.route import Hours

__all__ = ["closed", "told", "until_open_s"]

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def closed(spec: JobSpec, now: datetime) -> tuple[float, str]:
    """Seconds until this job may begin, and what a person is told meanwhile; 0 and "" when it may. STAT always may."""
    if spec.hours is None or spec.priority == "STAT":
        return 0.0, ""
    wait_s = until_open_s(spec.hours, now)
    return wait_s, f"waits for its hours, {told(spec.hours)}" if wait_s > 0 else ""


def until_open_s(hours: Hours, now: datetime) -> float:
    """Seconds from `now` until jobs may begin, 0 where they may. `now` in local time, aware of its zone or naive.

    A night on which the clocks change is an hour longer or shorter, as it is for everybody.
    """
    today = now.replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
    naive = now.replace(tzinfo=None)
    # Yesterday's window may reach into today; the next one is at most a week away.
    for day in (today + timedelta(days=number) for number in range(-1, 8)):
        if hours.days and _DAYS[day.weekday()] not in hours.days:
            continue
        start = datetime.combine(day, hours.start)
        end = datetime.combine(day if hours.start < hours.end else day + timedelta(days=1), hours.end)
        if start <= naive < end:
            return 0.0
        if start > naive:
            # astimezone() reads a naive time as local: so the difference is of real time.
            zoned = now if now.tzinfo else now.astimezone()
            return (start.astimezone() - zoned).total_seconds()
    raise AssertionError("every week has each day")


def told(hours: Hours) -> str:
    """The hours for a person."""
    days = f" ({', '.join(hours.days)})" if hours.days else ""
    return f"{hours.start:%H:%M} to {hours.end:%H:%M}{days}"
