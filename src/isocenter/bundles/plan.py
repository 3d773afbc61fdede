"""Which parts of a bundle are run, and what comes out of them: found by reading alone.

The same plan is read by `bundle_engine` in the model's process, which makes the parts: of the configuration in the plan
and of no other, so that what was looked at is what is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from isocenter.bundles.bundle import Bundle
from isocenter.bundles.chain import Chain, plain_name, steps_of, steps_of_boxes, steps_of_the_whole
from isocenter.bundles.configuration import Configuration, Part, code_in
from isocenter.bundles.detection import EVALUATOR, Detection, detection_of
from isocenter.bundles.expression import CannotTell

__all__ = ["Activation", "Output", "Plan", "plan_of"]

Activation = Literal["", "softmax", "sigmoid"]
Output = Literal["labels", "masks", "boxes", "classes", "values"]

_NETWORK, _BEFORE, _INFERER, _AFTER = "network", "preprocessing", "inferer", "postprocessing"
_DETECTOR, _OPERATIONS = "detector", "detector_ops"
# What makes of an evaluation something else than transforms, network, inferer, transforms.
_OTHER_WAYS = ("prepare_batch", "iteration_update", "networks", "amp_kwargs", "decollate")


class Plan(BaseModel):
    """`configuration`: the parts network, preprocessing, inferer and postprocessing, as far as the bundle has them, and
    of one that detects detector and detector_ops too; and all that they refer to. See bundle_engine.plan for what each
    other field means."""

    model_config = ConfigDict(frozen=True)

    configuration: dict[str, Any]
    weights: str
    weights_key: str
    image_key: str
    output_key: str
    channels: int = 1
    output: Output
    activation: Activation = ""
    amp: bool
    own_code: bool


class _Reading:
    """One bundle, read once."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.configuration = Configuration(bundle)
        self.evaluator = self._evaluator()
        self.detects = self.evaluator.target == EVALUATOR

    def _evaluator(self) -> Part:
        for id_ in ("evaluator", "validator", "inference"):
            part = self.configuration.part(id_)
            if part is not None and isinstance(part.content, Mapping):
                self._refuse_other_ways(part)
                return part
        return Part("evaluator", {})

    def _refuse_other_ways(self, evaluator: Part) -> None:
        if evaluator.target not in ("SupervisedEvaluator", EVALUATOR, ""):
            raise self.configuration.refused(
                f"{evaluator.id}: {evaluator.target} can not be honoured, only SupervisedEvaluator, and {EVALUATOR} of "
                "bundles that detect"
            )
        for key in _OTHER_WAYS:
            if evaluator.content.get(key) is not None:
                raise self.configuration.refused(
                    f"{evaluator.id}: {evaluator.target} with {key} can not be honoured"
                )

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


def plan_of(bundle: Bundle) -> tuple[Plan, list[str]]:
    """How the bundle is run, and what of it is code, each line with where it stands.

    Raises ConfigurationError, naming the file and the transform, for what can not be honoured.
    """
    reading = _Reading(bundle)
    configuration = reading.configuration
    network = reading.part("network", "network_def")
    if network is None:
        raise reading.configuration.refused(
            "there is no network in it: neither network, network_def nor one of an evaluator"
        )
    detection = detection_of(configuration, reading.evaluator) if reading.detects else None
    preprocessing = reading.preprocessing()
    before = Chain(configuration, preprocessing, "image")
    follows = reading.part("postprocessing") if detection is None else detection.postprocessing
    after = Chain(configuration, follows, "pred", after=True)
    output, activation = _answer(reading, after, preprocessing.id if preprocessing else "")
    inferer = reading.part("inferer")
    _refuse_pictures(reading, inferer)
    roots = {_NETWORK: network.content, _BEFORE: before.content, _AFTER: _inverting(after.content)}
    if detection is not None:
        roots |= _detecting(detection)
    elif inferer is not None:
        roots[_INFERER] = inferer.content
    closed = configuration.closed(roots)
    weights, key = _weights(reading, network)
    code = _code(bundle, closed, weights, detection)
    plan = Plan(
        configuration=closed,
        weights=weights,
        weights_key=key,
        image_key=before.key,
        output_key=after.key,
        channels=_channels(reading),
        output=output,
        activation=activation,
        amp=_amp(reading),
        own_code=bool(code),
    )
    return plan, code


def _answer(reading: _Reading, after: Chain, before: str) -> tuple[Output, Activation]:
    """What comes out in the end; the steps after the network are checked for that.

    before: the ID of the chain before the network.
    """
    configuration = reading.configuration
    whole = None if reading.detects else _of_the_whole(reading.bundle)
    output: Output
    activation: Activation = ""
    if reading.detects:
        steps_of_boxes(after, configuration)
        output = "boxes"
    elif whole is not None:
        output, steps = whole, steps_of_the_whole(after, configuration, discrete=whole == "classes")
        activation = _activation(reading, steps) if whole == "classes" else ""
    else:
        output = _output(reading, steps_of(after, configuration, before))
    if after.merging is not None and output != "masks":
        raise configuration.refused(
            f"{after.merging.target} can not be honoured: it is given no masks", after.merging
        )
    return output, activation


def _code(bundle: Bundle, closed: Mapping[str, Any], weights: str, detection: Detection | None) -> list[str]:
    """What of the bundle is code. Scripts of one that detects are none where nothing of it is: they can not be reached
    then, and what they do the engine does."""
    code = [*code_in(closed), *([weights] if weights.endswith(".ts") else [])]
    if detection is None or detection.own_inferer or code:
        code += bundle.programs
    return code


def _detecting(detection: Detection) -> dict[str, Any]:
    """The parts of a detector. Its own stays where it is, so that whatever refers to it means the same one."""
    own = {} if detection.detector == _DETECTOR else {_DETECTOR: f"@{detection.detector}"}
    return {**own, _OPERATIONS: list(detection.operations), _INFERER: dict(detection.inferer)}


def _inverting(after: Mapping[str, Any]) -> dict[str, Any]:
    """Whatever the bundle calls what comes before the network, it has the name of its role here."""
    steps = [
        {**step, "transform": f"@{_BEFORE}"} if plain_name(Part("", step)) == "Invert" else step
        for step in after["transforms"]
    ]
    return {**after, "transforms": steps}


def _weights(reading: _Reading, network: Part) -> tuple[str, str]:
    """The file, as a path in the bundle, and the name under which a checkpoint may hold the state dict."""
    for loader in reading.configuration.made_by("CheckpointLoader"):
        names = loader.content.get("load_dict")
        key = next(iter(names), "model") if isinstance(names, Mapping) else "model"
        try:
            said = str(reading.configuration.value(reading.configuration.child(loader, "load_path")))
        except CannotTell:
            continue
        path = said.removeprefix(str(reading.bundle.config.get("bundle_root", "."))).lstrip("/")
        if reading.bundle.has(path):
            return path, str(key)
        if reading.bundle.has("models/model.ts"):
            break
        raise reading.configuration.refused(
            f"{loader.id}: its weights are to be in {path}, and the bundle has no such file; put them there"
        )
    for path in ("models/model.pt", "models/model.ts"):
        if reading.bundle.has(path):
            return path, "model"
    raise reading.configuration.refused(
        f"no weights of {network.id} were found: the bundle has no models/model.pt or model.ts"
    )


def _channels(reading: _Reading) -> int:
    """How many series the network takes, each as a channel: what they are called says the description."""
    formats = reading.bundle.metadata.get("network_data_format")
    said = formats.get("inputs") if isinstance(formats, Mapping) else None
    inputs = said if isinstance(said, Mapping) else {}
    image: Any = next(iter(inputs.values()), {})
    count = image.get("num_channels", 1) if isinstance(image, Mapping) else 1
    if len(inputs) > 1 or not isinstance(count, int) or count < 1:
        raise reading.configuration.refused(
            f"metadata.json says that the network takes the inputs {', '.join(map(str, inputs))} of {count} channels; "
            "one input can be served"
        )
    return count


# What metadata.json calls what comes out, where that is said of a volume as a whole.
_CLASSES = frozenset({"classes", "classification", "probabilities", "probability"})
_VALUES = frozenset({"regression", "values", "value", "scalar", "scalars", "measurements"})


def _of_the_whole(bundle: Bundle) -> Output | None:
    """Whether the network classifies or measures volumes; None where it looks at each voxel."""
    formats = bundle.metadata.get("network_data_format")
    outputs = formats.get("outputs") if isinstance(formats, Mapping) else None
    said: Any = next(iter(outputs.values()), {}) if isinstance(outputs, Mapping) else {}
    if not isinstance(said, Mapping):
        return None
    words = {str(said.get(key, "")).lower() for key in ("type", "format")}
    shape, count = said.get("spatial_shape"), said.get("num_channels")
    if words & _CLASSES or ("labels" in words and shape in ([1, count], [count])):
        return "classes"
    return "values" if words & _VALUES else None


def _activation(reading: _Reading, steps: list[Part]) -> Activation:
    """What makes probabilities of the scores; "" where nothing does, and then the model's decision is there."""
    found: Activation = ""
    for step in steps:
        if plain_name(step) == "Activations":
            soft, single = (_is_true(reading, step, key) for key in ("softmax", "sigmoid"))
            if soft == single:
                raise reading.configuration.refused(f"{step.target} has to be softmax or sigmoid", step)
            found = "softmax" if soft else "sigmoid"
    if not found and not any(plain_name(step) == "AsDiscrete" for step in steps):
        raise reading.configuration.refused(
            "its postprocessing makes neither probabilities (Activationsd with softmax or sigmoid) nor a decision "
            "(AsDiscreted) of the scores of classes: what these mean is not known"
        )
    return found


def _refuse_pictures(reading: _Reading, inferer: Part | None) -> None:
    """A network of two dimensions needs somebody who gives it slices."""
    definition = reading.part("network_def")
    try:
        dims = (
            reading.configuration.value(reading.configuration.child(definition, "spatial_dims"))
            if definition
            else 3
        )
    except CannotTell:
        return  # whoever runs it will see
    if dims == 2 and (inferer is None or inferer.target != "SliceInferer"):
        raise reading.configuration.refused(
            "its network has two dimensions and no SliceInferer gives it slices: it is for pictures, and volumes are "
            "served",
            definition,
        )


def _output(reading: _Reading, steps: list[Part]) -> Output:
    discrete = [step for step in steps if plain_name(step) == "AsDiscrete"]
    for step in discrete:
        if _is_true(reading, step, "argmax"):
            return "labels"
    if any("threshold" in step.content for step in discrete):
        return "masks"
    raise reading.configuration.refused(
        "its postprocessing ends in neither a label map (AsDiscreted with argmax) nor masks (with a threshold), and "
        "metadata.json does not say that it classifies or measures (network_data_format.outputs: format)"
    )


def _is_true(reading: _Reading, step: Part, key: str) -> bool:
    try:
        value: Any = reading.configuration.value(reading.configuration.child(step, key))
    except CannotTell as error:
        raise reading.configuration.refused(f"{key} can be told only by running it", step) from error
    return bool(value[0] if isinstance(value, list) and value else value)


def _amp(reading: _Reading) -> bool:
    try:
        return bool(reading.configuration.value(reading.configuration.child(reading.evaluator, "amp")))
    except CannotTell:
        return False
