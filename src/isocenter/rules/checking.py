"""Are the rules themselves right: asked at every start, so that no scan waits for a rule that can not work."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from isocenter.catalog import Catalog
from isocenter.map_reference import is_package
from isocenter.route import PRIORITIES, Route
from isocenter.rules.problem import Place, Problem
from isocenter.rules.reading import read
from isocenter.setting_names import where
from isocenter.settings import Settings
from isocenter.yaml_places import read_yaml
from isocenter_operators.errors import ConfigurationError

__all__ = ["located", "problems", "refuse_wrong_rules"]


def problems(routes: Sequence[Route], applications: Collection[str]) -> list[Problem]:
    """What is wrong with the rules. `applications`: the names of those that are installed."""
    found = []
    names: set[str] = set()
    for index, route in enumerate(routes):
        place: Place = ("routes", index)
        if route.name in names:
            found.append(Problem((*place, "name"), "another rule has this name too", route.name))
        names.add(route.name)
        found += [
            Problem((*place, "applications", at), _unknown_application(name, applications), route.name)
            for at, name in enumerate(route.applications)
            if name not in applications
        ]
        found += [
            Problem((*place, *inside), message, route.name) for inside, message in _without_conditions(route)
        ]
        for inside, conditions in _conditions(route):
            found += [
                replace(problem, place=(*place, *inside, *problem.place), route=route.name)
                for problem in read(conditions).problems
            ]
    return found


def _unknown_application(name: str, applications: Collection[str]) -> str:
    if is_package(name):
        return f"there is no package {name} here; `isocenter map add FILE` takes one in, `isocenter map list` has those"
    near = get_close_matches(name, applications, 1)
    there = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(applications)) or 'none'}"
    return f"there is no application {name!r} in apps_dir; {there}"


def refuse_wrong_rules(settings: Settings, file: Path | None, catalog: Catalog) -> None:
    """Raise ConfigurationError with a line for each thing that is wrong.

    `isocenter.yaml:14:9: routes.0 (chest CT): when.Modalty: not a DICOM keyword; did you mean Modality?`
    `file` is what the settings were loaded from (`settings.file`), None where there was none.
    """
    wrong = problems(settings.routes, catalog.names)
    if wrong:
        raise ConfigurationError("\n".join(f"{where_of}: {each}" for each, where_of in located(wrong, file)))


def located(wrong: Sequence[Problem], file: Path | None) -> list[tuple[Problem, str]]:
    """Each problem, by the names that the file uses, with where it stands: `isocenter.yaml:14:9`, or the variable of
    the environment that said it."""
    if not wrong or file is None:
        return [(problem, where(problem.place, None, None, os.environ)) for problem in wrong]
    document = read_yaml(file)
    named = [replace(problem, place=document.named(problem.place)) for problem in wrong]
    return [(problem, where(problem.place, document, file, os.environ)) for problem in named]


def _without_conditions(route: Route) -> Iterator[tuple[Place, str]]:
    """Where conditions are missing without which a route means something else than it seems to."""
    for index, expected in enumerate(route.expect):
        if not expected.when:
            yield ("expect", index, "when"), "no conditions: any series would do"
    if isinstance(route.priority, dict):
        most_urgent = min(route.priority, key=PRIORITIES.index, default=None)
        if most_urgent is not None and not route.priority[most_urgent]:
            meant = f"if that is meant, write priority: {most_urgent}"
            yield ("priority", most_urgent), f"no conditions: every job would be {most_urgent}; {meant}"


def _conditions(route: Route) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """Everything in a route that is conditions, and where."""
    yield ("when",), route.when
    for index, expected in enumerate(route.expect):
        yield ("expect", index, "when"), expected.when
    if isinstance(route.priority, dict):
        for priority, conditions in route.priority.items():
            yield ("priority", priority), conditions
    if route.priors is not None:
        yield ("priors", "when"), route.priors.when
