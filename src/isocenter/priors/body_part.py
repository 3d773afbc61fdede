"""Whether two series show the same part of the body (PS3.16, Annex L)."""

from __future__ import annotations

__all__ = ["covers", "regions"]

# The Code Meanings that Table L-1 gives its Defined Terms, as people write them for the term, and THORAX, which SNOMED
# has as a synonym of its chest. HEAD, BRAIN and SKULL are not the same thing there, nor are CHEST and LUNG.
_SYNONYMS = {
    "THORAX": "CHEST",
    "CERVICALSPINE": "CSPINE",
    "THORACICSPINE": "TSPINE",
    "LUMBARSPINE": "LSPINE",
    "SACRUM": "SSPINE",
    "CERVICOTHORACICSPINE": "CTSPINE",
    "THORACOLUMBARSPINE": "TLSPINE",
    "LUMBOSACRALSPINE": "LSSPINE",
    "ABDOMENANDPELVIS": "ABDOMENPELVIS",
    "CHESTANDABDOMEN": "CHESTABDOMEN",
    "CHESTABDOMENANDPELVIS": "CHESTABDPELVIS",
    "CHESTABDOMENPELVIS": "CHESTABDPELVIS",
    "HEADANDNECK": "HEADNECK",
    "NECKANDCHEST": "NECKCHEST",
}
# What the terms for several parts are made of, by their own Code Meanings.
_TOGETHER = {
    "ABDOMENPELVIS": ("ABDOMEN", "PELVIS"),
    "CHESTABDOMEN": ("CHEST", "ABDOMEN"),
    "CHESTABDPELVIS": ("CHEST", "ABDOMEN", "PELVIS"),
    "HEADNECK": ("HEAD", "NECK"),
    "NECKCHEST": ("NECK", "CHEST"),
    "NECKCHESTABDOMEN": ("NECK", "CHEST", "ABDOMEN"),
    "NECKCHESTABDPELV": ("NECK", "CHEST", "ABDOMEN", "PELVIS"),
    "CTSPINE": ("CSPINE", "TSPINE"),
    "TLSPINE": ("TSPINE", "LSPINE"),
    "LSSPINE": ("LSPINE", "SSPINE"),
}


def regions(body_part: str) -> frozenset[str]:
    """The parts that a Body Part Examined (0018,0015) names; none where it is empty.

    Case, spaces and punctuation do not count: "Chest", "C-SPINE" and "CHEST ABDOMEN" are terms as people write them.
    """
    letters = "".join(each for each in body_part.upper() if each.isalnum())
    if not letters:
        return frozenset()
    term = _SYNONYMS.get(letters, letters)
    return frozenset(_TOGETHER.get(term, (term,)))


def covers(prior: str, current: str, prior_side: str = "", current_side: str = "") -> bool | None:
    """Whether a prior series shows all of the current one's body part; None where one of them does not say.

    The sides are Laterality (0020,0060), R or L; a left knee is no prior of a right one.
    """
    shown, wanted = regions(prior), regions(current)
    if not shown or not wanted:
        return None
    other_side = {prior_side.strip().upper(), current_side.strip().upper()} == {"R", "L"}
    return wanted <= shown and not other_side
