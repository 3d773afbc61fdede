"""Sends to a DICOMweb service: STOW-RS (PS3.18, 10.5)."""

from __future__ import annotations

from collections.abc import Sequence

from isocenter.onward.delivery import Delivery
from isocenter.onward.instance import Instance
from isocenter.onward.sender import refuse
from isocenter.peer import DICOMwebPeer
from isocenter_operators.dicom.series.read import read_file
from isocenter_operators.dicomweb.client import DICOMwebClient
from isocenter_operators.errors import InputError, InvalidResult

__all__ = ["StowSender"]

_TIMEOUT_S = 120.0
_DUPLICATE = (
    "reason 0x0111"  # PS3.7, C.5.6, as the client tells it: some services refuse what they have already
)


class StowSender:
    """STOW-RS to one service, one request for each instance: what is refused refuses no other."""

    def __init__(self, peer: DICOMwebPeer) -> None:
        self._peer = peer

    def send(self, instances: Sequence[Instance], delivery: Delivery) -> None:
        """See Sender."""
        refused: dict[str, str] = {}
        with DICOMwebClient(
            self._peer.url,
            credentials=self._peer.credentials,
            timeout_s=_TIMEOUT_S,
            tls=self._peer.context(),
        ) as client:
            for instance in instances:
                dataset = read_file(instance.path)
                try:
                    client.store([dataset] if dataset is not None else [])
                except (InputError, InvalidResult) as error:
                    if _DUPLICATE not in str(error):
                        refused[instance.sop_instance_uid] = str(error)
        refuse(self._peer.url, refused, len(instances))
