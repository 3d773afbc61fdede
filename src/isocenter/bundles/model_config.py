"""The two statements of a model's `config.pbtxt` that change after its import; all else in it is left as it stands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from isocenter_operators.errors import ConfigurationError

__all__ = ["instance_group", "rewrite", "version_policy", "with_instances", "with_versions"]

_BRACKETS = {"{": "}", "[": "]"}
_SKIPPED = re.compile(r'#[^\n]*|"(?:\\.|[^"\\])*"')  # comments and strings may hold brackets of their own


def version_policy(versions: Sequence[str]) -> str:
    """Triton loads exactly these; without it, the highest that there is."""
    return f"version_policy: {{ specific: {{ versions: [ {', '.join(versions)} ] }} }}"


def instance_group(count: int, gpus: Sequence[int] = ()) -> str:
    """`count` processes on each of these GPUs; without any, on each that Triton finds, or else on the CPU."""
    if gpus:
        return (
            f"instance_group [ {{ count: {count}  kind: KIND_GPU  gpus: [ {', '.join(map(str, gpus))} ] }} ]"
        )
    return f"instance_group [ {{ count: {count}  kind: KIND_AUTO }} ]"


def with_versions(text: str, versions: Sequence[str]) -> str:
    """Raises ConfigurationError where the text can not be understood."""
    return _with(text, "version_policy", version_policy(versions))


def with_instances(text: str, count: int, gpus: Sequence[int] = ()) -> str:
    """Raises ConfigurationError where the text can not be understood."""
    return _with(text, "instance_group", instance_group(count, gpus))


def rewrite(file: Path, text: str) -> bool:
    """Put the text in the place of the file's, all at once: Triton may read it at any time. False where it is the same.

    Raises ConfigurationError where it can not be written.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        if file.read_text() == text:
            return False
        part.write_text(text)
        part.replace(file)
    except OSError as error:
        raise ConfigurationError(f"{file}: can not be written: {error.strerror}", path=str(file)) from error
    return True


def _with(text: str, field: str, statement: str) -> str:
    """The statement in the place of the first of its field, every other one of that taken out; or at the end."""
    first: int | None = None
    while (found := _statement(text, field)) is not None:
        begin, end = found
        first = begin if first is None else first
        text = text[:begin] + text[end:].removeprefix("\n")
    if first is None:
        text = text.rstrip("\n") + "\n"
        first = len(text)
    return f"{text[:first]}{statement}\n{text[first:]}"


def _statement(text: str, field: str) -> tuple[int, int] | None:
    """Where the first top-level statement of this field begins and ends, its brackets included."""
    bare = _SKIPPED.sub(lambda skipped: " " * len(skipped[0]), text)
    found = re.search(rf"^{field}\s*:?\s*(?=[{{\[])", bare, re.MULTILINE)
    if found is None:
        return None
    closing: list[str] = []
    for place in range(found.end(), len(bare)):
        letter = bare[place]
        if letter in _BRACKETS:
            closing.append(_BRACKETS[letter])
        elif closing and letter == closing[-1]:
            closing.pop()
            if not closing:
                return found.start(), place + 1
    raise ConfigurationError(f"config.pbtxt: the brackets of {field} do not close")
