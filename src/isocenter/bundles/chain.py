"""The transforms before and after the network: which of them are run, and which can not be honoured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isocenter.bundles.configuration import Configuration, Part
from isocenter.bundles.expression import CannotTell

__all__ = ["Chain", "steps_of"]

_READER, _WRITER = "LoadImage", "SaveImage"
_READERS = frozenset({"ITKReader", "NibabelReader", "PydicomReader"})
# What else a reader may be told: nothing that changes the voxels or where they lie.
_OF_READING = frozenset(
    {"_target_", "_desc_", "keys", "reader", "image_only", "ensure_channel_first", "meta_keys"}
    | {"allow_missing_keys", "overwriting", "meta_key_postfix"}
)
# After these the numbers still mean what the network's channels mean, and lie where they say that they lie.
_AFTER = frozenset(
    {
        "Activations",
        "AsDiscrete",
        "Invert",
        "KeepLargestConnectedComponent",
        "FillHoles",
        "RemoveSmallObjects",
    }
    | {"EnsureType", "ToTensor", "ToDevice", "CastToType", "SqueezeDim", "DeleteItems", "EnsureChannelFirst"}
)
_COMPOSITIONS = frozenset({"Compose", "OneOf", "RandomOrder", "SomeOf"})


class Chain:
    """One Compose of a bundle: `steps` without what reads and writes files, `key` of what these read or write."""

    def __init__(self, configuration: Configuration, part: Part | None, usual_key: str) -> None:
        self._configuration = configuration
        self.key = usual_key
        self.steps: list[Part] = []
        self.content: dict[str, Any] = {"_target_": "Compose", "transforms": []}
        if part is None:
            return
        inner = configuration.child(part, "transforms") if part.target == "Compose" else part
        for step in configuration.items(inner) if inner is not None else []:
            self._add(step)
        if isinstance(part.content, Mapping):
            given = {key: value for key, value in part.content.items() if key != "transforms"}
            self.content = {**given, "_target_": "Compose", "transforms": []}
        self.content["transforms"] = [step.content for step in self.steps]

    def _add(self, step: Part) -> None:
        name = plain_name(step)
        if not name:
            raise self._configuration.refused(f"a transform was expected, there is {step.content!r}", step)
        if step.content.get("_disabled_"):
            return
        if name in (_READER, _WRITER):
            self.key = self._only_key(step)
            if name == _READER:
                self._read(step)
        elif name in _COMPOSITIONS:
            raise self._configuration.refused(f"{step.target} in a Compose can not be honoured", step)
        elif name.startswith(("Rand", "Load", "Save")):
            raise self._configuration.refused(
                f"{step.target} can not be honoured here: it is random, or reads or writes files", step
            )
        else:
            self.steps.append(step)

    def _read(self, step: Part) -> None:
        reader = step.content.get("reader")
        unknown = sorted(set(step.content) - _OF_READING)
        if unknown or (reader is not None and str(reader).rpartition(".")[2] not in _READERS):
            what = unknown[0] if unknown else f"reader {reader}"
            raise self._configuration.refused(f"{step.target} with {what} can not be honoured", step)
        if step.content.get("ensure_channel_first"):
            added = {"_target_": "EnsureChannelFirstd", "keys": self.key}
            self.steps.append(Part(step.id, added))

    def _only_key(self, step: Part) -> str:
        try:
            keys = self._configuration.value(self._configuration.child(step, "keys"))
        except CannotTell:
            keys = None
        names = [keys] if isinstance(keys, str) else list(keys or [])
        if len(names) != 1:
            raise self._configuration.refused(
                f"{step.target} is for {len(names)} entries ({', '.join(map(str, names))}); one can be served",
                step,
            )
        return str(names[0])


def steps_of(chain: Chain, configuration: Configuration, before: str) -> list[Part]:
    """The steps after the network, each checked to leave the labels' meaning alone.

    before: the ID of the chain whose inverse may be asked for.
    """
    for step in chain.steps:
        name = plain_name(step)
        if name not in _AFTER:
            raise configuration.refused(
                f"{step.target} after the network can not be honoured: what its labels mean then is not known",
                step,
            )
        if name == "AsDiscrete" and step.content.get("to_onehot"):
            raise configuration.refused(f"{step.target} with to_onehot can not be honoured", step)
        inverted = configuration.child(step, "transform") if name == "Invert" else None
        if name == "Invert" and (inverted is None or inverted.id != before):
            raise configuration.refused(f"{step.target} can invert only what comes before the network", step)
    return chain.steps


def plain_name(step: Part) -> str:
    """Without the ending of those that work on dictionaries: of Spacingd, SpacingD and SpacingDict, Spacing."""
    for ending in ("Dict", "d", "D"):
        name = step.target.removesuffix(ending)
        if name != step.target and step.target not in ("Pad",):
            return name
    return step.target
