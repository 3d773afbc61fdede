"""Which routes name applications whose models are not there: told at the start, not by the first study."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from isocenter.bundles.installing import versions_of
from isocenter.catalog import Catalog
from isocenter.map_reference import is_package
from isocenter.route import Route
from isocenter.settings import Settings
from isocenter_operators.errors import ConfigurationError, IsocenterError

__all__ = ["RouteModels", "missing_models"]

_Versions = Mapping[str, Sequence[str]]  # of each model that is there
_ASK_WITHIN_S = 2.0
_ASK_EVERY_S = 30.0


def missing_models(settings: Settings) -> list[str]:
    """A sentence for each route and each model that it lacks. Of the embedded Triton its folders are looked at, so that
    it need not run; another one is asked.

    Raises IsocenterError where that one can not be asked.
    """
    where, there = _in_folders(settings) if settings.triton.embedded else _on_triton(settings)
    if not there:  # no repository at all: who starts the server tells that
        return []
    catalog = Catalog.of(settings)
    return [
        f"route {route.name!r}: {said}"
        for route in settings.routes
        for said in _lacks(route, catalog, where, there)
    ]


class RouteModels:
    """`missing_models` for those who ask often: looked up once in a while, and nothing where it can not be known."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._clock = clock
        self._known: tuple[float, list[str]] | None = None

    def told(self) -> list[str]:
        if self._known is None or self._clock() - self._known[0] > _ASK_EVERY_S:
            try:
                found = missing_models(self._settings)
            except IsocenterError:  # that Triton is away is told by the jobs that wait for it
                found = []
            self._known = (self._clock(), found)
        return self._known[1]


def _lacks(route: Route, catalog: Catalog, where: str, there: _Versions) -> Iterator[str]:
    for name in route.applications:
        try:
            app = catalog.for_study(name, "") if is_package(name) else catalog.get(name)
        except ConfigurationError as error:
            yield str(error)
            continue
        for model, version in app.models.items():
            asked = f"its application {name} asks for version {version} of the model {model!r}; {where}"
            if model not in there:
                yield f"{asked} there is no such model, only {', '.join(sorted(there))}: its jobs can not run"
            elif version not in there[model]:
                of_it = ", ".join(there[model]) or "none that can be used"
                yield f"{asked} there is of its versions only {of_it}: its jobs can not run"


def _in_folders(settings: Settings) -> tuple[str, _Versions]:
    repositories = [each.resolve() for each in settings.model_repositories]
    models = [file.parent for each in repositories for file in sorted(each.glob("*/config.pbtxt"))]
    return f"in {', '.join(map(str, repositories))}", {
        model.name: versions_of(model) for model in reversed(models)
    }


def _on_triton(settings: Settings) -> tuple[str, _Versions]:
    # Not above: with an embedded Triton the gateway needs no gRPC.
    from isocenter_operators.inference.triton import TritonClient

    with TritonClient(
        settings.triton.endpoint, shared_memory=False, control_deadline_s=_ASK_WITHIN_S
    ) as client:
        return f"on Triton at {client.url}", client.versions()
