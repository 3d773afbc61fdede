"""A bundle's configuration, followed from part to part without running any of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from isocenter.bundles.bundle import Bundle
from isocenter.bundles.component import is_known
from isocenter.bundles.expression import CannotTell, is_plain, references_in, value_of
from isocenter_operators.errors import ConfigurationError

__all__ = ["Configuration", "Part", "code_in", "walked"]

_SEPARATOR = "::"
_IMPORTS = frozenset(
    f"$import {name}"
    for name in ("glob", "json", "math", "monai", "numpy", "os", "re", "torch", "numpy as np")
)
_DOWNLOADS = ("http://", "https://", "ftp://")


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
    """The parts of one bundle's configuration. References go through it as MONAI has them: `@part`, `@part::child`."""

    bundle: Bundle

    def part(self, id_: str) -> Part | None:
        """What stands at this ID, references followed; None where nothing does."""
        content: Any = self.bundle.config
        for key in _keys(id_):
            if isinstance(content, Mapping) and key in content:
                content = content[key]
            elif isinstance(content, list) and key.isdecimal() and int(key) < len(content):
                content = content[int(key)]
            else:
                return None
        return self.followed(Part(_SEPARATOR.join(_keys(id_)), content))

    def followed(self, part: Part) -> Part | None:
        """The part itself; where it is only a reference to another one, that one."""
        seen = set()
        while (reference := _alone(part.content)) and reference not in seen:
            seen.add(reference)
            there = self.part(reference)
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
        """The items of a list, references followed."""
        if not isinstance(part.content, list):
            return []
        found = (
            self.followed(Part(f"{part.id}{_SEPARATOR}{n}", each)) for n, each in enumerate(part.content)
        )
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

    def disabled(self, part: Part) -> bool:
        """Whether a part that is made by something is switched off. Raises CannotTell."""
        said = self.value(self.child(part, "_disabled_"))
        return said.strip().lower() == "true" if isinstance(said, str) else bool(said)

    def made_by(self, target: str) -> Iterator[Part]:
        """Every part, anywhere, that is made by this class and not known to be switched off."""
        for part in walked(Part("", self.bundle.config)):
            if part.target != target:
                continue
            try:
                off = self.disabled(part)
            except CannotTell:  # as by whether its file is there
                off = False
            if not off:
                yield part

    def closed(self, roots: Mapping[str, Any]) -> dict[str, Any]:
        """These parts, and whole every part at the top that they refer to, and so on: a configuration of its own.

        Raises ConfigurationError for a reference that leads nowhere, or is of a kind that is not followed here.
        """
        found = dict(roots)
        waiting = [Part(id_, content) for id_, content in roots.items()]
        imports = self.bundle.config.get("imports")
        if imports is not None:
            found["imports"] = imports
            waiting.append(Part("imports", imports))
        while waiting:
            for part in walked(waiting.pop()):
                for top in self._tops(part):
                    if top in found or top in _GIVEN:
                        continue
                    if top not in self.bundle.config:
                        raise self.refused(f"{part.content!r}: there is no part {top!r}", part)
                    found[top] = self.bundle.config[top]
                    waiting.append(Part(top, found[top]))
        return found

    def _tops(self, part: Part) -> Iterator[str]:
        """The parts at the top that a text refers to."""
        text = part.content
        if not isinstance(text, str):
            return
        if text.startswith("%"):
            raise self.refused(f"{text!r}: a macro is not followed here: write what it stands for", part)
        if not text.startswith(("@", "$")):
            return
        if text.count("@") != len(references_in(text)):
            raise self.refused(
                f"{text!r}: a relative reference is not followed here: name the part from the top", part
            )
        yield from (_keys(id_)[0] for id_ in references_in(text))

    def refused(self, what: str, part: Part | None = None) -> ConfigurationError:
        """The error that says what can not be honoured, in which file, and where in it."""
        file = self.bundle.folder / self.bundle.config_file
        where = f"{file}: {part.id}" if part is not None else str(file)
        return ConfigurationError(f"{where}: {what}", path=str(file))


_GIVEN = frozenset({"bundle_root", "device"})  # what the model's process sets


def code_in(configuration: Mapping[str, Any]) -> list[str]:
    """What of a closed configuration is more than plain words: each with where it stands."""
    return [reason for part in walked(Part("", configuration)) if (reason := _code(part))]


def walked(part: Part) -> Iterator[Part]:
    """The part, and all that lies in it."""
    yield part
    prefix = f"{part.id}{_SEPARATOR}" if part.id else ""
    if isinstance(part.content, Mapping):
        for key, each in part.content.items():
            yield from walked(Part(f"{prefix}{key}", each))
    elif isinstance(part.content, list):
        for place, each in enumerate(part.content):
            yield from walked(Part(f"{prefix}{place}", each))


def _code(part: Part) -> str:
    content = part.content
    if isinstance(content, Mapping) and "_target_" in content:
        return _code_of_target(part.id, content)
    if not isinstance(content, str):
        return ""
    runs = content.startswith("$") and content.strip() not in _IMPORTS and not is_plain(content[1:])
    return f"{part.id}: {content}" if runs or content.lower().startswith(_DOWNLOADS) else ""


def _code_of_target(id_: str, content: Mapping[str, Any]) -> str:
    target = content["_target_"]
    if not isinstance(target, str) or not is_known(target):
        return f"{id_}: {target}"
    if content.get("_mode_", "default") != "default":
        return f"{id_}: {target}, _mode_ {content['_mode_']}"
    if content.get("pretrained") or content.get("pretrained_url"):
        return f"{id_}: {target} downloads weights"
    return ""


def _alone(content: Any) -> str:
    """The ID, where a text is nothing but a reference to it, `@part` or `$@part`; else ""."""
    if not isinstance(content, str) or not content.startswith(("@", "$@")):
        return ""
    reference = content.removeprefix("$")
    return reference[1:] if references_in(reference) == [reference[1:]] else ""


def _keys(id_: str) -> list[str]:
    return id_.replace("#", _SEPARATOR).split(_SEPARATOR)
