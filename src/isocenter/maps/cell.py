"""What a package is run in, before it is known by which means: its file system, its environment, whom it runs as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from isocenter.maps.mounts import Mount
from isocenter.maps.user import User

__all__ = ["Cell"]


@dataclass(frozen=True)
class Cell:
    """One run's. Nothing of the host is in it but what `mounts` and `devices` name; the network is the loopback alone,
    unless `network`."""

    mounts: Sequence[Mount]
    arguments: Sequence[str]
    environment: Mapping[str, str]
    directory: str
    user: User
    network: bool = False
    devices: Sequence[Path] = ()  # of the host's /dev
