"""Certificates of a self-made authority, and a TLS server in front of one that speaks in clear."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import which

from read_back import lacking


def certificates(folder: Path) -> Path:
    """Fill the folder with ca, stranger, server and client: .pem and .key, made by openssl; the server is 127.0.0.1."""
    if which("openssl") is None:
        lacking("openssl is not installed: apt-get install openssl")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    for authority in ("ca", "stranger"):
        openssl(
            *[
                "req",
                "-x509",
                *new_key,
                "-keyout",
                f"{authority}.key",
                "-out",
                f"{authority}.pem",
                "-days",
                "2",
            ],
            *["-subj", f"/CN={authority}", "-addext", "keyUsage=critical,keyCertSign,cRLSign"],
        )
    for name, says in (
        ("server", "subjectAltName=IP:127.0.0.1"),
        ("elsewhere", "subjectAltName=DNS:elsewhere"),
        ("client", "subjectAltName=DNS:isocenter"),
    ):
        openssl("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / f"{name}.ext").write_text(says)
        openssl(
            *["x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"],
            *["-out", f"{name}.pem", "-days", "2", "-extfile", f"{name}.ext"],
        )
    return folder


def server_context(folder: Path, name: str = "server", *, ask: bool = False) -> ssl.SSLContext:
    """For a server that shows this certificate; `ask`: whoever calls must show one of the authority's too."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    context.verify_mode = ssl.CERT_REQUIRED if ask else ssl.CERT_NONE
    return context


@contextmanager
def secured(port: int, context: ssl.SSLContext) -> Iterator[int]:
    """A TLS server that hands on to this port of loopback what it hears; gives its own port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="tls", daemon=True)
    thread.start()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(lambda *ends: _joined(port, *ends), "127.0.0.1", 0, ssl=context)

    async def stop() -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.1)  # what is closed is gone only then

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _joined(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, asyncio.CancelledError):
        behind, before = await asyncio.open_connection("127.0.0.1", port)
        with suppress(OSError):
            await asyncio.gather(_copied(reader, before), _copied(behind, writer))
        before.close()
    writer.close()


async def _copied(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while content := await source.read(1 << 16):
            target.write(content)
            await target.drain()
    target.close()
