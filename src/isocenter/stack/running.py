"""The stack that runs on a data folder: one at a time, and with which settings."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import yaml
from pydantic import SecretStr
from pydantic_core import to_jsonable_python

from isocenter.settings import Settings
from isocenter_operators.errors import ConfigurationError

__all__ = ["exclusively", "running", "write"]

_TRIES, _PAUSE_S = 5, 0.05


def _folder(settings: Settings) -> Path:
    return settings.data_dir / "run"


@contextmanager
def exclusively(settings: Settings) -> Iterator[None]:
    """Hold the data folder. Raises ConfigurationError when another stack holds it, or it can not be written."""
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # it will hold patients' images
        _folder(settings).mkdir(exist_ok=True)
        lock = (_folder(settings) / "lock").open("a+")
    except OSError as error:
        raise ConfigurationError(
            f"data_dir: {settings.data_dir} can not be written: {error.strerror}"
        ) from error
    with lock:
        if not _taken(lock):
            lock.seek(0)
            raise ConfigurationError(
                f"another isocenter (process {lock.read().strip() or 'unknown'}) runs on {settings.data_dir}; "
                "stop it, or set another data_dir"
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _taken(lock: TextIO) -> bool:
    """Take the lock. A command that only asks whether a stack runs holds it for a moment."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_PAUSE_S)
        else:
            return True
    return False


def write(settings: Settings) -> Path:
    """Leave the settings where the children, and later commands, find them: with every password in them."""
    content = _plain(settings.model_dump(exclude_none=True))
    file = _folder(settings) / "settings.yaml"
    file.touch(mode=0o600)
    file.chmod(0o600)  # where it was there already
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    return file


def _plain(part: Any) -> Any:
    """As YAML can hold it, and each secret as it is: Pydantic itself would write asterisks."""
    if isinstance(part, SecretStr):
        return part.get_secret_value()
    if isinstance(part, dict):
        return {name: _plain(each) for name, each in part.items()}
    if isinstance(part, list | tuple):
        return [_plain(each) for each in part]
    return to_jsonable_python(part)


def running(settings: Settings) -> Settings | None:
    """The settings of the stack that runs on this data folder, None when none does."""
    try:
        with (_folder(settings) / "lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        file = _folder(settings) / "settings.yaml"
        return Settings.resolved(file) if file.exists() else None
    return None
