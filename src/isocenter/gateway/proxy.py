"""DICOMweb passed through to the archive, streamed both ways.

Only the DICOMweb services of PS3.18 chapter 10 pass (QIDO-RS, WADO-RS, STOW-RS). What else Orthanc's plugin offers
below `/dicom-web`, such as sending to other servers, stays inside.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Iterable, Mapping

import httpx
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from isocenter.settings import OrthancSettings

__all__ = ["DICOMwebProxy"]

_log = logging.getLogger(__name__)

# UIDs, tags and the standard's own words: nothing that another server could decode once more.
_RESOURCE = re.compile(r"(studies|series|instances)(/[0-9A-Za-z][0-9A-Za-z.,_-]*)*/?")
_REQUEST_HEADERS = frozenset({"accept", "accept-charset", "content-type", "content-length", "range"})
# Hop by hop (RFC 9110, 7.6.1), and what this server says for itself.
_NOT_PASSED_BACK = frozenset(
    {
        "connection",
        "date",
        "keep-alive",
        "proxy-authenticate",
        "proxy-connection",
        "server",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "www-authenticate",
    }
)


class DICOMwebProxy:
    """Passes a request on to the archive and its answer back, holding no more than one chunk of it."""

    def __init__(self, settings: OrthancSettings) -> None:
        self._settings = settings
        credentials = settings.credentials
        self._http = httpx.AsyncClient(
            auth=(credentials.username, credentials.password) if credentials else None,
            timeout=httpx.Timeout(120.0, connect=3.0),
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=20.0),
            trust_env=False,
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def respond(self, request: Request) -> Response:
        path: str = request.path_params["path"]
        if not _RESOURCE.fullmatch(path):
            return JSONResponse({"error": f"/dicom-web/{path} is no DICOMweb resource of this gateway"}, 404)
        has_body = request.method == "POST"
        upstream = self._http.build_request(
            request.method,
            httpx.URL(f"{self._settings.dicomweb_url}/{path}").copy_with(
                query=request.url.query.encode() or None
            ),
            headers=self._request_headers(request),
            content=request.stream() if has_body else None,
        )
        try:
            answer = await self._http.send(upstream, stream=True)
        except httpx.HTTPError as error:
            return self._unavailable(error)
        return StreamingResponse(
            self._chunks(answer),
            status_code=answer.status_code,
            headers={**dict(_passed_back(answer.headers.multi_items())), "X-Content-Type-Options": "nosniff"},
            background=BackgroundTask(answer.aclose),
        )

    def _request_headers(self, request: Request) -> Mapping[str, str]:
        headers = {name: value for name, value in request.headers.items() if name in _REQUEST_HEADERS}
        if "transfer-encoding" in request.headers:
            headers.pop("content-length", None)  # RFC 9112, 6.3: it does not count then
        headers["Accept-Encoding"] = "identity"
        # Orthanc builds RetrieveURL and BulkDataURI from this, so that they stay on the gateway's origin.
        headers["Forwarded"] = f"host={request.url.netloc};proto={request.url.scheme}"
        return headers

    async def _chunks(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        try:
            async for chunk in answer.aiter_raw():
                yield chunk
        except httpx.HTTPError:
            # Raising cuts the connection: the client must not take half a series for a whole one.
            _log.error("the archive broke off in the middle of %s", answer.request.url.path)
            raise
        finally:
            await answer.aclose()

    def _unavailable(self, error: httpx.HTTPError) -> Response:
        where = self._settings.rest_url
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return JSONResponse({"error": f"Orthanc at {where} did not answer in time: try again later"}, 504)
        return JSONResponse(
            {
                "error": f"Orthanc at {where} does not answer: see that it runs (`isocenter doctor`), then try again"
            },
            502,
        )


def _passed_back(headers: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    return ((name, value) for name, value in headers if name.lower() not in _NOT_PASSED_BACK)
