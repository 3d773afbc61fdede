"""A YAML file with the line and column of everything in it.

It is read as YAML 1.2 reads it: only true and false are truth values (NO is text, as DICOM writes it), and 20:00, 007
and 2026-01-31 are text, where YAML 1.1 makes 1200, 7 and a date of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from yaml.reader import ReaderError

from isocenter_operators.errors import ConfigurationError

__all__ = ["YAMLDocument", "read_yaml"]

_ALSO = {"applications": "application"}  # one key of the settings may be written in another way
_PREFIX = "tag:yaml.org,2002:"


@dataclass(frozen=True)
class YAMLDocument:
    """What a file says, and where."""

    content: Any
    _root: yaml.Node | None

    def position(self, place: Sequence[str | int]) -> tuple[int, int] | None:
        """Line and column, from 1, of a key or an item; where it is not there, of the nearest thing around it.

        None for the place () and for what nothing around is there of. Parts that no file holds, as pydantic puts them
        between ("peers", "vna", "dicom", "port"), are passed over.
        """
        mark = None
        for _, found in self._way(place):
            mark = found or mark
        return (mark.line + 1, mark.column + 1) if mark else None

    def named(self, place: Sequence[str | int]) -> tuple[str | int, ...]:
        """The place by the names that the file uses: `application` for the first of `applications`."""
        named: list[str | int] = []
        node, single = self._root, False
        for part in place:
            other = _ALSO.get(str(part))
            if single and isinstance(part, int):
                continue
            single = other is not None and _holds(node, other)
            named.append(other if single and other else part)
            node = _inside(node, part)[1]
        return tuple(named)

    def _way(self, place: Sequence[str | int]) -> list[tuple[str | int, yaml.Mark | None]]:
        way: list[tuple[str | int, yaml.Mark | None]] = []
        node = self._root
        for part in place:
            mark, inner = _inside(node, part)
            if mark is not None:
                node = inner
            way.append((part, mark))
        return way


def read_yaml(file: Path) -> YAMLDocument:
    """Read a file.

    Raises ConfigurationError, with line and column, for what is no YAML and for a key that stands twice.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{file}: can not be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file}: is not UTF-8 text (byte {error.start})") from error
    try:
        loader = _Loader(text)
    except ReaderError as error:  # a character that no YAML may hold
        before = text[: error.position].split("\n")
        raise ConfigurationError(
            f"{file}:{len(before)}:{len(before[-1]) + 1}: not valid YAML: {str(error).splitlines()[0]}"
        ) from error
    try:
        root = loader.get_single_node()
        if root is None:
            return YAMLDocument(None, None)
        _refuse_twice(root, file, set(), ())
        return YAMLDocument(loader.construct_document(root), root)
    except yaml.YAMLError as error:
        raise ConfigurationError(_said(error, file)) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists thousands deep
        raise ConfigurationError(f"{file}: can not be read as settings: {type(error).__name__}") from error
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Numbers without YAML 1.1's base 60 and leading zeros; no truth values but true and false; no dates."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern) for tag, pattern in resolvers if tag not in {f"{_PREFIX}bool", f"{_PREFIX}timestamp"}
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    f"{_PREFIX}bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def _construct_number(loader: _Loader, node: yaml.ScalarNode) -> int | float | str:
    text = node.value
    if ":" in text or "_" in text or re.match("[-+]?0[0-9]", text):
        return str(text)
    if node.tag == f"{_PREFIX}int":
        return loader.construct_yaml_int(node)
    return loader.construct_yaml_float(node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"{_PREFIX}{_kind}", _construct_number)


def _inside(node: yaml.Node | None, part: str | int) -> tuple[yaml.Mark | None, yaml.Node | None]:
    """Where a key or an item begins, and what it holds."""
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and 0 <= part < len(node.value):
        item = node.value[part]
        return item.start_mark, item
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value in (str(part), _ALSO.get(str(part))):
                # The one application is all of them.
                return key.start_mark, value
    return None, None


def _holds(node: yaml.Node | None, key: str) -> bool:
    return isinstance(node, yaml.MappingNode) and any(each.value == key for each, _ in node.value)


def _refuse_twice(node: yaml.Node, file: Path, seen: set[int], around: tuple[int, ...]) -> None:
    """A key that stands twice: YAML forbids it, and most readers silently take the second."""
    if id(node) in around:
        raise ConfigurationError(f"{_at(file, node.start_mark)}: an alias inside of what it stands for")
    if id(node) in seen:
        return
    seen.add(id(node))
    inside = (*around, id(node))
    if isinstance(node, yaml.MappingNode):
        first: dict[str, yaml.Mark] = {}
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != f"{_PREFIX}merge":
                if key.value in first:
                    raise ConfigurationError(
                        f"{_at(file, key.start_mark)}: the key {key.value} stands in line "
                        f"{first[key.value].line + 1} already"
                    )
                first[key.value] = key.start_mark
            _refuse_twice(value, file, seen, inside)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_twice(item, file, seen, inside)


def _at(file: Path, mark: yaml.Mark) -> str:
    return f"{file}:{mark.line + 1}:{mark.column + 1}"


def _said(error: yaml.YAMLError, file: Path) -> str:
    mark = getattr(error, "problem_mark", None)
    said = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{_at(file, mark) if mark else file}: not valid YAML: {said}"
