"""What a Key Object Selection has to fulfil (PS3.3, A.35.4, C.17.6; PS3.16, TID 2010)."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset

from isocenter_operators.dicom.rules.code import in_context_group
from isocenter_operators.dicom.rules.problem import Problem, absent, error, warning
from isocenter_operators.dicom.rules.sr import tree_problems

__all__ = ["key_object_problems"]

_ALLOWED = {"IMAGE", "COMPOSITE", "WAVEFORM", "TEXT", "CODE", "UIDREF", "PNAME"}  # A.35.4.3.1


def key_object_problems(selection: Dataset) -> Iterator[Problem]:
    """Every problem of one Key Object Selection."""
    found = list(tree_problems(selection))
    yield from found
    yield from absent(selection, ("CurrentRequestedProcedureEvidenceSequence",))
    items = selection.get("ContentSequence") or []
    for number, item in enumerate(items, 1):
        if item.get("ValueType") not in _ALLOWED:
            yield error(
                f"content item 1.{number}: ValueType", "is not one that a key object selection can hold"
            )
    if not any(item.get("ValueType") in ("IMAGE", "COMPOSITE", "WAVEFORM") for item in items):
        yield error("ContentSequence", "selects no object (TID 2010 row 8)")
    titles = selection.get("ConceptNameCodeSequence") or []
    if titles and not in_context_group(titles[0], 7010):
        yield warning("ConceptNameCodeSequence", "is not a title of CID 7010, Key Object Selection")
    template = (selection.get("ContentTemplateSequence") or [Dataset()])[0]
    if template.get("TemplateIdentifier") != "2010":
        yield warning("ContentTemplateSequence", "does not name TID 2010")
