"""How a worker shows that it is there: a file with its process number in the data folder."""

from __future__ import annotations

import os
from pathlib import Path

from isocenter.settings import Settings

__all__ = ["announce", "missing", "withdraw"]


def _file(settings: Settings) -> Path:
    return settings.data_dir / "run" / f"{settings.worker.name}.pid"


def announce(settings: Settings) -> None:
    """Say that this process takes jobs."""
    file = _file(settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_suffix(f".{os.getpid()}")
    draft.write_text(str(os.getpid()))
    draft.replace(file)


def withdraw(settings: Settings) -> None:
    _file(settings).unlink(missing_ok=True)


def missing(settings: Settings) -> str | None:
    """None while a worker is there, otherwise one sentence."""
    try:
        pid = int(_file(settings).read_text())
        os.kill(pid, 0)
    except (FileNotFoundError, ValueError):
        return "the worker is still loading its applications"
    except ProcessLookupError:
        return "the worker has ended"
    except PermissionError:
        return None  # it is there, and belongs to somebody else
    return None
