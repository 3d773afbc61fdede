"""The transforms before and after the network: which of them are run, and which can not be honoured."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from isocenter.bundles.configuration import Configuration, Part
from isocenter.bundles.expression import CannotTell

__all__ = ["Chain", "plain_name", "steps_of", "steps_of_boxes", "steps_of_the_whole"]

_READER, _WRITERS = "LoadImage", ("SaveImage", "SaveClassification")
_READERS = frozenset({"itkreader", "nibabelreader", "pydicomreader"})
# What else a reader may be told: nothing that changes the voxels or where they lie.
_OF_READING = frozenset(
    {"_target_", "_desc_", "_disabled_", "keys", "reader", "image_only", "ensure_channel_first", "meta_keys"}
    | {"allow_missing_keys", "overwriting", "meta_key_postfix", "affine_lps_to_ras"}
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
# The same of what is said of a whole volume, and lies nowhere.
_OF_THE_WHOLE = frozenset(
    {"Activations", "AsDiscrete", "EnsureType", "ToTensor", "ToDevice", "CastToType", "DeleteItems"}
)
# After these boxes still lie where they were found, and are what they were found as.
_OF_BOXES = frozenset(
    {"ClipBoxToImage", "AffineBoxToWorldCoordinate", "ConvertBoxMode", "StandardizeEmptyBox"}
    | {"EnsureType", "ToTensor", "ToDevice", "CastToType", "DeleteItems"}
)
_STANDARD_BOX = (None, "xyzxyz")
_BOXES = (*_STANDARD_BOX, "xxyyzz", "xyxyzz", "xyzwhd", "cccwhd")
_COMPOSITIONS = frozenset({"Compose", "OneOf", "RandomOrder", "SomeOf"})


class Chain:
    """One Compose of a bundle: `steps` without what reads and writes files, `key` of what these read or write.

    `merging`: the step that writes masks as the numbers of one file, where it is the last before that; it is left out,
    because the masks themselves say the same and more. Only looked for where `after` the network.
    """

    def __init__(
        self, configuration: Configuration, part: Part | None, usual_key: str, *, after: bool = False
    ) -> None:
        self._configuration = configuration
        self._after = after
        self.merging: Part | None = None
        self.key = usual_key
        self.steps: list[Part] = []
        self.content: dict[str, Any] = {"_target_": "Compose", "transforms": []}
        if part is None:
            return
        inner = configuration.child(part, "transforms") if part.target == "Compose" else part
        if inner is None or not isinstance(inner.content, list):
            raise configuration.refused("a list of transforms was expected", inner or part)
        for step in configuration.items(inner):
            self._add(step)
        if isinstance(part.content, Mapping):
            given = {key: value for key, value in part.content.items() if key != "transforms"}
            self.content = {**given, "_target_": "Compose", "transforms": []}
        self.content["transforms"] = [step.content for step in self.steps]

    def _add(self, step: Part) -> None:
        name = plain_name(step)
        if not name:
            raise self._configuration.refused(f"a transform was expected, there is {step.content!r}", step)
        if self._is_disabled(step):
            return
        if name in (_READER, *_WRITERS):
            self.key = self._only_key(step)
            if name == _READER:
                self._read(step)
        elif self.merging is not None:
            raise self._configuration.refused(
                f"{step.target} after the masks were made one map can not be honoured", step
            )
        elif self._after and name == "Lambda" and _merges_masks(step.content.get("func")):
            self.merging = step
        elif name in _COMPOSITIONS:
            raise self._configuration.refused(f"{step.target} in a Compose can not be honoured", step)
        elif name.startswith(("Rand", "Load", "Save", "Write")):
            raise self._configuration.refused(
                f"{step.target} can not be honoured here: it is random, or reads or writes files", step
            )
        else:
            self.steps.append(step)

    def _is_disabled(self, step: Part) -> bool:
        try:
            return self._configuration.disabled(step)
        except CannotTell as error:
            raise self._configuration.refused(
                f"{step.target}: whether it is disabled can be told only by running it", step
            ) from error

    def _read(self, step: Part) -> None:
        reader = step.content.get("reader")
        unknown = sorted(set(step.content) - _OF_READING)
        known = reader is None or str(reader).rpartition(".")[2].lower() in _READERS
        # Every reader of MONAI's gives the affine in RAS, but where this is said of ITK's.
        in_ras = step.content.get("affine_lps_to_ras", True) is True
        if unknown or not known or not in_ras:
            what = unknown[0] if unknown else f"reader {reader}" if in_ras else "affine_lps_to_ras: false"
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


def steps_of_the_whole(chain: Chain, configuration: Configuration, *, discrete: bool) -> list[Part]:
    """The steps after a network that says something of the volume as a whole: an activation, then a decision.

    discrete: whether there may be those two; numbers are taken as they are.
    """
    names = [plain_name(step) for step in chain.steps]
    for step, name in zip(chain.steps, names, strict=True):
        if name not in _OF_THE_WHOLE or (not discrete and name in ("Activations", "AsDiscrete")):
            raise configuration.refused(f"{step.target} after the network can not be honoured", step)
        try:
            keys = configuration.value(configuration.child(step, "keys"))
        except CannotTell as error:
            raise configuration.refused(
                f"{step.target}: keys can be told only by running it", step
            ) from error
        if name != "DeleteItems" and keys not in (chain.key, [chain.key]):
            raise configuration.refused(f"{step.target} is for {keys}, where there is only {chain.key}", step)
        if name == "Activations" and step.content.get("other") is not None:
            raise configuration.refused(f"{step.target} with other can not be honoured", step)
    decisive = [name for name in names if name in ("Activations", "AsDiscrete")]
    if decisive not in ([], ["Activations"], ["AsDiscrete"], ["Activations", "AsDiscrete"]):
        raise configuration.refused(f"{', then '.join(decisive)} after the network can not be honoured")
    return chain.steps


def steps_of_boxes(chain: Chain, configuration: Configuration) -> list[Part]:
    """The steps after a detector: what brings its boxes into the patient, once, and what writes them in another way."""
    names = [plain_name(step) for step in chain.steps]
    for step, name in zip(chain.steps, names, strict=True):
        if name not in _OF_BOXES:
            raise configuration.refused(f"{step.target} after the detector can not be honoured", step)
        if name == "ConvertBoxMode":
            source, target = (_value(configuration, step, key) for key in ("src_mode", "dst_mode"))
            if source not in _STANDARD_BOX or target not in _BOXES:
                raise configuration.refused(
                    f"{step.target} from {source} to {target} can not be honoured", step
                )
        if name == "AffineBoxToWorldCoordinate" and "ConvertBoxMode" in names[: names.index(name)]:
            raise configuration.refused(f"{step.target} after ConvertBoxModed can not be honoured", step)
    if names.count("AffineBoxToWorldCoordinate") != 1 or names.count("ConvertBoxMode") > 1:
        raise configuration.refused(
            "its postprocessing has to bring the boxes into the patient (AffineBoxToWorldCoordinated) once, and may "
            "change how they are written (ConvertBoxModed) once after that"
        )
    return chain.steps


def _value(configuration: Configuration, step: Part, key: str) -> Any:
    try:
        return configuration.value(configuration.child(step, key))
    except CannotTell as error:
        raise configuration.refused(f"{step.target}: {key} can be told only by running it", step) from error


def _merges_masks(function: Any) -> bool:
    """Whether this is `lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, ... 0))`: each mask's number,
    the first of those that overlap."""
    if not isinstance(function, str) or not function.startswith("$"):
        return False
    try:
        tree = ast.parse(function[1:].strip(), mode="eval").body
    except SyntaxError:
        return False
    if not isinstance(tree, ast.Lambda) or len(tree.args.args) != 1:
        return False
    mask, number = f"{tree.args.args[0].arg}[[", tree.body
    while isinstance(number, ast.Call):
        if ast.unparse(number.func) != "torch.where" or len(number.args) != 3 or number.keywords:
            return False
        condition, chosen, number = number.args
        text = ast.unparse(condition)
        channel = text.removeprefix(mask).removesuffix("]] > 0")
        if text != f"{mask}{channel}]] > 0" or not channel.isdecimal() or not _is_number(chosen):
            return False
    return number is not tree.body and _is_number(number)


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int)


def plain_name(step: Part) -> str:
    """Without the ending of those that work on dictionaries: of Spacingd, SpacingD and SpacingDict, Spacing."""
    for ending in ("Dict", "d", "D"):
        name = step.target.removesuffix(ending)
        if name != step.target and step.target not in ("Pad",):
            return name
    return step.target
