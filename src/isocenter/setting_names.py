"""What a person is told about the name of a setting, in the file or in the environment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from isocenter_operators.errors import ConfigurationError

__all__ = ["refuse_lookalikes", "sentence"]

_PREFIX = "ISOCENTER_"


def refuse_lookalikes(model: type[BaseModel], environment: Mapping[str, str]) -> None:
    """Refuse a variable that is a setting's but for its section or its underscores: it would set nothing.

    Raises ConfigurationError, naming it and the one that was meant.
    """
    settings = list(_variables(model))
    plain = {_plain(name) for name in settings}
    for given, value in environment.items():
        name = given.upper()
        # Kubernetes sets ISOCENTER_GATEWAY_PORT=tcp://... where a service is named isocenter-gateway.
        if not name.startswith(_PREFIX) or name in settings or value.startswith("tcp://"):
            continue
        section, nested, _ = name.partition("__")
        if (section not in settings) if nested else (_plain(name) in plain):
            near = get_close_matches(name, settings, 1)
            raise ConfigurationError(f"environment variable {given}: there is no such setting{_meant(near)}")


def sentence(
    error: ValidationError, model: type[BaseModel], environment: Mapping[str, str], file: str
) -> str:
    """What is wrong, and where: in the environment, which comes first, or in `file`."""
    given = {name.upper(): name for name in environment}
    return "; ".join(
        f"{_where(problem['loc'], given, file)}: {_said(problem['type'], problem['msg'], problem['loc'], model)}"
        for problem in error.errors(include_url=False)
    )


def _where(place: Sequence[int | str], given: Mapping[str, str], file: str) -> str:
    for end in range(len(place), 0, -1):
        variable = _PREFIX + "__".join(str(part) for part in place[:end]).upper()
        if variable in given:
            return f"environment variable {given[variable]}"
    return f"{file}: {'.'.join(str(part) for part in place)}"


def _said(kind: str, message: str, place: Sequence[int | str], model: type[BaseModel]) -> str:
    if kind != "extra_forbidden":
        return message
    return f"there is no such key{_meant(get_close_matches(str(place[-1]), _keys(model, place[:-1]), 1))}"


def _keys(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """The keys that may stand at this place."""
    for part in place:
        if not isinstance(part, str):
            continue  # an index: the list's own model is there already
        inner = _section(model.model_fields[part].annotation) if part in model.model_fields else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model behind `Section` or `tuple[Section, ...]`."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


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
