"""Which part of the body a header says that an image shows: Body Part Examined and its codes (PS3.16, Annex L)."""

from __future__ import annotations

from isocenter_operators.dicom.gate.region import REGIONS, Region
from isocenter_operators.dicom.series.frame import Frame
from isocenter_operators.dicom.value import term

__all__ = ["regions_of_tag", "tag_of"]

# The defined terms of Body Part Examined, as far as they say some of our regions, or clearly another part.
_PARTS: tuple[tuple[str, tuple[Region, ...]], ...] = (
    ("HEAD BRAIN SKULL FACE ORBIT SINUS JAW MAXILLA EAR IAC", ("head",)),
    ("NECK CSPINE LARYNX PHARYNX THYROID", ("neck",)),
    ("CHEST LUNG HEART MEDIASTINUM TSPINE STERNUM RIB CORONARYARTERY", ("chest",)),
    ("ABDOMEN PELVIS ABDOMENPELVIS LIVER KIDNEY PANCREAS SPLEEN", ("abdomen",)),
    ("LSPINE LSSPINE SSPINE PROSTATE BLADDER HIP", ("abdomen",)),
    ("HEADNECK", ("head", "neck")),
    ("NECKCHEST CTSPINE", ("neck", "chest")),
    ("CHESTABDOMEN CHESTABDPELVIS TLSPINE", ("chest", "abdomen")),
    ("NECKCHESTABDOMEN NECKCHESTABDPELV", ("neck", "chest", "abdomen")),
    ("WHOLEBODY", REGIONS),
    ("ARM BREAST CLAVICLE ELBOW EXTREMITY FINGER FOREARM HAND HUMERUS RADIUS SHOULDER ULNA WRIST", ()),
    ("ANKLE CALF FEMUR FOOT KNEE LEG THIGH TIBIA TOE", ()),
)
_TERMS = {each: frozenset(regions) for terms, regions in _PARTS for each in terms.split()}
# The same in SNOMED CT, as an enhanced image says it (Anatomic Region Sequence; PS3.16, CID 4030 and 4031).
_CODES = {
    "69536005": "HEAD",
    "12738006": "BRAIN",
    "89546000": "SKULL",
    "45048000": "NECK",
    "774007": "HEADNECK",
    "816094009": "CHEST",
    "39607008": "LUNG",
    "80891009": "HEART",
    "417437006": "NECKCHEST",
    "818981001": "ABDOMEN",
    "818982008": "ABDOMENPELVIS",
    "816092008": "PELVIS",
    "10200004": "LIVER",
    "416550000": "CHESTABDOMEN",
    "416775004": "CHESTABDPELVIS",
    "416152001": "NECKCHESTABDOMEN",
    "416319003": "NECKCHESTABDPELV",
    "38266002": "WHOLEBODY",
}


def tag_of(frame: Frame) -> str:
    """What the image says it shows: Body Part Examined, or its term for the Anatomic Region Sequence's code.

    "" where it says nothing, "no defined term" where it says something else than a coded value.
    """
    said = str(frame.get("BodyPartExamined") or "").strip().upper()
    if said:
        return said if said in _TERMS else term(said)  # those of the standard may be longer than most terms
    for item in frame.get("AnatomicRegionSequence") or ():
        return _CODES.get(str(item.get("CodeValue", "")), "")
    return ""


def regions_of_tag(tag: str) -> frozenset[Region] | None:
    """The regions that a term of BodyPartExamined means; empty for other parts; None where the term is not known."""
    return _TERMS.get(tag)
