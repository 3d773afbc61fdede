"""What a person is told about the name of a setting, in the file or in the environment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from isocenter.secret_files import SUFFIX
from isocenter.yaml_places import YAMLDocument
from isocenter_operators.errors import ConfigurationError

__all__ = ["missing_secrets", "refuse_lookalikes", "sentence", "where"]

_PREFIX = "ISOCENTER_"
_SECRETS = {"password", "secret"}
# A variable can mean it: variables are read in lower case, and two underscores part the keys.
_NAME = re.compile("[a-z0-9]+(?:_[a-z0-9]+)*")


def refuse_lookalikes(model: type[BaseModel], environment: Mapping[str, str]) -> None:
    """Refuse a variable that is a setting's but for its section or its underscores: it would set nothing.

    Raises ConfigurationError, naming it and the one that was meant.
    """
    settings = list(_variables(model))
    plain = {_plain(name) for name in settings}
    for given, value in environment.items():
        name = given.upper()
        # What names a file is the setting's that stands in it.
        name = name if name in settings else name.removesuffix(SUFFIX)
        # Kubernetes sets ISOCENTER_GATEWAY_PORT=tcp://... where a service is named isocenter-gateway.
        if not name.startswith(_PREFIX) or name in settings or value.startswith("tcp://"):
            continue
        section, nested, _ = name.partition("__")
        if (section not in settings) if nested else (_plain(name) in plain):
            near = get_close_matches(name, settings, 1)
            raise ConfigurationError(f"environment variable {given}: there is no such setting{_meant(near)}")


def sentence(
    error: ValidationError,
    model: type[BaseModel],
    environment: Mapping[str, str],
    file: Path | None,
    document: YAMLDocument | None = None,
) -> str:
    """What is wrong, a line for each, and where: in the environment, which comes first, or in the file.

    `isocenter.yaml:3:12: orthanc.htp_port: there is no such key; did you mean http_port?`
    """
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        place, message = _as_placed(problem)
        if problem["type"] == "extra_forbidden":
            message = f"there is no such key{_meant(get_close_matches(str(place[-1]), _keys(model, place[:-1]), 1))}"
        variable = _variable(place, environment)
        named = document.named(place) if document and not variable else place
        if problem["type"] in ("missing", "half_a_login"):
            message = message.replace("Field required", "is missing") + _to_be_set(place)
        said = "" if variable.upper().removesuffix(SUFFIX) == _named(place) else ".".join(map(str, named))
        lines.append(
            ": ".join(each for each in (where(place, document, file, environment), said, message) if each)
        )
    return "\n".join(dict.fromkeys(lines))


def missing_secrets(error: ValidationError) -> list[tuple[str, ...]]:
    """Which passwords and secrets are missing, by the keys that lead to them."""
    found = []
    for problem in error.errors(include_url=False, include_input=False):
        place, _ = _as_placed(problem)
        if problem["type"] in ("missing", "half_a_login") and place[-1] in _SECRETS:
            found.append(tuple(map(str, place)))
    return found


def _to_be_set(place: Sequence[int | str]) -> str:
    """Where else than in the file a password or a secret may stand; it should not stand in the file."""
    if place[-1] not in _SECRETS or not all(_NAME.fullmatch(str(part)) for part in place):
        return ""
    variable = _named(place)
    return f": set {variable}, or {variable}{SUFFIX} to the file that it stands in"


def _named(place: Sequence[int | str]) -> str:
    return _PREFIX + "__".join(map(str, place)).upper()


def where(
    place: Sequence[int | str],
    document: YAMLDocument | None,
    file: Path | None,
    environment: Mapping[str, str],
) -> str:
    """Where a setting was given: `environment variable X`, `isocenter.yaml:14:9`, or the file alone."""
    variable = _variable(place, environment)
    if variable:
        return f"environment variable {variable}"
    position = document.position(place) if document else None
    if file is None:
        return "settings"
    return f"{file}:{position[0]}:{position[1]}" if position else str(file)


def _variable(place: Sequence[int | str], environment: Mapping[str, str]) -> str:
    given = {name.upper(): name for name in environment}
    for end in range(len(place), 0, -1):
        variable = _named(place[:end])
        for name in (variable, variable + SUFFIX):
            if name in given:
                return given[name]
    return ""


def _as_placed(problem: ErrorDetails) -> tuple[tuple[int | str, ...], str]:
    """By which keys it is set, as precisely as pydantic or the message itself tells, and what is wrong with it.

    The message may begin with them: `worker.processes: more than one ...`.
    """
    place, message = problem["loc"], problem["msg"].removeprefix("Value error, ")
    told = re.match(r"([a-z_]+(?:\.[\w-]+)+): ", message)
    if not place and told:
        parts = told[1].split(".")
        return tuple(int(part) if part.isdecimal() else part for part in parts), message[told.end() :]
    # [key] is pydantic's, others are our own tags: none is a key.
    keys = [part for part in place if not str(part).startswith("[")]
    if len(keys) > 2 and keys[0] == "peers":
        del keys[2]  # behind the name of a peer pydantic puts its kind
    if problem["type"] == "half_a_login":
        keys.append(str(problem["ctx"]["missing"]))
    return tuple(keys), message


def _keys(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """The keys that may stand at this place."""
    models = [model]
    for part in place:
        # An index, or a name that people give: the models inside are there already.
        inner = [
            found
            for each in models
            if part in each.model_fields
            for found in _sections(each.model_fields[str(part)].annotation)
        ]
        known = any(part in each.model_fields for each in models)
        models = inner if known else models
    return [key for each in models for key in each.model_fields]


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """The models behind `Section`, `tuple[Section, ...]` or `dict[str, One | Other]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _sections(inner)]


def _variables(model: type[BaseModel]) -> Iterator[str]:
    """Every variable that sets something."""
    for name, field in model.model_fields.items():
        yield f"{_PREFIX}{name.upper()}"
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from (f"{_PREFIX}{name.upper()}__{key.upper()}" for key in section.model_fields)


def _plain(name: str) -> str:
    return re.sub("_+", "_", name)


def _meant(near: Sequence[str]) -> str:
    return f"; did you mean {near[0]}?" if near else ""
