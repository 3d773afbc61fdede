"""The REST API: events from the archive, jobs, and what is up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast, get_args

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from isocenter.arrivals import Arrival
from isocenter.gateway.page import status_page
from isocenter.job import Job, State
from isocenter.onward import Delivery
from isocenter.rules import Series
from isocenter_operators.errors import InputError, IsocenterError

__all__ = ["API", "Check", "CouriersLike", "JobsLike", "RouterLike", "told"]

Check = Callable[[], str | None]  # None when up, else one sentence on what is missing

_LARGEST_EVENT = 65536  # bytes


class RouterLike(Protocol):
    """What the gateway asks of the router. `status()["away"]` is one sentence on what it waits for, or ""."""

    def nudge(self) -> None: ...
    def status(self) -> Mapping[str, Any]: ...
    def newest(self, limit: int = 100) -> list[Arrival]: ...
    def study(self, study_uid: str) -> list[Series]: ...
    def known(self, study_uid: str) -> list[Arrival]: ...


class CouriersLike(Protocol):
    """What the gateway asks of the couriers: how each destination stands, and what of a job goes where."""

    def status(self) -> Mapping[str, Any]: ...
    def deliveries(self, job_id: str) -> list[Delivery]: ...
    def retry(self, job_id: str) -> int: ...


class JobsLike(Protocol):
    """What the gateway asks of the queue. `retry` and `cancel` raise InputError where they do not apply."""

    def list(self, limit: int = 100, state: State | None = None) -> list[Job]: ...
    def show(self, job_id: str) -> Job | None: ...
    def depth(self) -> tuple[int, int]: ...
    def retry(self, job_id: str) -> Job: ...
    def cancel(self, job_id: str) -> Job: ...


class API:
    """The endpoints. `checks` is asked by /healthz, by name of what is checked.

    `warnings` tells, a sentence each, what somebody should see to though nothing that is shown depends on it.
    """

    def __init__(
        self,
        router: RouterLike,
        jobs: JobsLike,
        checks: Mapping[str, Check],
        couriers: CouriersLike | None = None,
        warnings: Callable[[], Sequence[str]] = lambda: (),
    ) -> None:
        self._router = router
        self._couriers = couriers
        self._jobs = jobs
        self._checks = checks
        self._warnings = warnings

    @property
    def routes(self) -> list[BaseRoute]:
        return [
            Route("/api/events/orthanc", self.event, methods=["POST"]),
            Route("/api/jobs", self.listing),
            Route("/api/jobs/{id}", self.job),
            Route("/api/jobs/{id}/retry", self.retry, methods=["POST"]),
            Route("/api/jobs/{id}/cancel", self.cancel, methods=["POST"]),
            Route("/api/jobs/{id}/resend", self.resend, methods=["POST"]),
            Route("/api/destinations", self.destinations),
            Route("/api/queue", self.queue),
            Route("/healthz", self.health),
            Route("/livez", self.alive),
            Route("/status", self.status),
        ]

    async def event(self, request: Request) -> Response:
        """The archive's plugin says that something changed."""
        content = await _content(request, _LARGEST_EVENT)
        if content is None:
            return JSONResponse({"error": "an event has at most 64 KiB"}, 413)
        try:
            json.loads(content)
        except (ValueError, RecursionError):
            return JSONResponse({"error": "an event is a JSON document"}, 400)
        # What it says is not believed: the router reads the archive's own log.
        await run_in_threadpool(self._router.nudge)
        return Response(status_code=202)

    async def listing(self, request: Request) -> Response:
        """The newest jobs, newest first; `?limit=` says how many, `?state=` in which state."""
        limit, state = request.query_params.get("limit", "100"), request.query_params.get("state")
        if not limit.isdecimal() or not 1 <= int(limit) <= 1000:
            return JSONResponse({"error": f"limit is a number from 1 to 1000, not {limit!r}"}, 400)
        if state not in (None, *get_args(State)):
            return JSONResponse({"error": f"state is one of {', '.join(get_args(State))}"}, 400)
        jobs = await run_in_threadpool(self._jobs.list, int(limit), cast(State | None, state))
        return JSONResponse({"jobs": [job.as_json() for job in jobs]})

    async def job(self, request: Request) -> Response:
        """One job, by its ID or the beginning of it, and its deliveries to other systems."""
        job = await run_in_threadpool(self._jobs.show, request.path_params["id"])
        if job is None:
            return _no_job(request)
        sent_on = await run_in_threadpool(self._couriers.deliveries, job.id) if self._couriers else []
        return JSONResponse({**job.as_json(), "deliveries": [each.as_json() for each in sent_on]})

    async def resend(self, request: Request) -> Response:
        """Send again what failed of a job's deliveries."""
        job = await run_in_threadpool(self._jobs.show, request.path_params["id"])
        if job is None:
            return _no_job(request)
        count = await run_in_threadpool(self._couriers.retry, job.id) if self._couriers else 0
        return JSONResponse({"job": job.id, "deliveries": count})

    async def destinations(self, request: Request) -> Response:
        """How each destination stands."""
        told = await run_in_threadpool(self._couriers.status) if self._couriers else {}
        return JSONResponse({"destinations": told})

    async def retry(self, request: Request) -> Response:
        """Run a job that has ended once more."""
        return await self._act(request, self._jobs.retry)

    async def cancel(self, request: Request) -> Response:
        """Take a job that waits out of the queue."""
        return await self._act(request, self._jobs.cancel)

    async def _act(self, request: Request, act: Callable[[str], Job]) -> Response:
        known = await run_in_threadpool(self._jobs.show, request.path_params["id"])
        if known is None:
            return _no_job(request)
        job = await run_in_threadpool(act, known.id)
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("/status", 303)
        return JSONResponse(job.as_json())

    async def queue(self, request: Request) -> Response:
        """How much there is to do for workers: what an autoscaler goes by. Jobs that may not begin yet do not count."""
        waiting, running = await run_in_threadpool(self._jobs.depth)
        return JSONResponse({"waiting": waiting, "running": running, "wanted": waiting + running})

    async def alive(self, request: Request) -> Response:
        """This process serves, whatever is to be said of others: /healthz says that."""
        return JSONResponse({"status": "alive"})

    async def health(self, request: Request) -> Response:
        """What is up and what is missing: 200, or 503 when anything is. A warning alone changes neither."""
        warnings = await run_in_threadpool(self._warnings)
        answers = await asyncio.gather(*(run_in_threadpool(check) for check in self._checks.values()))
        parts = {
            name: {"up": missing is None, **({"missing": missing} if missing else {})}
            for name, missing in zip(self._checks, answers, strict=True)
        }
        up = all(missing is None for missing in answers)
        said = {"status": "up" if up else "degraded", "parts": parts}
        return JSONResponse({**said, "warnings": [*warnings]} if warnings else said, 200 if up else 503)

    async def status(self, request: Request) -> Response:
        """The page that says of each series what became of it."""
        jobs, arrivals, router = await asyncio.gather(
            run_in_threadpool(self._jobs.list, 100),
            run_in_threadpool(self._router.newest, 100),
            run_in_threadpool(self._router.status),
        )
        destinations = await run_in_threadpool(self._couriers.status) if self._couriers else {}
        warnings = await run_in_threadpool(self._warnings)
        return status_page(jobs, arrivals, router["away"], destinations, warnings)


async def _content(request: Request, most_bytes: int) -> bytes | None:
    """What was posted; None when it is more than that, whatever its headers say."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > most_bytes:
            return None
    return bytes(content)


def _no_job(request: Request) -> Response:
    return JSONResponse({"error": f"there is no job {request.path_params['id']!r}"}, 404)


async def told(request: Request, error: Exception) -> Response:
    """An IsocenterError as its one sentence: a conflict where the request was at fault, else unavailable."""
    if not isinstance(error, IsocenterError):
        raise error
    return JSONResponse({"error": str(error)}, 409 if isinstance(error, InputError) else 503)
