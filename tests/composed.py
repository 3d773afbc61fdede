"""docker/compose.yaml as tests read it: the services of a profile, and their processes on this machine's loopback."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["COMPOSE", "PROFILES", "ROOT", "Here", "compose", "content", "orthanc_configuration", "services"]

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "docker" / "compose.yaml"
PROFILES = ("cpu", "gpu", "scale", "scale-gpu")


def content(text: str, environment: Mapping[str, str]) -> str:
    """With `${NAME:-default}` put in, as Compose does before it reads the file."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: environment.get(found[1], found[2]), text)


def compose(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The whole file."""
    read: dict[str, Any] = yaml.safe_load(content(COMPOSE.read_text(), environment or {}))
    return read


def services(profile: str) -> dict[str, dict[str, Any]]:
    """The services that `--profile` starts."""
    return {name: each for name, each in compose()["services"].items() if profile in each["profiles"]}


def orthanc_configuration(environment: Mapping[str, str]) -> dict[str, Any]:
    """Orthanc's configuration as the base image's start makes it of `ORTHANC__SECTION__KEY`."""
    configuration: dict[str, Any] = {}
    for name, value in environment.items():
        if not name.startswith("ORTHANC__"):
            continue
        *sections, key = [_camel(part) for part in name.removeprefix("ORTHANC__").split("__")]
        place = configuration
        for section in sections:
            place = place.setdefault(section, {})
        try:
            place[key] = json.loads(value)
        except ValueError:
            place[key] = value
    return configuration


def _camel(words: str) -> str:
    if words == "POSTGRESQL":  # the one section whose name the image knows by heart
        return "PostgreSQL"
    return "".join(word.capitalize() for word in words.split("_"))


@dataclass(frozen=True)
class Here:
    """What stands on this machine for what a container has: `places`, the longest first, replaces text by text."""

    places: Mapping[str, str]

    def text(self, value: str) -> str:
        for there in sorted(self.places, key=len, reverse=True):
            value = value.replace(there, self.places[there])
        return value

    def environment(self, service: Mapping[str, Any]) -> dict[str, str]:
        """The service's, and of this machine's only what programs need to be found."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {**kept, **{name: self.text(value) for name, value in service["environment"].items()}}

    def command(self, words: list[str]) -> list[str]:
        """Compose's own escape is undone."""
        return [self.text(word.replace("$$", "$")) for word in words]
