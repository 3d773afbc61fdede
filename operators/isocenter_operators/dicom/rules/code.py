"""Do the codes of an object mean what the standard's context groups say (PS3.16, Annexes B and D)?

Codes that no context group has are not judged. A Code Meaning may be a synonym or in another language, so that nothing
here is an error; but a code called by words that share nothing with its meaning, or by another side, shows a reader
something else than it tells a program.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from isocenter_operators.dicom.meanings import code_value
from isocenter_operators.dicom.rules.problem import Problem, warning
from isocenter_operators.dicom.series.part10 import tag_of

__all__ = ["code_problems", "in_context_group"]

_PER_FRAME = 0x52009230  # Per-frame Functional Groups Sequence
_MEANING = tag_of("CodeMeaning")
_SCHEMES = 0x00080110  # Coding Scheme Identification Sequence
_GROUPS = {  # (the sequence that holds it, or "" for any; the code sequence): the context group
    ("", "SegmentedPropertyCategoryCodeSequence"): 7150,
    ("", "AlgorithmFamilyCodeSequence"): 7162,
    ("", "DerivationCodeSequence"): 7203,
    ("SourceImageSequence", "PurposeOfReferenceCodeSequence"): 7202,
    ("ContributingEquipmentSequence", "PurposeOfReferenceCodeSequence"): 7005,
}
_BACKGROUND = ("DCM", "125040")  # a label map's background is of no other category (Supplement 243)
_EMPTY_WORDS = {"of", "the", "and", "or", "structure", "entire", "body", "bone", "for", "with", "in"}
_SIDES = {"left", "right"}


def code_problems(dataset: Dataset) -> Iterator[Problem]:
    """A warning for each code that is called otherwise than it means, is not of its context group, or of an undeclared
    private scheme. Of the frames only the first is looked at, as the others say the same."""
    declared = {
        str(item.get("CodingSchemeDesignator"))
        for item in dataset.get("CodingSchemeIdentificationSequence") or []
    }
    found: dict[Problem, None] = {}
    for parent, keyword, code in _codes(dataset, ""):
        scheme = str(code.get("CodingSchemeDesignator", ""))
        if scheme.startswith("99") and scheme not in declared:
            text = "does not declare the private coding scheme of a code that it uses (PS3.3, C.12.1.1.9)"
            found[warning("CodingSchemeIdentificationSequence", text)] = None
        if (standard := _contradicted(*code_value(code), str(code.get("CodeMeaning", "")))) is not None:
            text = f'its code means "{standard}" by the standard, and is called something else'
            found[warning(keyword, text)] = None
        group = _GROUPS.get((parent, keyword)) or _GROUPS.get(("", keyword))
        # These groups may be extended (PS3.16, 6), for which a private scheme is the honest way.
        if group is not None and not scheme.startswith("99") and not in_context_group(code, group):
            found[warning(keyword, f"holds a code that is not of CID {group}")] = None
    yield from found


def in_context_group(code: Dataset, number: int) -> bool:
    """Whether a code item is in context group `number` of PS3.16; SNOMED-RT codes count as those of SNOMED CT."""
    return code_value(code) in _members(number) or (number == 7150 and code_value(code) == _BACKGROUND)


def _codes(dataset: Dataset, parent: str) -> Iterator[tuple[str, str, Dataset]]:
    """(keyword of the sequence around it, keyword of its sequence, item) of every code."""
    for tag in dataset.keys():  # noqa: SIM118
        element = dataset.get_item(tag)
        if element.VR != "SQ" or tag == _SCHEMES:
            continue
        sequence = dataset[tag] if isinstance(element, RawDataElement) else element
        keyword = sequence.keyword or str(tag)
        for item in sequence.value[:1] if tag == _PER_FRAME else sequence.value:
            if _MEANING in item.keys():  # noqa: SIM118 - which pydicom would look up by its own code
                yield parent, keyword, item
            yield from _codes(item, keyword)


@lru_cache(maxsize=1024)
def _contradicted(scheme: str, value: str, meaning: str) -> str | None:
    """What the standard calls a code, where its own Code Meaning says something else; None where it does not."""
    known = _meanings(scheme).get(value, ())
    said = _words(meaning)
    if not known or any(_words(each) == said for each in known):
        return None
    if not any(_telling(said) & _telling(_words(each)) for each in known):
        return known[0]
    if all(_SIDES & set(said) != _SIDES & set(_words(each)) for each in known):
        return known[0]
    return None


def _words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[^\W_]+", re.sub(r"\((body structure|qualifier value)\)", "", text.lower())))


def _telling(words: tuple[str, ...]) -> set[str]:
    """The words that tell one thing from another, without their endings."""
    telling = {word[:5] for word in words if word not in _EMPTY_WORDS}
    return telling or set(words)


@cache
def _meanings(scheme: str) -> Mapping[str, tuple[str, ...]]:
    """Value to its meanings in any context group, of SNOMED CT and DICOM's own scheme."""
    if scheme not in ("SCT", "DCM"):
        return {}
    meanings: dict[str, tuple[str, ...]] = {}
    for code in getattr(codes, scheme).concepts.values():
        meanings[code.value] = (*meanings.get(code.value, ()), code.meaning)
    return meanings


@cache
def _members(number: int) -> frozenset[tuple[str, str]]:
    return frozenset(
        (code.scheme_designator, code.value) for code in getattr(codes, f"cid{number}").concepts.values()
    )
