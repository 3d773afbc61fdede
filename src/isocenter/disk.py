"""Whether the disk has room for more work."""

from __future__ import annotations

import shutil

from isocenter.settings import Settings

__all__ = ["shortage"]

_MB = 1_000_000


def shortage(settings: Settings) -> str | None:
    """None while the data folder's disk has the room it must keep, else one sentence for a person."""
    try:
        free_mb = shutil.disk_usage(settings.data_dir).free // _MB
    except OSError as error:  # not mounted any more
        return f"no new work is taken: data_dir {settings.data_dir} can not be used: {error.strerror}"
    if free_mb >= settings.limits.free_disk_mb:
        return None
    return (
        f"no new work is taken: the disk of {settings.data_dir} has {free_mb} MB free, and "
        f"limits.free_disk_mb is {settings.limits.free_disk_mb}"
    )
