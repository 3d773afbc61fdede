"""Can every text of an object be read in the character set that it declares (PS3.3, C.12.1.1.2; PS3.5, 6.1)?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydicom import charset
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from isocenter_operators.dicom.rules.problem import Problem, error, warning

__all__ = ["text_problems"]

_KEYWORD = "SpecificCharacterSet"
_TEXT_VRS = {"LO", "LT", "PN", "SH", "ST", "UC", "UT"}
_PER_FRAME = 0x52009230  # Per-frame Functional Groups Sequence: long, and without text
_ALONE = {"ISO_IR 192", "GB18030", "GBK"}  # multi-byte sets without code extensions


def text_problems(dataset: Dataset) -> Iterator[Problem]:
    """Wrong terms of the character set, and the texts that it can not hold."""
    terms = _terms(dataset)
    if any(term and term not in charset.python_encoding for term in terms):
        yield error(_KEYWORD, "holds a term that is no character set of PS3.3, C.12.1.1.2")
        return
    if len(terms) > 1:
        if _ALONE & set(terms):
            yield error(_KEYWORD, "combines a set with others that can only stand alone")
        elif any(term and not term.startswith("ISO 2022") for term in terms):
            yield warning(
                _KEYWORD, "has several terms, of which one is not for code extensions (ISO 2022 IR ...)"
            )
    for keyword in sorted(set(_unreadable_texts(dataset, _encodings(terms)))):
        text = f"can not be written in the character set {terms[0] or 'ISO_IR 6 (none is declared)'}"
        yield error(keyword, text)


def _terms(dataset: Dataset) -> list[str]:
    declared = dataset.get(_KEYWORD) or ""
    return [declared] if isinstance(declared, str) else list(declared)


def _encodings(terms: Sequence[str]) -> list[str]:
    # Without a declared set only the default repertoire is allowed; pydicom would say Latin 1.
    first = "ascii" if not terms[0] else charset.python_encoding[terms[0]]
    return [first, *(charset.python_encoding[term] for term in terms[1:])]


def _unreadable_texts(dataset: Dataset, encodings: list[str]) -> Iterator[str]:
    if _KEYWORD in dataset and all(term in charset.python_encoding for term in _terms(dataset)):
        encodings = _encodings(_terms(dataset))  # an item may have a set of its own
    for tag in dataset.keys():  # noqa: SIM118
        if tag == _PER_FRAME:
            continue
        element = dataset.get_item(tag)
        if element.VR == "SQ" and not isinstance(element, RawDataElement):
            for item in element.value:
                yield from _unreadable_texts(item, encodings)
        elif element.VR in _TEXT_VRS and element.value and not _fits(element.value, encodings):
            yield dataset[tag].keyword or str(tag)


def _fits(value: object, encodings: list[str]) -> bool:
    if isinstance(value, bytes):
        if len(encodings) > 1:
            return True  # code extensions: escape sequences decide from which set each character is
        try:
            value.decode(encodings[0])
        except UnicodeDecodeError:
            return False
        return True
    text = str(value)
    if text.isascii():  # which is part of all of them
        return True
    return all(any(_encodes(character, encoding) for encoding in encodings) for character in set(text))


def _encodes(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
