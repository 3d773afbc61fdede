"""What goes into a bundle and what comes out of it, in DICOM's terms: from its `metadata.json`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from isocenter.bundles.bundle import Bundle
from isocenter.bundles.chain import plain_name
from isocenter.bundles.configuration import Configuration, Part, walked
from isocenter.bundles.expression import CannotTell
from isocenter.bundles.plan import Output, Plan
from isocenter_operators.dicom.catalogue import segments_of
from isocenter_operators.dicom.gate.acceptance import Acceptance
from isocenter_operators.dicom.gate.sequence import SequenceRule, rule_of
from isocenter_operators.errors import ConfigurationError, InputError

__all__ = ["Description", "description_of"]

_MOST_LABELS = 255  # of a uint8
_MOST_OBLIQUE_DEG = 2  # of what boxes are found in: they are along the patient's axes
_SPACING_SHARE = 0.1  # by which images may differ from what a network was made for
_NO_NAME = frozenset({"ct", "mr", "mri", "detection", "detector", "model", "of", "in", "the", "a", "3d"})
_MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR"}


class Description(BaseModel):
    """`modality`: as in Modality (0008,0060). `labels`: by number, what the model calls each. `sequences`: which series
    it takes, each for a channel; empty where it takes one of whatever sequence. `accepts`: what else than the modality
    the bundle asks of images, under `isocenter: {accepts: ...}` of its metadata, in the words of `app.yaml`. `notes`:
    what a person should know, as names that the label catalogue does not have."""

    model_config = ConfigDict(frozen=True)

    title: str
    version: str
    summary: str
    modality: str
    labels: dict[int, str]
    sequences: tuple[SequenceRule, ...] = ()
    intended_use: str
    accepts: dict[str, Any]
    notes: tuple[str, ...]


def description_of(bundle: Bundle, plan: Plan) -> Description:
    """Raises ConfigurationError, naming metadata.json and the entry, for what is missing or means nothing here."""
    metadata = bundle.metadata
    labels, notes = _found_in_boxes(bundle) if plan.output == "boxes" else (_labels(bundle, plan.output), ())
    modality = _modality(bundle)
    try:
        if plan.output in ("labels", "masks", "boxes"):
            notes += segments_of(labels)[1]
    except InputError as error:
        raise _refused(bundle, f"network_data_format.outputs: channel_def: {error}") from error
    needed, told = _of_images(bundle, plan)
    return Description(
        title=_title(bundle),
        version=str(metadata.get("version") or "0"),
        summary=str(metadata.get("description") or ""),
        modality=modality,
        labels=labels,
        sequences=_sequences(bundle, modality, plan.channels) if plan.channels > 1 else (),
        intended_use=str(metadata.get("intended_use") or ""),
        accepts={**needed, **_accepts(bundle)},
        notes=(*notes, *told),
    )


def _found_in_boxes(bundle: Bundle) -> tuple[dict[int, str], tuple[str, ...]]:
    """What each class of boxes is called, from 1. Where channel_def does not say it, as in the Model Zoo's, the name of
    the bundle does, of a single class: "Lung nodule CT detection" finds what is called "Lung nodule"."""
    said = _first(bundle, "outputs")
    if said.get("channel_def"):
        names = {number + 1: name for number, name in _channels(bundle, "outputs").items()}
        count = _classes_of(bundle)
        if count not in (None, len(names)):
            raise _refused(
                bundle,
                f"network_data_format.outputs: channel_def names {len(names)} classes, and the network has {count}",
            )
        if any(_is_background(name) for name in names.values()):
            raise _refused(
                bundle, "network_data_format.outputs: channel_def: the background is no class of boxes"
            )
        _refuse_alike(bundle, list(names.values()))
        return names, ()
    words = re.findall(r"[^\W_]+", _title(bundle))
    name = " ".join(word for word in words if word.lower() not in _NO_NAME)
    if said.get("num_channels", 1) != 1 or _classes_of(bundle) not in (None, 1) or not name:
        raise _refused(
            bundle,
            "network_data_format.outputs: there is no channel_def: what its boxes are of is not said",
        )
    note = f'metadata.json does not say what its boxes are of (channel_def); after its name, it is "{name}"'
    return {1: name}, (note,)


def _classes_of(bundle: Bundle) -> int | None:
    """How many classes of boxes its network has; None where that can be told only by running it."""
    configuration = Configuration(bundle)
    for id_ in ("network_def", "network", "detector"):
        part = configuration.part(id_)
        try:
            count = (
                configuration.value(configuration.child(part, "num_classes")) if part is not None else None
            )
        except CannotTell:
            continue
        if isinstance(count, int):
            return count
    return None


def _title(bundle: Bundle) -> str:
    return str(bundle.metadata.get("name") or bundle.name)


def _of_images(bundle: Bundle, plan: Plan) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a bundle that detects asks of images by what it is, in the words of app.yaml, and notes about that.

    Its anchors are so many voxels large. Where the step that would resample the images is switched off, only those are
    accepted that have about the spacing it would have made.
    """
    if plan.output != "boxes":
        return {}, ()
    accepts: dict[str, Any] = {"oblique_degrees": {"at_most": _MOST_OBLIQUE_DEG}}
    steps = plan.configuration["preprocessing"]["transforms"]
    if any(plain_name(Part("", step)) == "Spacing" for step in steps):
        return accepts, ()
    spacing_mm = next(iter(_spacings_mm(bundle)), None)
    if spacing_mm is None:
        return accepts, ("it does not resample the images: it looks at voxels of whatever size they have",)
    across, apart = sorted(spacing_mm[:2]), spacing_mm[2]
    accepts["pixel_spacing_mm"] = _about(across[0], across[1])
    accepts["slice_spacing_mm"] = _about(apart, apart)
    accepts["planes"] = [
        "axial"
    ]  # the third number is of head to foot; of other slices it is of another axis
    sizes = " x ".join(f"{each:g}" for each in spacing_mm)
    return accepts, (
        f"Spacingd to {sizes} mm is switched off in {bundle.config_file}: only images of about that spacing are "
        "accepted. Switch it on there, and import the bundle again, to have others resampled",
    )


def _spacings_mm(bundle: Bundle) -> Iterator[list[float]]:
    """What each Spacingd of the configuration would make, where that can be told."""
    configuration = Configuration(bundle)
    for part in walked(Part("", bundle.config)):
        if plain_name(part) != "Spacing":
            continue
        try:
            said = configuration.value(configuration.child(part, "pixdim"))
        except CannotTell:
            continue
        if isinstance(said, list) and len(said) == 3 and all(isinstance(each, int | float) for each in said):
            yield [float(each) for each in said]


def _about(least_mm: float, most_mm: float) -> dict[str, float]:
    return {
        "at_least": round(least_mm * (1 - _SPACING_SHARE), 3),
        "at_most": round(most_mm * (1 + _SPACING_SHARE), 3),
    }


def _accepts(bundle: Bundle) -> dict[str, Any]:
    said = bundle.metadata.get("isocenter")
    accepts = said.get("accepts", {}) if isinstance(said, Mapping) else {}
    try:
        Acceptance.model_validate(accepts)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, ("isocenter", "accepts", *problem["loc"])))
        raise _refused(bundle, f"{where}: {problem['msg']}") from error
    return dict(accepts)


def _modality(bundle: Bundle) -> str:
    said = str(_first(bundle, "inputs").get("modality") or "").strip().upper()
    found = _MODALITIES.get(re.split(r"[^A-Z]", said)[0] if said else "")
    if found is None:
        raise _refused(
            bundle,
            f"network_data_format.inputs: modality is {said or 'missing'!r}; known are {', '.join(_MODALITIES)}",
        )
    return found


def _sequences(bundle: Bundle, modality: str, count: int) -> tuple[SequenceRule, ...]:
    """The rule for each channel's series, by the name that the channel has."""
    names = _channels(bundle, "inputs")
    if modality != "MR" or len(names) != count:
        raise _refused(
            bundle,
            f"network_data_format.inputs: {count} channels of {modality}, {len(names)} of which channel_def names: "
            "several series can be served where they are MR, and each channel is named",
        )
    rules = {name: rule_of(name) for _, name in sorted(names.items())}
    for name, rule in rules.items():
        if rule is None:
            raise _refused(
                bundle, f"network_data_format.inputs: channel_def: {name!r} is no sequence that is known here"
            )
    found = tuple(rule for rule in rules.values() if rule is not None)
    if len({rule.name for rule in found}) != count:
        raise _refused(bundle, "network_data_format.inputs: channel_def names one sequence for two channels")
    return found


def _channels(bundle: Bundle, which: str) -> dict[int, str]:
    """What `channel_def` calls each channel, by number from 0."""
    said = _first(bundle, which).get("channel_def")
    if not isinstance(said, Mapping) or not said:
        raise _refused(
            bundle, f"network_data_format.{which}: there is no channel_def: what the numbers mean is not said"
        )
    channels: dict[int, str] = {}
    for number, name in said.items():
        if not str(number).isdecimal():
            raise _refused(
                bundle, f"network_data_format.{which}: channel_def: {number!r} is no channel's number"
            )
        channels[int(number)] = str(name)
    if sorted(channels) != list(range(len(channels))):
        raise _refused(
            bundle, f"network_data_format.{which}: channel_def does not name every channel from 0 on"
        )
    return channels


def _labels(bundle: Bundle, output: Output) -> dict[int, str]:
    """By number from 1, the classes or values too. A label map's channel 0 is the background, and none of them; masks
    have none."""
    channels = _channels(bundle, "outputs")
    if output in ("classes", "values"):
        _refuse_alike(bundle, list(channels.values()))
        return {number + 1: name for number, name in channels.items()}
    labels = len(channels) - (output == "labels")
    if labels > _MOST_LABELS:
        raise _refused(
            bundle,
            f"network_data_format.outputs: channel_def names {labels} labels; at most {_MOST_LABELS} can be served",
        )
    is_background = [_is_background(name) for _, name in sorted(channels.items())]
    if output == "labels" and not is_background[0]:
        raise _refused(
            bundle,
            f"network_data_format.outputs: channel_def: channel 0 is {channels[0]!r}, and not the background",
        )
    if any(is_background[1:] if output == "labels" else is_background):
        raise _refused(
            bundle, "network_data_format.outputs: channel_def: the background is no channel of its own"
        )
    if output == "labels":
        return {number: name for number, name in channels.items() if number}
    return {number + 1: name for number, name in channels.items()}


def _refuse_alike(bundle: Bundle, names: list[str]) -> None:
    """Of two that are called the same, nobody could tell which was found."""
    words = [" ".join(name.lower().split()) for name in names]
    for name, each in zip(names, words, strict=True):
        if words.count(each) > 1 or not any(letter.isalnum() for letter in each):
            raise _refused(
                bundle,
                f"network_data_format.outputs: channel_def: {name!r} is no name, or that of two channels",
            )


def _is_background(name: str) -> bool:
    return "".join(each for each in name.lower() if each.isalpha()) in ("background", "bg", "backgrounds")


def _first(bundle: Bundle, which: str) -> Mapping[str, Any]:
    formats = bundle.metadata.get("network_data_format")
    every = formats.get(which) if isinstance(formats, Mapping) else None
    found = next(iter(every.values()), None) if isinstance(every, Mapping) else None
    if not isinstance(found, Mapping):
        raise _refused(bundle, f"network_data_format.{which}: it does not say what the network's {which} are")
    return found


def _refused(bundle: Bundle, what: str) -> ConfigurationError:
    file = bundle.folder / "configs" / "metadata.json"
    return ConfigurationError(f"{file}: {what}", path=str(file))
