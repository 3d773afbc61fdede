"""A bundle's configuration, followed from part to part without running any of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from isocenter.bundles.bundle import Bundle
from isocenter.bundles.expression import CannotTell, is_plain, references_in, value_of

__all__ = ["Configuration", "Part"]

_SEPARATOR = "::"
# Made by MONAI or torch, by a name that they look up among their own, or by its whole name.
_KNOWN_PACKAGES = ("monai.", "torch.nn.", "torchvision.models.")
_KNOWN_IMPORTS = frozenset(
    f"$import {name}"
    for name in ("glob", "json", "math", "monai", "numpy", "os", "re", "torch", "numpy as np")
)


@dataclass(frozen=True)
class Part:
    """A part of the configuration: where it is, by MONAI's ID, and what stands there."""

    id: str
    content: Any

    @property
    def target(self) -> str:
        """The last word of the name of what it is made by, as `Spacingd`; "" where it is made by nothing."""
        name = self.content.get("_target_", "") if isinstance(self.content, Mapping) else ""
        return str(name).rpartition(".")[2]


@dataclass(frozen=True)
class Configuration:
    """The parts of one bundle's configuration. References go through it as MONAI has them: `@part`, `%part`."""

    bundle: Bundle

    def part(self, id_: str) -> Part | None:
        """What stands at this ID, references followed; None where nothing does."""
        content: Any = self.bundle.config
        for key in id_.replace("#", _SEPARATOR).split(_SEPARATOR):
            if isinstance(content, Mapping) and key in content:
                content = content[key]
            elif isinstance(content, list) and key.isdecimal() and int(key) < len(content):
                content = content[int(key)]
            else:
                return None
        return self.followed(Part(id_.replace("#", _SEPARATOR), content))

    def followed(self, part: Part) -> Part | None:
        """The part itself, where it is only a reference to another one: that one."""
        seen = set()
        while isinstance(part.content, str) and part.content[:1] in ("@", "%") and part.content not in seen:
            seen.add(part.content)
            there = self.part(part.content[1:])
            if there is None:
                return None
            part = there
        return part

    def child(self, part: Part, key: str) -> Part | None:
        """What stands at a key of a part, references followed."""
        if isinstance(part.content, Mapping) and key in part.content:
            return self.followed(Part(f"{part.id}{_SEPARATOR}{key}", part.content[key]))
        return None

    def items(self, part: Part) -> list[Part]:
        """The items of a list, or of a Compose, references followed."""
        content, id_ = part.content, part.id
        if isinstance(content, Mapping) and part.target == "Compose":
            inner = self.child(part, "transforms")
            if inner is None:
                return []
            content, id_ = inner.content, inner.id
        if not isinstance(content, list):
            return []
        found = (self.followed(Part(f"{id_}{_SEPARATOR}{place}", each)) for place, each in enumerate(content))
        return [each for each in found if each is not None]

    def value(self, part: Part | None) -> Any:
        """What a part comes to, as far as that can be told without running it. Raises CannotTell."""
        if part is None:
            return None
        content = part.content
        if isinstance(content, str) and content.startswith("$"):
            return value_of(content[1:], lambda id_: self.value(self._needed(id_)))
        if isinstance(content, str) and content.startswith("@"):
            return self.value(self._needed(content[1:]))
        if isinstance(content, list):
            return [self.value(Part(f"{part.id}{_SEPARATOR}{n}", each)) for n, each in enumerate(content)]
        if isinstance(content, Mapping):
            if "_target_" in content:
                raise CannotTell(part.id)
            return {
                key: self.value(Part(f"{part.id}{_SEPARATOR}{key}", each)) for key, each in content.items()
            }
        return content

    def _needed(self, id_: str) -> Part:
        part = self.part(id_)
        if part is None:
            raise CannotTell(id_)
        return part

    def made_by(self, target: str) -> Iterator[Part]:
        """Every part, anywhere, that is made by this class."""
        yield from (part for part in self._walk(Part("", self.bundle.config)) if part.target == target)

    def code(self, parts: list[Part]) -> list[str]:
        """What of these parts, and of all that they refer to, is code: each with where it stands."""
        found: dict[str, None] = {}
        imports = self.part("imports")
        for each in imports.content if imports and isinstance(imports.content, list) else []:
            if str(each).strip() not in _KNOWN_IMPORTS:
                found[f"imports: {each}"] = None
        seen: set[str] = set()
        waiting = list(parts)
        while waiting:
            for part in self._walk(waiting.pop()):
                if part.id in seen:
                    continue
                seen.add(part.id)
                if reason := _code_in(part):
                    found[reason] = None
                if isinstance(part.content, str) and part.content[:1] in "$@%":
                    there = (self.part(id_) for id_ in references_in(part.content.replace("%", "@")))
                    waiting += [each for each in there if each is not None]
        return list(found)

    def _walk(self, part: Part) -> Iterator[Part]:
        yield part
        content = part.content
        prefix = f"{part.id}{_SEPARATOR}" if part.id else ""
        if isinstance(content, Mapping):
            for key, each in content.items():
                yield from self._walk(Part(f"{prefix}{key}", each))
        elif isinstance(content, list):
            for place, each in enumerate(content):
                yield from self._walk(Part(f"{prefix}{place}", each))


def _code_in(part: Part) -> str:
    content = part.content
    if isinstance(content, Mapping):
        name = str(content.get("_target_", ""))
        if "." in name and not name.startswith(_KNOWN_PACKAGES):
            return f"{part.id}: {name}"
    if isinstance(content, str) and content.startswith("$") and not is_plain(content[1:]):
        return f"{part.id}: {content}"
    return ""
