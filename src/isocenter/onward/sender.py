"""What every way of sending has in common, and which one a peer takes."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Protocol

from isocenter.onward.delivery import Delivery
from isocenter.onward.instance import Instance
from isocenter.peer import DICOMPeer, DICOMwebPeer, FolderPeer, OrthancPeer, Peer
from isocenter.settings import Settings
from isocenter_operators.dicomweb.trust import distrust
from isocenter_operators.errors import ConfigurationError, InputError, Unavailable

__all__ = ["Sender", "connect", "refuse", "refuse_distrust", "sender_to", "unanswered"]


class Sender(Protocol):
    """Sends to one destination."""

    def send(self, instances: Sequence[Instance], delivery: Delivery) -> None:
        """All of these; what the destination has already is no error.

        Raises Unavailable or ConfigurationError when it is worth trying again, and another IsocenterError when the
        destination refuses; then every instance that it does take has been sent.
        """


def sender_to(peer: Peer, settings: Settings) -> Sender:
    """The way to send to this peer. What it needs is imported now: pynetdicom and its kin take their time."""
    if isinstance(peer, DICOMPeer):
        from isocenter.onward.cstore import CStoreSender

        return CStoreSender(peer, settings.orthanc.aet)
    if isinstance(peer, DICOMwebPeer):
        from isocenter.onward.stow import StowSender

        return StowSender(peer)
    if isinstance(peer, OrthancPeer):
        from isocenter.onward.orthanc import OrthancSender

        return OrthancSender(peer)
    if isinstance(peer, FolderPeer):
        from isocenter.onward.folder import FolderSender

        return FolderSender(peer)
    from isocenter.onward.webhook import WebhookSender

    return WebhookSender(peer)


def refuse(where: str, refused: Mapping[str, str], count: int) -> None:
    """Raise InputError when some of `count` instances were refused: `refused` maps their UIDs to the reasons."""
    if refused:
        uid, reason = next(iter(refused.items()))
        raise InputError(
            f"refused: {where} takes {count - len(refused)} of {count} instances; {uid}: {reason}"
        )


def refuse_distrust(where: str, error: Exception) -> None:
    """Raise ConfigurationError when a connection failed because we do not believe the other side's certificate."""
    said = distrust(error)
    if said is not None:
        raise ConfigurationError(f"{where}: {said}; see tls.ca of this peer") from error


def connect(where: str, host: str, port: int, tls: ssl.SSLContext | None, within_s: float) -> None:
    """Connect, over TLS where there is a context, and send nothing. Raises Unavailable or ConfigurationError."""
    try:
        with socket.create_connection((host, port), timeout=within_s) as connection:
            if tls is not None:
                tls.wrap_socket(connection, server_hostname=host).close()
    except ssl.SSLError as error:
        refuse_distrust(where, error)
        raise Unavailable(f"{where}: no secure connection: {error.reason}; does it use TLS?") from error
    except (OSError, ValueError) as error:
        raise unanswered(where, error) from error


def unanswered(where: str, error: OSError | ValueError) -> Unavailable:
    """What is raised when there is no connection; a ValueError is of a name that no machine can have, like `a..b`."""
    reason = (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)
    return Unavailable(f"{where} does not answer: {reason}")
