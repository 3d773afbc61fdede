"""Sends to another Orthanc by its REST API."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from isocenter.onward.delivery import Delivery
from isocenter.onward.instance import Instance
from isocenter.onward.sender import refuse, refuse_distrust
from isocenter.peer import OrthancPeer
from isocenter_operators.errors import ArchiveUnavailable, ConfigurationError, StorageFull

__all__ = ["OrthancSender"]

_TIMEOUT = httpx.Timeout(120.0, connect=5.0)
_PASSING = {408, 425, 429}
_TAKEN = {"Success", "AlreadyStored"}


class OrthancSender:
    """`POST /instances` of one Orthanc, for each instance."""

    def __init__(self, peer: OrthancPeer) -> None:
        self._peer = peer

    def send(self, instances: Sequence[Instance], delivery: Delivery) -> None:
        """See Sender."""
        credentials = self._peer.credentials
        auth = (credentials.username, credentials.password) if credentials else None
        refused: dict[str, str] = {}
        verify = self._peer.context() or True
        with httpx.Client(timeout=_TIMEOUT, auth=auth, verify=verify, trust_env=False) as http:
            for instance in instances:
                reason = self._store(http, instance)
                if reason:
                    refused[instance.sop_instance_uid] = reason
        refuse(self._peer.url, refused, len(instances))

    def _store(self, http: httpx.Client, instance: Instance) -> str:
        """Why it refuses this instance, or ""."""
        try:
            response = http.post(
                f"{self._peer.url}/instances",
                content=instance.path.read_bytes(),
                headers={"Content-Type": "application/dicom", "Accept-Encoding": "identity"},
            )
        except httpx.HTTPError as error:
            refuse_distrust(f"Orthanc at {self._peer.url}", error)
            raise ArchiveUnavailable(
                f"Orthanc at {self._peer.url} does not answer ({type(error).__name__}); is it running?"
            ) from error
        status = response.status_code
        if status in (401, 403):
            raise ConfigurationError(
                f"Orthanc at {self._peer.url} wants another name or password (HTTP {status})"
            )
        if status == 507:
            raise StorageFull(f"Orthanc at {self._peer.url} has no room left (HTTP 507)")
        if status in _PASSING or status >= 500:
            raise ArchiveUnavailable(f"Orthanc at {self._peer.url} answers HTTP {status} to an instance")
        return self._refusal(response)

    def _refusal(self, response: httpx.Response) -> str:
        if not response.is_success:
            return f"HTTP {response.status_code}"
        try:
            said = response.json()["Status"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigurationError(f"what answers at {self._peer.url}/instances is not Orthanc") from error
        return "" if said in _TAKEN else f"its answer is {said!r}"
