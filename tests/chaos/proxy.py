"""A TCP proxy before an HTTP server that misbehaves when it is told to."""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from ports import free_port

__all__ = ["FaultProxy", "Mode"]

Mode = Literal["through", "refuse", "reset", "slow", "503", "503 to STOW", "STOW's first part", "cut"]

_CHUNK = 65536
_SLOW_S = 0.3  # before each chunk
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n"
    b"Connection: close\r\n\r\nbusy\n"
)
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset


class FaultProxy:
    """Passes everything through to a port of loopback, until `mode` is changed. Changing it ends what is open.

    `felt`: connections that met the fault. Those that are refused nobody can count.
    """

    def __init__(self, upstream: int) -> None:
        self.port = free_port()
        self.felt = 0
        self._upstream = upstream
        self._mode: Mode = "through"
        self._open: set[socket.socket] = set()
        self._changing = threading.Lock()
        self._listener: socket.socket | None = None
        self._listen()

    def close(self) -> None:
        with self._changing:
            self._deafen()
            self._end_open()

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        with self._changing:
            self._mode = mode
            if mode == "refuse":
                self._deafen()
            elif self._listener is None:
                self._listen()
            self._end_open()

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _deafen(self) -> None:
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
            self._listener.close()
            self._listener = None

    def _end_open(self) -> None:
        for each in list(self._open):
            _reset(each)
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client, self._mode), daemon=True).start()

    def _serve(self, client: socket.socket, mode: Mode) -> None:
        self._open.add(client)
        self.felt += mode in ("reset", "slow")
        with suppress(OSError):
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if mode == "reset":
                _reset(client)
            elif mode == "503":
                _head(client)
                self.felt += 1
                _refuse(client)
            elif mode == "503 to STOW":
                self._but_for_stow(client, _refuse)
            elif mode == "STOW's first part":
                self._but_for_stow(client, self._first_part)
            else:
                self._pass(client, mode, b"")
        _close(client)
        self._open.discard(client)

    def _but_for_stow(
        self, client: socket.socket, stow: Callable[[socket.socket, bytes, bytes], None]
    ) -> None:
        head, rest = _head(client)
        if head.startswith(b"POST /dicom-web/studies"):
            self.felt += 1
            stow(client, head, rest)
            return
        # One request a connection, so that each one's head is seen.
        first, _, others = head.partition(b"\r\n")
        kept = [line for line in others.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        self._pass(client, "through", b"\r\n".join([first, b"Connection: close", *kept]) + b"\r\n\r\n" + rest)

    def _first_part(self, client: socket.socket, head: bytes, body: bytes) -> None:
        """Store the first part of the multipart body as if it were all, and let the client wait for its answer: what a
        crash in the middle of storing leaves behind, as the archive stores the parts one after the other."""
        boundary = b"\r\n--" + head.partition(b"boundary=")[2].partition(b"\r\n")[0].strip(b'"')
        while (end := body.find(boundary)) < 0:
            body += client.recv(_CHUNK)
        part = body[:end] + boundary + b"--\r\n"
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length:")]
        with socket.create_connection(("127.0.0.1", self._upstream), timeout=10) as server:
            server.sendall(b"\r\n".join([*lines, b"Content-Length: %d" % len(part), b"", part]))
            while client.recv(_CHUNK):
                pass

    def _pass(self, client: socket.socket, mode: Mode, begun: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self._upstream), timeout=10) as server:
            server.settimeout(None)
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open.add(server)
            if begun:
                server.sendall(begun)
            there = threading.Thread(target=_pump, args=(client, server, mode == "slow", None), daemon=True)
            there.start()
            most = random.randint(1, 4000) if mode == "cut" else None
            self.felt += _pump(server, client, mode == "slow", most)
            self._open.discard(server)
            if most is not None:
                _reset(client)


def _pump(source: socket.socket, sink: socket.socket, slow: bool, most: int | None) -> bool:
    """Copy until the source ends, or until so many bytes have been copied; then end the sink.

    Gives whether it was cut off.
    """
    copied = 0
    with suppress(OSError):
        while chunk := source.recv(_CHUNK):
            if slow:
                time.sleep(_SLOW_S)
            if most is not None and copied + len(chunk) >= most:
                sink.sendall(chunk[: most - copied])
                return True
            sink.sendall(chunk)
            copied += len(chunk)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
    return False


def _head(client: socket.socket) -> tuple[bytes, bytes]:
    """The request's head without the empty line, and what of its body came with it."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = client.recv(_CHUNK)
        if not chunk:
            raise OSError("the client went away")
        received += chunk
    head, _, rest = received.partition(b"\r\n\r\n")
    return head, rest


def _refuse(client: socket.socket, *_: bytes) -> None:
    """Say that the server is busy, and take what is still being sent, so that the answer is read."""
    client.sendall(_BUSY)
    client.shutdown(socket.SHUT_WR)
    client.settimeout(2)
    while client.recv(_CHUNK):
        pass


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # wakes whoever reads from it
    _close(connection)


def _close(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.close()
