"""Tells a webhook of an outcome: JSON, signed with HMAC-SHA-256."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx

from isocenter.onward.delivery import Delivery
from isocenter.onward.instance import Instance
from isocenter.onward.sender import refuse_distrust
from isocenter.peer import WebhookPeer
from isocenter_operators.errors import InputError, Unavailable

__all__ = ["WebhookSender", "signature"]

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_PASSING = {408, 425, 429}


def signature(secret: str, timestamp: str, delivery: str, body: bytes) -> str:
    """What `X-Isocenter-Signature` must say: `sha256=` and the HMAC of `<timestamp>.<delivery>.<body>` in hexadecimal.

    With the delivery's ID, or whoever has heard one could repeat it under another and be believed.
    """
    said = f"{timestamp}.{delivery}.".encode() + body
    return f"sha256={hmac.new(secret.encode(), said, hashlib.sha256).hexdigest()}"


class WebhookSender:
    """One POST for each delivery. Whoever answers 2xx has taken it."""

    def __init__(self, peer: WebhookPeer) -> None:
        self._peer = peer
        parts = urlsplit(peer.url)
        self._where = f"{parts.scheme}://{parts.netloc}{parts.path}"  # a query may hold a token

    def send(self, instances: Sequence[Instance], delivery: Delivery) -> None:
        """See Sender; `delivery.news` is what it is told."""
        body = json.dumps(dict(delivery.news), separators=(",", ":")).encode()
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "X-Isocenter-Timestamp": timestamp,
            "X-Isocenter-Delivery": delivery.key,
            "X-Isocenter-Signature": signature(
                self._peer.secret.get_secret_value(), timestamp, delivery.key, body
            ),
        }
        try:
            response = httpx.post(
                self._peer.url,
                content=body,
                headers=headers,
                timeout=_TIMEOUT,
                verify=self._peer.context() or True,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            refuse_distrust(self._where, error)
            raise Unavailable(f"{self._where} does not answer ({type(error).__name__})") from error
        if response.is_success:
            return
        if response.status_code in _PASSING or response.status_code >= 500:
            raise Unavailable(f"{self._where} answers HTTP {response.status_code}")
        raise InputError(f"refused: {self._where} answers HTTP {response.status_code}")
