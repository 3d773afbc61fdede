"""Large answers, read straight into the memory that they stay in.

Everything else is asked for by httpx, which makes objects of 64 KB of every answer: of a series of 150 MB that costs
four times the processor time of the socket's own reading.
"""

from __future__ import annotations

import base64
import http.client
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx

from isocenter_operators.dicomweb.credentials import Credentials

__all__ = ["CONNECT_S", "DownloadError", "Downloads"]

CONNECT_S = 5.0  # the longest that an archive may take to accept a connection


class DownloadError(Exception):
    """The connection did not come about, or broke off. Its cause says why."""


class Downloads:
    """Answers of one service, each over a connection of its own. Safe to use from several threads.

    The parameters are those of `DICOMwebClient`.
    """

    def __init__(self, credentials: Credentials | None, timeout_s: float, tls: ssl.SSLContext) -> None:
        self._timeout_s = timeout_s
        self._tls = tls
        self._headers = {"Accept-Encoding": "identity"}
        if credentials:
            pair = f"{credentials.username}:{credentials.password}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"

    @contextmanager
    def get(self, url: str, *, accept: str) -> Iterator[http.client.HTTPResponse]:
        """The answer to GET, of whatever status, not yet read.

        Raises DownloadError, TimeoutError where nothing comes for longer than `timeout_s`, httpx.InvalidURL. What the
        body of the `with` meets while it reads is raised so too.
        """
        connection = self._connection(url)
        place = urlsplit(url)
        try:
            connection.connect()
            connection.sock.settimeout(self._timeout_s)
            connection.request(
                "GET",
                place.path + (f"?{place.query}" if place.query else ""),
                headers={**self._headers, "Accept": accept},
            )
            yield connection.getresponse()
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise DownloadError(str(error) or type(error).__name__) from error
        finally:
            connection.close()

    def _connection(self, url: str) -> http.client.HTTPConnection:
        whole = httpx.URL(url)  # which refuses what is no URL
        if whole.scheme == "https":
            return http.client.HTTPSConnection(whole.host, whole.port, timeout=CONNECT_S, context=self._tls)
        if whole.scheme != "http" or not whole.host:
            raise httpx.InvalidURL(f"neither http nor https, or without a host: {url!r}")
        return http.client.HTTPConnection(whole.host, whole.port, timeout=CONNECT_S)
