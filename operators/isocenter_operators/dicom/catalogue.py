"""From the names that models give their labels to what DICOM calls the same thing.

`catalogue.csv` holds one structure a row: the names it goes by, its code with the meaning that the standard's context
groups give it, and the colour to show it in. A name is looked up by its words, whatever their case, order and
separators; left and right are read apart from the others and written as a modifier of the structure (PS3.16, CID 244).

What no row knows keeps its own name, with a private code and a note for the reader. No name is ever taken for a
similar one.
"""

from __future__ import annotations

import colorsys
import csv
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from isocenter_operators.dicom.codes import ANATOMICAL_STRUCTURE, LEFT, PRIVATE_SCHEME, RIGHT
from isocenter_operators.dicom.findings import Code, Segment
from isocenter_operators.errors import InputError

__all__ = ["catalogue_codes", "segment_of", "segments_of"]

_TISSUE = Code("85756007", "SCT", "Tissue")
_CATEGORIES = {  # CID 7150
    code.meaning: code
    for code in (
        _TISSUE,
        ANATOMICAL_STRUCTURE,
        Code("49755003", "SCT", "Morphologically Abnormal Structure"),
    )
}
_SIDES = {"left": LEFT, "right": RIGHT}
_SIDE_WORDS = {"left": "left", "lt": "left", "right": "right", "rt": "right"}
_SIDE_LETTERS = {"l": "left", "r": "right"}
_FILLERS = {"of", "the", "and"}
_PLURALS = {"vertebrae": "vertebra"}
_LONGEST_LABEL = 64  # Segment Label and Code Meaning are LO (PS3.5, 6.2)

_Rgb = tuple[int, int, int]
_Key = tuple[str, tuple[str, ...]]  # ("left" | "right" | "", the other words in order of the alphabet)


@dataclass(frozen=True)
class _Entry:
    """One structure, on one side where it has sides."""

    label: str
    category: Code
    type: Code
    rgb: _Rgb
    laterality: Code | None
    anatomic_region: Code | None


def segment_of(name: str, number: int) -> tuple[Segment, str | None]:
    """What the label `number`, called `name` by its model, stands for; and a note where the catalogue does not know it.

    "kidney_left", "Left Kidney" and "kidney-L" are the same. Raises InputError where the name has no letter or digit.
    """
    cleaned = _cleaned(name)
    if not _words(cleaned):
        raise InputError(
            f"label {number} has no name; the model's description has to name each of its labels"
        )
    entry = _entries().get(_key(cleaned))
    if entry is None:
        return _unknown(cleaned, number), (
            f'label {number}, "{cleaned}", is not in the label catalogue: it is written with its own name and a '
            "private code"
        )
    segment = Segment(
        number, entry.label, entry.category, entry.type, entry.rgb, entry.laterality, entry.anatomic_region
    )
    return segment, None


def segments_of(names: Mapping[int, str] | Sequence[str]) -> tuple[tuple[Segment, ...], tuple[str, ...]]:
    """The segments of a whole label map, in order of their numbers, and notes about those that are not known.

    Parameters
    ----------
    names
        The name of each number, as in a bundle's `channel_def`; 0 is the background and left out. A sequence names
        1, 2, 3 ..., with the background before them or without.

    Each has a colour of its own. Raises InputError where a label other than 0 is called the background.
    """
    segments: list[Segment] = []
    notes: list[str] = []
    for number, name in _numbered(names):
        if _words(name) == ["background"]:
            raise InputError(f"label {number} is called the background, which has to be 0")
        segment, note = segment_of(name, number)
        segments.append(_told_apart(segment, segments))
        if note:
            notes.append(note)
    return tuple(segments), tuple(notes)


def catalogue_codes() -> frozenset[Code]:
    """The code of each structure that the catalogue knows."""
    return frozenset(entry.type for entry in _entries().values())


def _numbered(names: Mapping[int, str] | Sequence[str]) -> list[tuple[int, str]]:
    if isinstance(names, Mapping):
        return sorted((number, name) for number, name in names.items() if number != 0)
    start = 0 if names and _words(names[0]) == ["background"] else 1
    return [(number, name) for number, name in enumerate(names, start) if number != 0]


def _told_apart(segment: Segment, others: Iterable[Segment]) -> Segment:
    """The same segment, in another colour where one of the others has its own already."""
    taken = {other.display_rgb for other in others}
    attempt = 0
    while segment.display_rgb in taken:
        attempt += 1
        segment = replace(segment, display_rgb=_colour_of(f"{segment.label} {attempt}"))
    return segment


def _unknown(name: str, number: int) -> Segment:
    """A segment under its own name: of no known structure, so of the widest category that CID 7150 has for a body."""
    words = _words(name)
    digest = hashlib.sha256(" ".join(words).encode()).hexdigest()[:8].upper()
    readable = re.sub(r"[^A-Z0-9]", "", "".join(words).upper())[:7]
    code = Code(f"{readable or 'LABEL'}-{digest}", PRIVATE_SCHEME, name[:_LONGEST_LABEL])  # SH: 16 characters
    return Segment(number, name[:_LONGEST_LABEL], _TISSUE, code, _colour_of(" ".join(words)))


def _colour_of(text: str) -> _Rgb:
    """A strong colour that follows from the text alone."""
    digest = hashlib.sha256(text.encode()).digest()
    hue, saturation, value = digest[0] / 256, 0.5 + digest[1] / 640, 0.7 + digest[2] / 1024
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def _cleaned(name: str) -> str:
    """Without what a Long String does not hold: control characters and the backslash (PS3.5, 6.2)."""
    allowed = "".join(
        " " if each == "\\" or unicodedata.category(each).startswith("C") else each for each in name
    )
    return " ".join(allowed.split())


def _words(name: str) -> list[str]:
    """The words of a name in lower case: "LungUpperLobe_left" gives lung, upper, lobe, left."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    return [word.lstrip("0") or word for word in re.findall(r"[^\W_]+", apart.lower())]


def _key(name: str) -> _Key:
    words = _words(name)
    sides = {_SIDE_WORDS[word] for word in words if word in _SIDE_WORDS}
    words = [word for word in words if word not in _SIDE_WORDS and word not in _FILLERS]
    for place in (0, -1):  # "L kidney", "kidney_l"; in the middle of a name a letter may stand for anything
        if len(words) > 1 and words[place] in _SIDE_LETTERS:
            sides.add(_SIDE_LETTERS[words.pop(place)])
    side = "left and right" if len(sides) == 2 else "".join(sides)  # which no row has
    return side, tuple(sorted({_singular(word) for word in words}))


def _singular(word: str) -> str:
    if word in _PLURALS:
        return _PLURALS[word]
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


@cache
def _entries() -> Mapping[_Key, _Entry]:
    """Every name of the catalogue, of paired structures with either side and without one."""
    text = files("isocenter_operators.dicom").joinpath("catalogue.csv").read_text("utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    types = {row["names"].split("|")[0]: _type_of(row) for row in rows}
    entries: dict[_Key, _Entry] = {}
    for row in rows:
        region = types[row["region"]] if row["region"] else None
        for side in ("", "left", "right") if row["paired"] else ("",):
            entry = _entry(row, side, region)
            for name in row["names"].split("|"):
                if entries.setdefault(_key(f"{side} {name}"), entry) is not entry:
                    raise ValueError(f"catalogue.csv: {name} stands for two structures")
    return entries


def _entry(row: Mapping[str, str], side: str, region: Code | None) -> _Entry:
    plain = row["label"] or row["meaning"]
    return _Entry(
        label=f"{side.capitalize()} {_uncapitalised(plain)}" if side else plain,
        category=_CATEGORIES[row["category"]],
        type=_type_of(row),
        rgb=_rgb(row[f"rgb_{side}"] if side else row["rgb"]),
        laterality=_SIDES.get(side),
        anatomic_region=region,
    )


def _type_of(row: Mapping[str, str]) -> Code:
    return Code(row["value"], row["scheme"], row["meaning"])


def _uncapitalised(text: str) -> str:
    return text if text[1:2].isupper() or text[1:2].isdigit() else text[0].lower() + text[1:]


def _rgb(text: str) -> _Rgb:
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return red, green, blue
