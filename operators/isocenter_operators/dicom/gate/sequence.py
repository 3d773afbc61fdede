"""Which series of an MR examination is which sequence: T1, T1 with contrast medium, T2, FLAIR.

DICOM has no attribute that says so for all scanners. A rule asks for a word in Series Description or Protocol Name, and
that echo, repetition and inversion time, and what is said of contrast medium, do not speak against it. It can be read
and changed in an application's `app.yaml`; what it does not know is no match, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, field_validator

from isocenter_operators.dicom.gate.acceptance import Range
from isocenter_operators.dicom.gate.contrast import contrast_of
from isocenter_operators.dicom.series.frame import Frame

__all__ = ["SequenceRule", "rule_of", "speaks_against"]

_NO_SCAN = r"SUB(TRACT\w*)?\b|ADC|DWI|DIFF|TRACE|PERF|\bMAP|\bMIP|\bLOC|SCOUT|SURVEY|T2 ?\*|T2 ?STAR|SWI"
_MEDIUM = r"(CONTRAST|GD|GAD\w*|KM|CE)\b"
_EVENT = r"(?![ -]*(OP|SURG|TREAT|THERAP|RADI|RT|CHEMO|BIOP))"  # before and after which there are scans too
_GIVEN = re.compile(rf"\bPOST\b{_EVENT}|\b{_MEDIUM}|\+ ?C\b|\bC ?\+|\bT1C\b")
# "without" and "no" alone speak of anything, as of fat saturation; only at the end of what is said, of the medium.
_NOT_GIVEN = re.compile(
    rf"\b(PRE|NON?|WITHOUT|OHNE|W/?O)[ -]?(IV )?({_MEDIUM}|CON\b|C\b)|\b(WITHOUT|OHNE|W/?O) ?(?=;|$)|"
    rf"\bPRE\b{_EVENT}|\b(NATIVE?|PLAIN|UNENHANCED)\b|\bC-(?!\w)|(?<!\S)-C\b"
)
# An examination with both may say so in each of its series, which tells nothing of any.
_WITH, _WITHOUT, _AND = r"W(ITH)?", r"(WITHOUT|W/?O)", r"[ /&+]*(AND|UND|OR)?[ /&+]*"
_BOTH = re.compile(rf"\b({_WITH}{_AND}{_WITHOUT}|{_WITHOUT}{_AND}{_WITH})\b( ?(IV )?{_MEDIUM})?")


class SequenceRule(BaseModel):
    """`described`, `not_described`: regular expressions over "Series Description; Protocol Name", in capitals and with
    spaces for underscores; "" is none. Times in ms, each counts where the images state it.

    contrast: what has to be said: "given", "none", or anything.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    described: str
    not_described: str = ""
    contrast: Literal["given", "none", "any"] = "any"
    echo_time_ms: Range = Range()
    repetition_time_ms: Range = Range()
    inversion_time_ms: Range = Range()

    @field_validator("described", "not_described")
    @classmethod
    def _an_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from error
        return value


_T1 = {
    "described": "T1(?![0-9])|MP-?RAGE|BRAVO",
    "not_described": f"T2|{_NO_SCAN}",
    "echo_time_ms": Range(at_most=40),
    "repetition_time_ms": Range(at_most=4000),
    "inversion_time_ms": Range(at_most=1500),
}
_RULES = {
    "t1": SequenceRule.model_validate({"name": "T1", "contrast": "none", **_T1}),
    "t1c": SequenceRule.model_validate({"name": "T1c", "contrast": "given", **_T1}),
    "t2": SequenceRule(
        name="T2",
        described="T2(?![0-9])",
        not_described=f"T1|FLAIR|DARK|TIRM|STIR|{_NO_SCAN}",
        echo_time_ms=Range(at_least=50),
        repetition_time_ms=Range(at_least=1500),
        inversion_time_ms=Range(at_most=0),
    ),
    "flair": SequenceRule(
        name="FLAIR",
        described="FLAIR|DARK ?FLUID|TIRM",
        not_described=f"T1|{_NO_SCAN}",
        echo_time_ms=Range(at_least=50),
        repetition_time_ms=Range(at_least=4000),
        inversion_time_ms=Range(at_least=1500),
    ),
}
_NAMES = {
    "t1": ("t1", "t1w", "t1n", "t1native", "t1pre"),
    "t1c": ("t1c", "t1ce", "t1gd", "t1cw", "t1post", "t1contrast"),
    "t2": ("t2", "t2w"),
    "flair": ("flair", "t2flair", "t2f"),
}


def rule_of(name: str) -> SequenceRule | None:
    """The rule for a sequence as models name it ("T1c", "t1ce", "FLAIR"); None for one that is not known here."""
    word = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((_RULES[key] for key, names in _NAMES.items() if word in names), None)


def speaks_against(frame: Frame, rule: SequenceRule) -> str:
    """Why the series that the frame is of is not this sequence; "" where it is.

    Raises UnreadableInput where an attribute can not be read.
    """
    return next(_against(frame, rule), "")


def _against(frame: Frame, rule: SequenceRule) -> Iterator[str]:
    said = _words(frame)
    if not re.search(rule.described, said):
        yield "its description does not say so"
    if rule.not_described and re.search(rule.not_described, said):
        yield "its description says something else too"
    if rule.contrast != "any":
        yield from _contrast(frame, said, rule.contrast)
    for what, keywords, limits in (
        ("Echo Time", ("EchoTime", "EffectiveEchoTime"), rule.echo_time_ms),
        ("Repetition Time", ("RepetitionTime",), rule.repetition_time_ms),
        ("Inversion Time", ("InversionTime",), rule.inversion_time_ms),
    ):
        yield from _time(frame, what, keywords, limits)


def _words(frame: Frame) -> str:
    said = f"{frame.get('SeriesDescription') or ''}; {frame.get('ProtocolName') or ''}"
    return said.upper().replace("_", " ")


def _contrast(frame: Frame, said: str, wanted: str) -> Iterator[str]:
    """What the description says comes first: many scanners state the agent in every later series, or in none."""
    rest, not_given = _NOT_GIVEN.subn(" ", _BOTH.sub(" ", said))
    given = _GIVEN.search(rest) is not None
    stated = contrast_of(frame)
    if given and not_given:
        yield "its description contradicts itself about contrast medium"
    elif wanted == "given" and (not_given or (not given and stated in ("none", "unknown"))):
        yield "it is not said that contrast medium was given"
    elif wanted == "none" and (given or (not not_given and stated != "none")):
        yield "it is not said that no contrast medium was given"


def _time(frame: Frame, what: str, keywords: tuple[str, ...], limits: Range) -> Iterator[str]:
    found = next((value for keyword in keywords if (value := frame.get(keyword)) is not None), None)
    if found is None:
        return
    try:
        value_ms = float(found)
    except (TypeError, ValueError):
        yield f"its {what} is no number"
        return
    if limits.at_least is not None and value_ms < limits.at_least:
        yield f"its {what} of {value_ms:g} ms is less than {limits.at_least:g}"
    if limits.at_most is not None and value_ms > limits.at_most:
        yield f"its {what} of {value_ms:g} ms is more than {limits.at_most:g}"
