"""The REST API of the rules: what they are, what is wrong with them, and what they say of a study in the archive."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from isocenter.arrivals import Arrival
from isocenter.catalog import Catalog
from isocenter.routing.past import explained
from isocenter.rules import Series, problems
from isocenter.settings import Settings

__all__ = ["RulesAPI"]

_LARGEST_QUESTION = 65536  # bytes
_UID = re.compile(r"[0-9.]{1,64}", re.ASCII)  # PS3.5, 9.1


class RulesAPI:
    """`study_of` gives the series of a study in the archive, none where it is not there, and `arrivals_of` what was
    decided about them. Both raise Unavailable."""

    def __init__(
        self,
        settings: Settings,
        study_of: Callable[[str], Sequence[Series]],
        arrivals_of: Callable[[str], Sequence[Arrival]],
    ) -> None:
        self._settings = settings
        self._study_of = study_of
        self._arrivals_of = arrivals_of

    @property
    def routes(self) -> list[BaseRoute]:
        return [
            Route("/api/rules", self.listing),
            Route("/api/rules/explain", self.explain, methods=["POST"]),
        ]

    async def listing(self, request: Request) -> Response:
        """Every route, and what is wrong with any."""
        return JSONResponse(await run_in_threadpool(self._listed))

    async def explain(self, request: Request) -> Response:
        """`{"study_uid": "1.2.3"}`: what each route says of each series of it, or of the study."""
        study_uid = _study_uid(await _question(request))
        if study_uid is None:
            return JSONResponse({"error": 'a JSON document like {"study_uid": "1.2.3"} is expected'}, 400)
        answer = await run_in_threadpool(self._explained, study_uid)
        if answer is None:
            return JSONResponse({"error": f"the archive holds no study {study_uid}"}, 404)
        return JSONResponse(answer)

    def _listed(self) -> dict[str, object]:
        routes = self._settings.routes
        found = problems(routes, Catalog.of(self._settings).names)
        return {
            "routes": [route.model_dump(mode="json") for route in routes],
            "problems": [{"place": list(each.place), "message": str(each)} for each in found],
        }

    def _explained(self, study_uid: str) -> dict[str, object] | None:
        study = self._study_of(study_uid)
        if not study:
            return None
        return explained(self._settings.routes, study, self._arrivals_of(study_uid))


async def _question(request: Request) -> bytes:
    """What was posted, up to the limit; more of it is no question."""
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > _LARGEST_QUESTION:
            return b""
    return bytes(content)


def _study_uid(content: bytes) -> str | None:
    try:
        question = json.loads(content)
    except (ValueError, RecursionError):
        return None
    uid = question.get("study_uid") if isinstance(question, dict) else None
    return uid if isinstance(uid, str) and _UID.fullmatch(uid) else None
