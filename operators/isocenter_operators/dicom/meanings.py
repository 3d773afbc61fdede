"""What a code means by a table of ours or of the standard, whatever an object that uses it calls it.

The words that a stranger's object has for a code are free text, which may be about the patient.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from pydicom.dataset import Dataset
from pydicom.sr._snomed_dict import mapping as snomed
from pydicom.sr.codedict import codes as standard

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.catalogue import catalogue_codes
from isocenter_operators.dicom.findings import Code
from isocenter_operators.dicom.value import value_of

__all__ = ["code_value", "known_meaning"]

_SCHEMES = frozenset(standard.schemes())
_LONGEST = 16  # of a scheme and a value, which are SH (PS3.5, 6.2); a Long Code Value is told no longer


def code_value(code: Dataset) -> tuple[str, str]:
    """(scheme, value) of a code item, a SNOMED-RT code as that of SNOMED CT (PS3.16, 8.1)."""
    value = value_of(code, "CodeValue") or code.get("LongCodeValue") or code.get("URNCodeValue") or ""
    scheme = str(value_of(code, "CodingSchemeDesignator") or "")
    if scheme in ("SRT", "SNM3", "99SDM") and value in snomed["SRT"]:
        return "SCT", snomed["SRT"][value]
    return scheme, str(value)


def known_meaning(code: Dataset) -> str:
    """What our tables or the standard's context groups call a code; "SCT 39607008" where none has it.

    Where they have several meanings for it, that by which the item calls it itself.
    """
    scheme, value = code_value(code)
    known = [*_ours().get((scheme, value), ())]
    if scheme in _SCHEMES:  # any other one is a stranger's word, of which nothing is kept
        known += _standards(scheme).get(value, ())
    if not known:
        return " ".join(filter(None, (_plain(scheme), _plain(value))))
    said = str(code.get("CodeMeaning", "")).casefold()
    return next((meaning for meaning in known if meaning.casefold() == said), known[0])


@cache
def _ours() -> Mapping[tuple[str, str], tuple[str, ...]]:
    meanings: dict[tuple[str, str], tuple[str, ...]] = {}
    for code in (*(each for each in vars(codes).values() if isinstance(each, Code)), *catalogue_codes()):
        key = (code.scheme, code.value)
        meanings[key] = tuple(dict.fromkeys((*meanings.get(key, ()), code.meaning)))
    return meanings


@cache
def _standards(scheme: str) -> Mapping[str, tuple[str, ...]]:
    meanings: dict[str, tuple[str, ...]] = {}
    for code in getattr(standard, scheme).concepts.values():
        meanings[code.value] = (*meanings.get(code.value, ()), code.meaning)
    return meanings


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]", "", text)[:_LONGEST]
