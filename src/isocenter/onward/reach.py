"""Whether another system is there, asked without sending it anything that it would keep."""

from __future__ import annotations

from urllib.parse import urlsplit

from isocenter.onward.sender import connect
from isocenter.peer import DICOMPeer, DICOMwebPeer, OrthancPeer, WebhookPeer
from isocenter.settings import Settings

__all__ = ["reach"]

_WITHIN_S = 5.0


def reach(peer: DICOMPeer | DICOMwebPeer | OrthancPeer | WebhookPeer, settings: Settings) -> str:
    """Ask a DICOM node by C-ECHO, and connect to the address of any other, over TLS for https; what was seen.

    Raises Unavailable where it does not answer, and ConfigurationError where one of both does not believe the other.
    """
    if isinstance(peer, DICOMPeer):
        from isocenter.onward.cstore import CStoreSender  # pynetdicom takes its time

        CStoreSender(peer, settings.orthanc.aet).echo(_WITHIN_S)
        return f"{peer.aet} at {peer.host}:{peer.port} answers a C-ECHO of {settings.orthanc.aet}"
    tls, parts = peer.context(), urlsplit(peer.url)
    host, port = parts.hostname or "", parts.port or (443 if tls else 80)
    where = f"{parts.scheme}://{host}:{port}"  # a query may hold a token
    connect(where, host, port, tls, _WITHIN_S)
    return f"{where} can be connected to"
