"""An error that nobody foresaw, told without its own text, which may quote a patient's data."""

from __future__ import annotations

import logging
import traceback

__all__ = ["log_way", "where"]


def where(error: BaseException) -> str:
    """The kind of an error and the line it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def log_way(log: logging.Logger, error: BaseException) -> None:
    """Log the way to an error: the traceback without its last line."""
    log.error("%s\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
