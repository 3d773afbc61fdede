"""DICOMweb passed through to the archive, streamed both ways.

Only the DICOMweb services of PS3.18 chapter 10 pass (QIDO-RS, WADO-RS, STOW-RS). What else Orthanc's plugin offers
below `/dicom-web`, such as sending to other servers, stays inside. Lists of a study that holds superseded results are
the one thing that is read here: they leave these out, or call them superseded, as their route says.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Iterable, Mapping

import httpx
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from isocenter.gateway.marking import Listing, Marking, listing_of, marked
from isocenter.route import Superseded
from isocenter.settings import OrthancSettings
from isocenter_operators.dicomweb.trust import distrust
from isocenter_operators.errors import Unavailable

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
_OF_THE_BODY = frozenset({"content-length", "content-md5", "etag", "last-modified"})  # as the archive sent it


class DICOMwebProxy:
    """Passes a request on to the archive and its answer back, holding no more than one chunk of it.

    Without `marking`, superseded results are listed like all others.
    """

    def __init__(self, settings: OrthancSettings, marking: Marking | None = None) -> None:
        self._settings = settings
        self._marking = marking
        credentials, tls = settings.credentials, settings.context()
        self._http = httpx.AsyncClient(
            auth=(credentials.username, credentials.password) if credentials else None,
            timeout=httpx.Timeout(120.0, connect=3.0),
            verify=True if tls is None else tls,
            limits=httpx.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=20.0),
            trust_env=False,
        )

    async def aclose(self) -> None:
        await self._http.aclose()

    async def respond(self, request: Request) -> Response:
        path: str = request.path_params["path"]
        if not _RESOURCE.fullmatch(path):
            return JSONResponse({"error": f"/dicom-web/{path} is no DICOMweb resource of this gateway"}, 404)
        listing = listing_of(path) if request.method == "GET" and self._marking is not None else None
        try:
            superseded = await self._superseded(listing)
        except Unavailable as error:
            # Better no list than one that shows as valid what is not.
            return JSONResponse({"error": str(error)}, 503)
        try:
            answer = await self._http.send(self._upstream(request, path), stream=True)
            if listing is not None and superseded and answer.is_success and answer.status_code != 204:
                return await self._marked(answer, listing, superseded)
        except httpx.HTTPError as error:
            return self._unavailable(error)
        return StreamingResponse(
            self._chunks(answer),
            status_code=answer.status_code,
            headers=_headers(answer),
            background=BackgroundTask(answer.aclose),
        )

    async def _superseded(self, listing: Listing | None) -> Mapping[str, Superseded]:
        if listing is None or self._marking is None:
            return {}
        return await run_in_threadpool(self._marking.of, listing)

    async def _marked(
        self, answer: httpx.Response, listing: Listing, superseded: Mapping[str, Superseded]
    ) -> Response:
        """The list, read as a whole. In another form than DICOM JSON it is refused, as it could not be marked."""
        try:
            if "json" not in answer.headers.get("Content-Type", ""):
                refusal = "this study holds superseded results: ask for application/dicom+json, where they are marked"
                return JSONResponse({"error": refusal}, 406)
            content = await run_in_threadpool(_marked_json, await answer.aread(), listing, superseded)
        except ValueError:
            return JSONResponse({"error": "the archive's answer is not DICOM JSON"}, 502)
        finally:
            await answer.aclose()
        headers = {
            name: value for name, value in _headers(answer).items() if name.lower() not in _OF_THE_BODY
        }
        return Response(content, answer.status_code, headers)

    def _upstream(self, request: Request, path: str) -> httpx.Request:
        url = httpx.URL(f"{self._settings.dicomweb_url}/{path}")
        return self._http.build_request(
            request.method,
            url.copy_with(query=request.url.query.encode() or None),
            headers=self._request_headers(request),
            content=request.stream() if request.method == "POST" else None,
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
        if said := distrust(error):
            return JSONResponse({"error": f"Orthanc at {where}: {said}; check orthanc.tls"}, 502)
        return JSONResponse(
            {
                "error": f"Orthanc at {where} does not answer: see that it runs (`isocenter doctor`), then try again"
            },
            502,
        )


def _marked_json(content: bytes, listing: Listing, superseded: Mapping[str, Superseded]) -> bytes:
    """Raises ValueError."""
    answer = json.loads(content)
    if not isinstance(answer, list) or not all(isinstance(item, dict) for item in answer):
        raise ValueError("DICOM JSON is an array of objects")
    return json.dumps(marked(answer, listing, superseded), separators=(",", ":")).encode()


def _headers(answer: httpx.Response) -> dict[str, str]:
    return {**dict(_passed_back(answer.headers.multi_items())), "X-Content-Type-Options": "nosniff"}


def _passed_back(headers: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    return ((name, value) for name, value in headers if name.lower() not in _NOT_PASSED_BACK)
