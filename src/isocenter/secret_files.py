"""Settings that stand in files of their own: `ISOCENTER_ORTHANC__PASSWORD_FILE=/run/secrets/orthanc_password`.

So a password stands neither in the environment, which every process of a container shows, nor in isocenter.yaml.
Compose and Kubernetes both mount secrets as such files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from isocenter_operators.errors import ConfigurationError

__all__ = ["SUFFIX", "with_empty", "with_files"]

SUFFIX = "_FILE"
_PREFIX = "ISOCENTER_"
_LARGEST_BYTES = 65536


def with_files(environment: Mapping[str, str], keys: Collection[str]) -> dict[str, str]:
    """The environment with what the files say that variables ending in `_FILE` name, under the names without it.

    keys: those at the top of isocenter.yaml; other variables are not ours, and stay as they are. A line break at a
    file's end is not part of its content. Raises ConfigurationError, naming the variable and never the content, where a
    file can not be read or is empty, or where the variable without `_FILE` is set too.
    """
    given = {name.upper(): name for name in environment}
    read = dict(environment)
    for upper, name in given.items():
        plain = upper.removesuffix(SUFFIX)
        ours = upper.startswith(_PREFIX) and plain.removeprefix(_PREFIX).lower().split("__")[0] in keys
        if plain == upper or not ours:
            continue
        if plain in given:
            raise ConfigurationError(f"environment variables {given[plain]} and {name}: set one of them")
        read[plain] = _content(name, Path(read.pop(name)))
    return read


def _content(variable: str, file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST_BYTES + 1)
        if len(content) > _LARGEST_BYTES:
            raise ConfigurationError(f"environment variable {variable}: {file} is larger than 64 KiB")
        text = content.decode().rstrip("\r\n")
    except OSError as error:
        raise ConfigurationError(
            f"environment variable {variable}: {file} can not be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"environment variable {variable}: {file} is no text in UTF-8") from error
    if not text:
        raise ConfigurationError(f"environment variable {variable}: {file} is empty")
    return text


def with_empty(content: Mapping[str, Any], places: Iterable[tuple[str, ...]]) -> dict[str, Any]:
    """The same with an empty text at each of these places, as far as they are in sections: a number has no keys."""
    changed = deepcopy(dict(content))
    for *sections, key in places:
        section: Any = changed
        for name in sections:
            if section.get(name) is None:  # nothing stands behind `orthanc:`
                section[name] = {}
            section = section[name]
            if not isinstance(section, dict):
                break
        else:
            section[key] = ""
    return changed
