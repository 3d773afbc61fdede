"""Which parts of a bundle are run, and what comes out of them: found by reading alone.

The same plan is read by `bundle_engine` in the model's process, which makes the parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from isocenter.bundles.bundle import Bundle
from isocenter.bundles.configuration import Configuration, Part
from isocenter.bundles.expression import CannotTell
from isocenter_operators.errors import ConfigurationError

__all__ = ["Output", "Plan", "plan_of"]

Output = Literal["labels", "masks"]

# What a transform with a name like this does is different every time, or it reads or writes files.
_NOT_HERE = re.compile(r"^(Rand|Save(?!Image)|Load(?!Image))")
_READERS = frozenset({"LoadImage", "LoadImaged", "LoadImageD", "LoadImageDict"})
_WRITERS = frozenset({"SaveImage", "SaveImaged", "SaveImageD", "SaveImageDict"})
_ARGMAX = frozenset({"AsDiscreted", "AsDiscreteD", "AsDiscreteDict"})


class Plan(BaseModel):
    """Parts are named by their IDs in the configuration; see bundle_engine.plan for what each field means."""

    model_config = ConfigDict(frozen=True)

    config: str
    network: str
    preprocessing: str
    inferer: str
    postprocessing: str
    weights: str
    weights_key: str
    image_key: str
    output_key: str
    output: Output
    amp: bool


class _Reading:
    """One bundle, read once."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.configuration = Configuration(bundle)
        self.evaluator = self._evaluator()

    def _evaluator(self) -> Part:
        for id_ in ("evaluator", "validator", "inference"):
            part = self.configuration.part(id_)
            if part is not None and isinstance(part.content, Mapping):
                return part
        return Part("evaluator", {})

    def part(self, *names: str) -> Part | None:
        """The evaluator's own, by the first of these names, or what stands at the top under one of them."""
        for name in names:
            found = self.configuration.child(self.evaluator, name) or self.configuration.part(name)
            if found is not None:
                return found
        return None

    def preprocessing(self) -> Part | None:
        part: Part | None = self.evaluator
        for key in ("val_data_loader", "dataset", "transform"):
            part = self.configuration.child(part, key) if part is not None else None
        return part or self.configuration.part("preprocessing")

    def refuse(self, what: str) -> ConfigurationError:
        file = self.bundle.folder / self.bundle.config_file
        return ConfigurationError(f"{file}: {what}", path=str(file))


def plan_of(bundle: Bundle) -> tuple[Plan, list[str]]:
    """How the bundle is run, and what of it is code, each line with where it stands.

    Raises ConfigurationError, naming the file and the transform, for what can not be honoured.
    """
    reading = _Reading(bundle)
    network = reading.part("network", "network_def")
    if network is None:
        raise reading.refuse(
            "there is no network in it: neither network, network_def nor one of an evaluator"
        )
    before, after = reading.preprocessing(), reading.part("postprocessing")
    inferer = reading.part("inferer")
    steps_before = reading.configuration.items(before) if before else []
    steps_after = reading.configuration.items(after) if after else []
    for step in (*steps_before, *steps_after):
        _refuse(reading, step)
    _refuse_several_images(reading)
    weights, key = _weights(reading, network)
    plan = Plan(
        config=bundle.config_file,
        network=network.id,
        preprocessing=before.id if before else "",
        inferer=inferer.id if inferer else "",
        postprocessing=after.id if after else "",
        weights=weights,
        weights_key=key,
        image_key=_key(reading, [step for step in steps_before if step.target in _READERS], "image"),
        output_key=_key(reading, [step for step in steps_after if step.target in _WRITERS], "pred"),
        output=_output(reading, steps_after),
        amp=_amp(reading),
    )
    used = [part for part in (network, before, inferer, after) if part is not None]
    return plan, [*reading.configuration.code(used), *bundle.scripts]


def _refuse(reading: _Reading, step: Part) -> None:
    if not step.target:
        raise reading.refuse(f"{step.id}: a transform was expected, there is {step.content!r}")
    if _NOT_HERE.match(step.target):
        raise reading.refuse(
            f"{step.id}: {step.target} can not be honoured here: it is random, or reads or writes files"
        )


def _weights(reading: _Reading, network: Part) -> tuple[str, str]:
    """The file, as a path in the bundle, and the name under which a checkpoint may hold the state dict."""
    folder = reading.bundle.folder
    for loader in reading.configuration.made_by("CheckpointLoader"):
        names = loader.content.get("load_dict")
        key = next(iter(names), "model") if isinstance(names, Mapping) else "model"
        try:
            path = str(reading.configuration.value(reading.configuration.child(loader, "load_path")))
        except CannotTell:
            continue
        root = str(reading.bundle.config.get("bundle_root", "."))
        path = path.removeprefix(root).lstrip("/")
        if (folder / path).is_file():
            return path, key
        if (folder / "models" / "model.ts").is_file():
            break
        raise reading.refuse(
            f"{loader.id}: its weights are to be in {path}, and the bundle has no such file; put them there"
        )
    for path in ("models/model.pt", "models/model.ts"):
        if (folder / path).is_file():
            return path, "model"
    raise reading.refuse(
        f"no weights of {network.id} were found: the bundle has no models/model.pt or model.ts"
    )


def _key(reading: _Reading, steps: list[Part], usual: str) -> str:
    for step in steps:
        try:
            keys = reading.configuration.value(reading.configuration.child(step, "keys"))
        except CannotTell:
            continue
        names = [keys] if isinstance(keys, str) else list(keys or [])
        if len(names) > 1:
            raise reading.refuse(
                f"{step.id}: {step.target} is for {len(names)} entries ({', '.join(names)}); one can be served"
            )
        if names:
            return str(names[0])
    return usual


def _refuse_several_images(reading: _Reading) -> None:
    inputs = _formats(reading.bundle, "inputs")
    image: Any = next(iter(inputs.values()), {})
    count = image.get("num_channels", 1) if isinstance(image, Mapping) else 1
    if len(inputs) > 1 or count != 1:
        raise reading.refuse(
            f"metadata.json says that the network takes {max(len(inputs), int(count))} images; one series can be served"
        )


def _output(reading: _Reading, steps: list[Part]) -> Output:
    discrete = [step for step in steps if step.target in _ARGMAX]
    for step in discrete:
        if _is_true(reading, step, "argmax"):
            return "labels"
    if any("threshold" in step.content for step in discrete):
        return "masks"
    raise reading.refuse(
        "its postprocessing ends in neither a label map (AsDiscreted with argmax) nor masks (with a threshold): only "
        "segmentation can be served"
    )


def _is_true(reading: _Reading, step: Part, key: str) -> bool:
    try:
        value: Any = reading.configuration.value(reading.configuration.child(step, key))
    except CannotTell:
        return False
    return bool(value[0] if isinstance(value, list) and value else value)


def _amp(reading: _Reading) -> bool:
    try:
        return bool(reading.configuration.value(reading.configuration.child(reading.evaluator, "amp")))
    except CannotTell:
        return False


def _formats(bundle: Bundle, which: str) -> Mapping[str, Any]:
    formats = bundle.metadata.get("network_data_format")
    found = formats.get(which) if isinstance(formats, Mapping) else None
    return found if isinstance(found, Mapping) else {}
