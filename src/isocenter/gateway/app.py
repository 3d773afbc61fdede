"""The gateway as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from isocenter.gateway.api import API, CouriersLike, JobsLike, RouterLike, told
from isocenter.gateway.marking import Marking
from isocenter.gateway.proxy import DICOMwebProxy
from isocenter.gateway.rules_api import RulesAPI
from isocenter.gateway.viewer import Viewer
from isocenter.hung_shadows import HungShadows
from isocenter.pacs import Orthanc
from isocenter.route_models import RouteModels
from isocenter.settings import GatewaySettings, Settings
from isocenter_operators.errors import ConfigurationError, IsocenterError, Unavailable

__all__ = ["create_app"]


def create_app(
    settings: Settings, *, router: RouterLike, jobs: JobsLike, couriers: CouriersLike | None = None
) -> Starlette:
    """OHIF at `/`, DICOMweb at `/dicom-web`, the API at `/api`, `/healthz`, and the list of jobs at `/status`.

    Starting and stopping `router` and `couriers` is the caller's business.
    """
    proxy = DICOMwebProxy(settings.orthanc, Marking(settings))
    viewer = Viewer(settings.gateway.viewer)
    hung_shadows, route_models = HungShadows(settings.data_dir), RouteModels(settings)

    def warnings() -> list[str]:
        return [*route_models.told(), *hung_shadows.told()]

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        yield
        await proxy.aclose()

    checks = _checks(settings, router, viewer)
    return Starlette(
        routes=[
            *API(router, jobs, checks, couriers, warnings).routes,
            *RulesAPI(settings, router.study, router.known).routes,
            Route("/dicom-web/{path:path}", proxy.respond, methods=["GET", "POST"]),
            Route("/app-config.js", viewer.configuration),
            Route("/{path:path}", viewer.respond),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=_hosts(settings.gateway)),
            Middleware(SameSite),
        ],
        exception_handlers={IsocenterError: told},
        lifespan=lifespan,
    )


def _checks(settings: Settings, router: RouterLike, viewer: Viewer) -> dict[str, Callable[[], str | None]]:
    """Of each part, what is missing."""

    def orthanc_missing() -> str | None:
        try:
            with Orthanc(settings.orthanc, timeout_s=1.5) as orthanc:
                return orthanc.ready()
        except ConfigurationError as error:  # a file of orthanc.tls has gone
            return str(error)

    def viewer_missing() -> str | None:
        return None if viewer.installed else f"OHIF is not in {viewer.folder}: run `make ohif`"

    def router_missing() -> str | None:
        try:
            return router.status()["away"] or None
        except Unavailable as error:
            return str(error)

    return {"orthanc": orthanc_missing, "router": router_missing, "viewer": viewer_missing}


class SameSite:
    """Refuses what another site's page makes a reader's browser send: nothing here asks who the reader is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        changes_something = scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if changes_something and _comes_from_elsewhere(Headers(scope=scope)):
            refusal = JSONResponse({"error": "requests that change something must come from this site"}, 403)
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _comes_from_elsewhere(headers: Headers) -> bool:
    """Whether a page of another site sent it. Programs send neither header, and old browsers only the second."""
    if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return True
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")


def _hosts(settings: GatewaySettings) -> list[str]:
    """The names this server answers to. On loopback only those of loopback, so that no other name that
    somebody points at 127.0.0.1 lets a foreign page read the archive (DNS rebinding)."""
    if settings.names:
        return [*settings.names]
    host = settings.host
    if host == "localhost" or (_is_address(host) and ip_address(host).is_loopback):
        return ["localhost", "127.0.0.1", "[::1]", host]
    return ["*"]


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
