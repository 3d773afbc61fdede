"""Associations with a DICOM node that gives priors: plain or TLS (PS3.8; PS3.15, B.9), both ways."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_role, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from isocenter.peer import TLS, DICOMPeer, Retrieve
from isocenter.priors.inbox import Inbox
from isocenter.priors.patience import Waiting
from isocenter_operators.dicomweb.trust import distrust
from isocenter_operators.errors import ArchiveUnavailable, ConfigurationError, Unavailable

__all__ = ["NoPlace", "associated", "listening", "watched"]

_CONNECT_S = 5.0
_LOOK_S = 0.1
_LARGEST_PDU = 131072  # bytes: DCMTK's most


class NoPlace(Unavailable):
    """The port of this machine that a C-MOVE sends to can not be had. The message is the end of a sentence."""


@contextmanager
def associated(
    peer: DICOMPeer,
    aet: str,
    contexts: Sequence[PresentationContext],
    waiting: Waiting,
    inbox: Inbox | None = None,
) -> Iterator[Association]:
    """An association as `aet`; with an inbox, what it sends on it by C-GET is taken. Raises ArchiveUnavailable."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # it logs what is looked for: the patient's ID
    entity = AE(ae_title=aet)
    entity.connection_timeout = _CONNECT_S
    entity.acse_timeout = waiting.silence_s
    entity.dimse_timeout = waiting.silence_s if inbox is None else None  # else `watched` sees to it
    entity.network_timeout = None
    entity.requested_contexts = list(contexts)
    stores = {each.abstract_syntax for each in contexts[1:]} if inbox else set()
    tls = peer.tls.context() if peer.tls else None
    _knock(peer, tls)
    opened: list[socket.socket] = []
    association = entity.associate(
        peer.host,
        peer.port,
        ae_title=peer.aet,
        max_pdu=_LARGEST_PDU,
        ext_neg=[build_role(uid, scp_role=True) for uid in sorted(stores)],
        tls_args=(tls, peer.host) if tls else None,
        evt_handlers=_handlers(inbox, opened),
    )
    try:
        if not association.is_established:
            why = "rejects the association" if association.is_rejected else "does not accept an association"
            raise ArchiveUnavailable(f"{_where(peer)} {why} from {aet}")
        yield association
    finally:
        if association.is_established:
            association.release()
        for connection in opened:  # where the other side has gone, pynetdicom leaves it open
            connection.close()


@contextmanager
def listening(peer: DICOMPeer, retrieve: Retrieve, inbox: Inbox, waiting: Waiting) -> Iterator[None]:
    """The place that a C-MOVE sends to, for as long as it takes. Raises NoPlace when it can not be had in time.

    That it is occupied is not the node's fault, so waiting for it takes nothing of the patience with the node.
    """
    entity = AE(ae_title=retrieve.aet or "")
    entity.require_called_aet = True
    entity.maximum_pdu_size = _LARGEST_PDU
    entity.network_timeout = waiting.silence_s
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)
    tls = _theirs(peer.tls) if peer.tls else None
    ours = f"our own port {retrieve.port}, to which a C-MOVE sends,"
    opened: list[socket.socket] = []
    server = None
    while server is None:
        try:
            server = entity.start_server(
                (retrieve.host, retrieve.port),
                block=False,
                ssl_context=tls,
                evt_handlers=_handlers(inbox, opened),
            )
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise NoPlace(
                    f"{ours} can not be listened to at {retrieve.host}: {error.strerror or type(error).__name__}"
                ) from error
            if time.monotonic() > waiting.late:  # another job's C-MOVE goes on, and on
                raise NoPlace(f"{ours} was in use until the time for priors was over") from error
            time.sleep(_LOOK_S)
    try:
        yield
    finally:
        server.shutdown()
        for connection in opened:
            connection.close()


@contextmanager
def watched(association: Association, inbox: Inbox, waiting: Waiting) -> Iterator[None]:
    """Ends the association when nothing arrives any more, or the time is over: it says nothing of it itself."""
    over = threading.Event()
    inbox.beat()  # it may have waited for the place that it stands at

    def watch() -> None:
        while not over.wait(_LOOK_S):
            now = time.monotonic()
            if now - inbox.heard > waiting.silence_s or now > waiting.late:
                association.abort()
                # Who waits for the next message is woken when the other side closes the connection, but not by this.
                association.dimse.msg_queue.put((None, None))
                return

    watcher = threading.Thread(target=watch, name="priors", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _handlers(inbox: Inbox | None, opened: list[socket.socket]) -> list[Any]:
    handlers: list[Any] = [(evt.EVT_CONN_OPEN, _without_delay, [opened])]
    return [*handlers, (evt.EVT_C_STORE, inbox.store)] if inbox else handlers


def _without_delay(event: evt.Event, opened: list[socket.socket]) -> None:
    """The end of each message would wait for an acknowledgement of its beginning, which the node delays."""
    connection = event.assoc.dul.socket.socket
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        opened.append(connection)


def _knock(peer: DICOMPeer, tls: ssl.SSLContext | None) -> None:
    """Connect once before the association: pynetdicom tells its log only why it could not, and forgets the socket."""
    try:
        with socket.create_connection((peer.host, peer.port), timeout=_CONNECT_S) as connection:
            if tls is not None:
                tls.wrap_socket(connection, server_hostname=peer.host).close()
    except OSError as error:
        if said := distrust(error):
            raise ConfigurationError(f"{_where(peer)}: {said}; see tls.ca of this peer") from error
        raise ArchiveUnavailable(f"{_where(peer)} does not answer") from error


def _where(peer: DICOMPeer) -> str:
    return f"{peer.aet} at {peer.host}:{peer.port}"


def _theirs(tls: TLS) -> ssl.SSLContext:
    """For associations that the node opens to us: both show a certificate."""
    if not tls.certificate:
        raise ConfigurationError(
            "C-MOVE over TLS needs tls.certificate and tls.key, for the node that sends to us"
        )
    context = tls.context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    if tls.ca is None:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    return context
