"""Findings in the words, numbers and units that people write. Nothing is added to what the findings say.

There is no interpretation here: no reference range, no judgement, no advice.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from isocenter_operators.dicom.findings import Code, Findings, Measurement, MeasurementGroup
from isocenter_operators.dicom.identity import Algorithm
from isocenter_operators.dicom.series.frame import Frame, instances_of
from isocenter_operators.dicom.value import whole_number
from isocenter_operators.errors import UnreadableInput

__all__ = [
    "conclusion",
    "described_images",
    "group_heading",
    "group_sentences",
    "image_number",
    "made_by",
    "number",
    "sentence",
    "subject",
    "unit",
]

_UNITS = {
    "[hnsf'U]": "HU",
    "[arb'U]": "arbitrary units",
    "1": "",
    "{ratio}": "",
    "Cel": "°C",
    "deg": "°",
    "um": "µm",
}
_MOST_NAMES = 6  # in one sentence
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(measurement: Measurement) -> str:
    """The value with its own decimals; "-0.0" is "0.0". The value has to be finite."""
    text = f"{measurement.value:.{measurement.decimals}f}"
    return text[1:] if text.startswith("-") and not text.strip("-0.") else text


def unit(code: Code) -> str:
    """A unit of UCUM as people write it: "HU", "cm²"; "" where a number stands alone."""
    if code.value in _UNITS:
        return _UNITS[code.value]
    text = re.sub(r"10[*^](-?\d+)\.?", lambda power: f"10{power[1].translate(_SUPERSCRIPTS)} ", code.value)
    text = re.sub(r"(?<=[A-Za-z])-?\d\b", lambda exponent: exponent[0].translate(_SUPERSCRIPTS), text)
    text = re.sub(r"^u(?=[mLgls])", "µ", text)
    text = re.sub(r"\{([^}]*)\}", r" \1", text)
    return text.replace(".", "·").strip()


def subject(measurement: Measurement) -> str:
    """What was measured, as a sentence begins: "Attenuation coefficient (mean)"."""
    name = _sentence_case(measurement.concept.meaning)
    return f"{name} ({_lower(measurement.derivation.meaning)})" if measurement.derivation else name


def sentence(measurement: Measurement) -> str:
    """One measurement: "Volume is 2310 mL."; of a number that is none, that there is none."""
    name = subject(measurement)
    name = f"{name}," if "," in name else name
    if not math.isfinite(measurement.value):
        return f"{name} could not be measured."
    value, measured_in = number(measurement), unit(measurement.unit)
    space = "" if measured_in in ("", "°") else " "
    return f"{name} is {value}{space}{measured_in}."


def group_heading(group: MeasurementGroup) -> str:
    """The region's name, with its side where the name does not tell it."""
    side = group.laterality.meaning if group.laterality else ""
    if not side or side.lower() in group.label.lower() or side == "Bilateral":
        return group.label
    return f"{group.label} ({_lower(side)})"


def group_sentences(group: MeasurementGroup) -> Iterator[str]:
    """All that is said of one region: its numbers, the answers about it, and its notes."""
    yield from (sentence(measurement) for measurement in group.measurements)
    yield from (
        f"{_sentence_case(each.concept.meaning)}: {_lower(each.value.meaning)}." for each in group.evaluations
    )
    if group.site is not None:
        yield f"Site: {_lower(group.site.meaning)}."
    if not group.measurements and not group.evaluations:
        yield "Marked in the images; nothing was measured."
    yield from (f"Note: {_ended(note)}" for note in group.notes)


def conclusion(findings: Findings, algorithm: Algorithm) -> str:
    """What the findings come to, without judging them."""
    if not findings.groups:
        return (
            f"{algorithm.name} found nothing of what it looks for. It looks for nothing else, so this does not mean "
            "that the images are normal."
        )
    names = [group_heading(group) for group in findings.groups]
    what = _listed(names) if len(names) <= _MOST_NAMES else f"{len(names)} regions"
    return (
        f"{algorithm.name} reports on {what}. These are the results of a computation; no person has checked them, "
        "and what they mean for the patient is not part of this report."
    )


def made_by(algorithm: Algorithm) -> str:
    """Application, version and models in one sentence."""
    models = _listed([f"{name} {version}" for name, version in sorted(algorithm.models.items())])
    with_models = f", with the model{'s' if len(algorithm.models) > 1 else ''} {models}" if models else ""
    return (
        f"Made without a person by the application {algorithm.name} {algorithm.version} "
        f"({algorithm.manufacturer}){with_models}."
    )


def described_images(frames: Sequence[Frame]) -> str:
    """The images by what no patient is known by: "CT series 3, 24 images"."""
    by_series: dict[str, list[Frame]] = {}
    for frame in frames:
        by_series.setdefault(frame.series_uid, []).append(frame)
    return "; ".join(_described(series) for series in by_series.values())


def image_number(frame: Frame) -> str:
    """An image as a viewer counts it: "image 12", "image 1, frame 12"."""
    shown = _whole(frame, "InstanceNumber")
    image = "an image without a number" if shown is None else f"image {shown}"
    return image if frame.number is None else f"{image}, frame {frame.number}"


def _described(frames: Sequence[Frame]) -> str:
    modality = str(frames[0].instance.get("Modality", "")) or "image"
    shown = _whole(frames[0], "SeriesNumber")
    series = f"{modality} series" if shown is None else f"{modality} series {shown}"
    images, objects = len(frames), len(instances_of(frames))
    if frames[0].number is not None:
        return f"{series}, {_counted(images, 'frame')} of {_counted(objects, 'image object')}"
    return f"{series}, {_counted(images, 'image')}"


def _whole(frame: Frame, keyword: str) -> int | None:
    """A number from the header, None where it is none: it only names the image, and a UID does that too."""
    try:
        return whole_number(frame.instance, keyword, frame.name, bits=31)
    except UnreadableInput:
        return None


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def _sentence_case(meaning: str) -> str:
    """ "Attenuation Coefficient" as in running text: words after the first are small, abbreviations stay."""
    first, *others = meaning.split(" ")
    return " ".join([f"{first[:1].upper()}{first[1:]}", *(_lower(word) for word in others)])


def _lower(text: str) -> str:
    """With a small initial where the word has capitals nowhere else: "Mean", but not "HU"."""
    word = text.split(" ", maxsplit=1)[0]
    return text[:1].lower() + text[1:] if word[1:].islower() else text


def _ended(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."
