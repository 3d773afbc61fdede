"""A router with the rules of a test, and waiting for what it makes of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from isocenter.route import Route
from isocenter.routing import Router
from isocenter.settings import Settings

__all__ = ["routed", "said", "wait_for"]


@contextmanager
def routed(settings: Settings, *routes: dict[str, Any], **routing: float) -> Iterator[Router]:
    """A router with these rules."""
    given = [Route(**{"name": "r", "applications": ("trivial",), **route}) for route in routes]
    changed = settings.routing.model_copy(update=routing)
    router = Router(settings.model_copy(update={"routes": tuple(given), "routing": changed}))
    router.start()
    try:
        yield router
    finally:
        router.stop()


def wait_for(condition: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def said(router: Router) -> set[str]:
    return {str(each) for arrival in router.newest() for each in arrival.verdicts}
