"""Whether a scan was made with intravenous contrast medium, and in which phase, as its header says.

An enhanced image says both in its Contrast/Bolus Usage functional group (PS3.3, C.7.6.16.2.12). A classic one has the
Contrast/Bolus module (C.7.6.4), which is required if contrast medium was used (A.3.3 for CT): where it is absent there
was none. It does not know of phases, so a phase is taken from the Series Description where contrast medium is stated
and the description names just one. Where the two contradict each other, nothing is known.
"""

from __future__ import annotations

import re
from typing import Literal

from isocenter_operators.dicom.series.frame import Frame

__all__ = ["Contrast", "contrast_of"]

Contrast = Literal["none", "arterial", "portal_venous", "venous", "delayed", "unstated_phase", "unknown"]

_PHASES: dict[str, Contrast] = {  # Contrast/Bolus Agent Phase (0018,9344)
    "PRE_CONTRAST": "none",
    "ARTERIAL": "arterial",
    "PORTAL_VENOUS": "portal_venous",
    "VENOUS": "venous",
    "DELAYED": "delayed",
}
# Words of a Series Description, the more exact first: each is taken out before the next is looked for.
_WORDS: tuple[tuple[Contrast, re.Pattern[str]], ...] = (
    ("portal_venous", re.compile(r"\bPORTO?-?(AL)?[ _-]*(VENOUS|VEN|PHASE)\b|\bPORTAL\b|\bPV[PE]?\b")),
    ("arterial", re.compile(r"\bARTERIAL\b|\bARTERIEL(L|LE)?\b|\bART\b")),
    ("venous", re.compile(r"\bVENOUS\b|\bVENOES\b|\bVEN\b")),
    ("delayed", re.compile(r"\bDELAY(ED)?\b|\bEQUILIBRIUM\b")),
    (
        "none",
        re.compile(
            r"\bNON[ -]?CON(TRAST)?\b|\bWITHOUT\b|\bW/O\b|\bUNENHANCED\b|\bNATIVE?\b|\bPLAIN\b|\bPRE[ -]?CONTRAST\b|"
            r"\bOHNE\b|\bNO (IV )?CONTRAST\b"
        ),
    ),
)
_NOTHING_GIVEN = re.compile(r"NO|NONE|N|0|N/?A|WITHOUT.*|NO (IV )?CONTRAST")
_IN_A_VEIN = re.compile(r"\bI\.?V\b|INTRA ?VEN|VEIN|VENOUS")
_IN_THE_BOWEL = re.compile(r"\bORAL|\bPO\b|RECT|ENTER")


def contrast_of(frame: Frame) -> Contrast:
    """The intravenous contrast of the scan that the frame belongs to; "unknown" where it is not said clearly."""
    phase, given = frame.get("ContrastBolusAgentPhase"), frame.get("ContrastBolusAgentAdministered")
    if given == "NO":
        return "none"
    if phase is not None:
        return _PHASES.get(str(phase), "unstated_phase")
    if given == "YES":
        return _phase_said(frame)
    return _of_classic(frame)


def _of_classic(frame: Frame) -> Contrast:
    if "ContrastBolusAgent" not in frame.instance and "ContrastBolusAgentSequence" not in frame.instance:
        return "none" if _phase_said(frame) in ("none", "unstated_phase") else "unknown"
    agent = str(frame.get("ContrastBolusAgent") or "").strip().upper()
    if not agent and not frame.get("ContrastBolusAgentSequence"):
        return "unknown"  # the module is there, and says nothing: some scanners always write it
    if _NOTHING_GIVEN.fullmatch(agent):
        return "none" if _phase_said(frame) in ("none", "unstated_phase") else "unknown"
    way = f"{agent} {frame.get('ContrastBolusRoute') or ''}".upper()
    if _IN_THE_BOWEL.search(way) and not _IN_A_VEIN.search(way):
        return "none"
    said = _phase_said(frame)
    return "unknown" if said == "none" else said


def _phase_said(frame: Frame) -> Contrast:
    """What the Series Description says, where it names one phase or none; "unknown" where it names several."""
    text = str(frame.get("SeriesDescription") or "").upper().replace("_", " ")
    found: list[Contrast] = []
    for phase, words in _WORDS:
        text, count = words.subn(" ", text)
        if count:
            found.append(phase)
    if len(found) > 1:
        return "unknown"
    return found[0] if found else "unstated_phase"
