"""The TCP ports of the embedded stack: who needs which, whether they are free, and the next that are."""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from isocenter.settings import Settings
from isocenter_operators.errors import ConfigurationError

__all__ = ["Port", "any_for_triton", "in_use", "moved", "needed", "require_free"]

# Below those that Linux gives to outgoing connections (from 32768 on): Triton opens its ports after seconds, and any
# connection could have taken one of those by then.
_CHOSEN_FROM = range(20_000, 32_768)


@dataclass(frozen=True)
class Port:
    """One port and the setting that chooses it."""

    section: str
    key: str
    host: str
    number: int

    @property
    def variable(self) -> str:
        """The environment variable that overrides the setting."""
        return f"ISOCENTER_{self.section}__{self.key}".upper()


def needed(settings: Settings) -> list[Port]:
    """The ports that `isocenter up` will listen on."""
    orthanc, triton, gateway = settings.orthanc, settings.triton, settings.gateway
    ports = [Port("gateway", "port", gateway.host, gateway.port)]
    if orthanc.embedded:
        ports.append(Port("orthanc", "http_port", orthanc.host, orthanc.http_port))
        ports.append(Port("orthanc", "dicom_port", orthanc.host, orthanc.dicom_port))
    if triton.embedded:
        ports += [
            Port("triton", key, triton.host, number)
            for key, number in (
                ("http_port", triton.http_port),
                ("grpc_port", triton.grpc_port),
                ("metrics_port", triton.metrics_port),
            )
        ]
    return ports


def in_use(port: Port) -> bool:
    """Whether something listens on the port already."""
    with socket.socket(socket.AF_INET6 if ":" in port.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((port.host, port.number))
        except OSError:
            return True
    return False


def require_free(ports: Sequence[Port]) -> None:
    """Raises ConfigurationError, naming the first port that is taken and how to choose another."""
    for index, port in enumerate(ports):
        here = f"{port.section}.{port.key}"
        for earlier in ports[:index]:
            if earlier.number == port.number:
                raise ConfigurationError(
                    f"{here} and {earlier.section}.{earlier.key} are both {port.number}: set another"
                )
        if in_use(port):
            raise ConfigurationError(
                f"port {port.number} is in use by another program; stop it, or set {here} in isocenter.yaml "
                f"or {port.variable} to another port"
            )


def moved(settings: Settings) -> Settings:
    """The same settings with every port that is taken moved to the next free one."""
    sections: dict[str, dict[str, Any]] = {}
    chosen: set[int] = set()
    for port in needed(settings):
        number = port.number
        while number in chosen or in_use(Port(port.section, port.key, port.host, number)):
            number += 1
            if number > 65535:
                raise ConfigurationError(f"no free port from {port.number} on for {port.section}.{port.key}")
        chosen.add(number)
        sections.setdefault(port.section, {})[port.key] = number
    return settings.model_copy(
        update={
            section: getattr(settings, section).model_copy(update=keys) for section, keys in sections.items()
        }
    )


def any_for_triton(settings: Settings) -> Settings:
    """The same with three ports for Triton that nothing listens on, chosen by chance: so that two which start at once
    hardly ever get the same."""
    free = (
        number
        for number in random.sample(_CHOSEN_FROM, len(_CHOSEN_FROM))
        if not in_use(Port("triton", "", settings.triton.host, number))
    )
    ports = dict(zip(("http_port", "grpc_port", "metrics_port"), free, strict=False))
    return settings.model_copy(update={"triton": settings.triton.model_copy(update=ports)})
