"""Sends to a DICOM node: C-STORE (PS3.4, B), in clear or over TLS (PS3.15, B); asks whether it is there: C-ECHO."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Sequence

from pydicom import dcmread
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import Verification

from isocenter.onward.delivery import Delivery
from isocenter.onward.instance import Instance
from isocenter.onward.sender import connect, refuse, unanswered
from isocenter.peer import DICOMPeer
from isocenter_operators.errors import ConfigurationError, Unavailable

__all__ = ["CStoreSender"]

_CONNECT_S = 10.0
_ANSWER_S = 60.0  # and one second more for each of these bytes, which a slow line takes
_BYTES_PER_S = 1_000_000
_LITTLE_ENDIAN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_DUPLICATE = 0x0111  # PS3.7, C.5.6: it is there already
_WARNINGS = {0x0001, 0x0107, 0x0116}  # of PS3.7, C; those of storage itself are 0xBxxx (PS3.4, B.2.3)


class CStoreSender:
    """C-STORE to one node, one association for each delivery. `aet` is our own title."""

    def __init__(self, peer: DICOMPeer, aet: str) -> None:
        self._peer = peer
        self._aet = aet
        # It logs each failure that is raised here too.
        logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)

    @property
    def _where(self) -> str:
        return f"{self._peer.aet} at {self._peer.host}:{self._peer.port}"

    def send(self, instances: Sequence[Instance], delivery: Delivery) -> None:
        """See Sender. What is not compressed may be sent in the other of DICOM's little endian encodings."""
        largest = max((each.path.stat().st_size for each in instances), default=0)
        association = self._association(_contexts(instances), _CONNECT_S, _ANSWER_S + largest / _BYTES_PER_S)
        refused: dict[str, str] = {}
        try:
            for instance in instances:
                reason = self._store(association, instance)
                if reason:
                    refused[instance.sop_instance_uid] = reason
        finally:
            if association.is_established:
                association.release()
        refuse(self._where, refused, len(instances))

    def echo(self, within_s: float) -> None:
        """Ask whether it is there, and takes us for who we are. Raises Unavailable or ConfigurationError."""
        association = self._association([(Verification, [*_LITTLE_ENDIAN])], within_s, within_s)
        try:
            answer = association.send_c_echo()
        except RuntimeError as error:
            raise Unavailable(f"{self._where} does not answer a C-ECHO") from error
        finally:
            if association.is_established:
                association.release()
        if "Status" not in answer or answer.Status != 0:
            raise Unavailable(f"{self._where} does not answer a C-ECHO")

    def _store(self, association: Association, instance: Instance) -> str:
        """Why the node refuses this instance, or "". Raises Unavailable."""
        if association.is_established and not _accepted(association, instance):
            syntax = UID(instance.transfer_syntax_uid).name
            return f"it does not accept {UID(instance.sop_class_uid).name} in {syntax}"
        try:
            answer = association.send_c_store(dcmread(instance.path))
        except RuntimeError as error:
            raise self._gone() from error
        if "Status" not in answer:
            association.abort()
            raise self._gone()
        status = int(answer.Status)
        if status in (0, _DUPLICATE) or status in _WARNINGS or 0xB000 <= status <= 0xBFFF:
            return ""
        if 0xA700 <= status <= 0xA7FF:
            raise Unavailable(f"{self._where} is out of resources (status 0x{status:04X}); is its disk full?")
        return f"status 0x{status:04X} (PS3.4, B.2.3)"

    def _association(
        self, contexts: Sequence[tuple[str, Sequence[str]]], connect_s: float, answer_s: float
    ) -> Association:
        tls = self._peer.tls.context() if self._peer.tls else None
        entity = AE(ae_title=self._aet)
        entity.connection_timeout = entity.acse_timeout = connect_s
        entity.dimse_timeout = entity.network_timeout = answer_s
        for sop_class, syntaxes in contexts:
            entity.add_requested_context(sop_class, [*syntaxes])
        try:
            association = entity.associate(
                self._peer.host,
                self._peer.port,
                ae_title=self._peer.aet,
                tls_args=(tls, self._peer.host) if tls else None,
                evt_handlers=[(evt.EVT_CONN_OPEN, _without_delay)],
            )
        except (OSError, ValueError) as error:  # of its name
            raise unanswered(self._where, error) from error
        if association.is_established:
            return association
        if association.is_rejected:
            answer = association.acceptor.primitive
            raise ConfigurationError(
                f"{self._where} rejects the association of {self._aet}: {answer.reason_str} ({answer.result_str})"
            )
        # Once more, to learn why there is none, which pynetdicom tells its log only.
        connect(self._where, self._peer.host, self._peer.port, tls, connect_s)
        raise Unavailable(f"{self._where} does not answer as a DICOM node; is it one, and does it want TLS?")

    def _gone(self) -> Unavailable:
        return Unavailable(f"{self._where} stopped answering in the middle of a delivery")


def _contexts(instances: Iterable[Instance]) -> list[tuple[str, list[str]]]:
    """The presentation contexts to ask for: per kind of object and encoding, what it can be sent in."""
    pairs = dict.fromkeys((each.sop_class_uid, each.transfer_syntax_uid) for each in instances)
    asked = {}
    for sop_class, syntax in pairs:
        same = [each for each in _LITTLE_ENDIAN if each != syntax] if syntax in _LITTLE_ENDIAN else []
        for each in (syntax, *same):  # one context each, so that the node's choice is not ours to guess
            asked[sop_class, str(each)] = [str(each)]
    return [(sop_class, syntaxes) for (sop_class, _), syntaxes in asked.items()]


def _accepted(association: Association, instance: Instance) -> bool:
    syntaxes = {
        str(context.transfer_syntax[0])
        for context in association.accepted_contexts
        if context.abstract_syntax == instance.sop_class_uid
    }
    can_be_recoded = instance.transfer_syntax_uid in _LITTLE_ENDIAN and syntaxes.intersection(_LITTLE_ENDIAN)
    return instance.transfer_syntax_uid in syntaxes or bool(can_be_recoded)


def _without_delay(event: evt.Event) -> None:
    """The end of each object would wait for an acknowledgement of its beginning, which the node delays."""
    connection = event.assoc.dul.socket.socket
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
