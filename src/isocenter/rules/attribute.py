"""A DICOM attribute that a rule names: where its values are, and how much of them a person may see."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_dict, keyword_for_tag, tag_for_keyword

from isocenter.rules.problem import Place, WrongCondition, meant

__all__ = ["NUMERIC", "Attribute", "Values", "attribute"]

NUMERIC = frozenset({"DS", "IS", "FL", "FD", "US", "SS", "UL", "SL", "UV", "SV"})
_BYTES = frozenset({"OB", "OW", "OF", "OD", "OL", "OV", "UN"})
_ONE_TEXT = frozenset({"ST", "LT", "UT", "UR"})  # here a backslash is a character (PS3.5, 6.2)
_TAG = re.compile(r"\(?([0-9a-fA-F]{4}),?([0-9a-fA-F]{4})\)?")
# The patient module's attributes that say nothing about who the patient is.
_SHOWN_OF_PATIENT = frozenset({"PatientSex", "PatientAge", "PatientSize", "PatientWeight"})
# Free text, in which people write names, and names.
_WITHHELD_VRS = frozenset({"LT", "PN", "ST", "UT"})
# Groups about the patient, the visit, and what was read in the images.
_WITHHELD_GROUPS = frozenset({0x0010, 0x0038, 0x4008})
# What leads to the patient in another system, and short texts in which people write about one.
_WITHHELD = frozenset(
    {
        "AccessionNumber",
        "AdmittingDiagnosesDescription",
        "ClinicalTrialSubjectID",
        "ClinicalTrialSubjectReadingID",
        "ConfidentialityConstraintOnPatientDataDescription",
        "ContactDisplayName",
        "ContainerIdentifier",
        "DoseComment",
        "FillerOrderNumberImagingServiceRequest",
        "FillerOrderNumberImagingServiceRequestRetired",
        "FillerOrderNumberProcedure",
        "FrameOfReferenceTransformationComment",
        "ImageID",
        "OrderCallbackPhoneNumber",
        "OrderEntererLocation",
        "OwnerID",
        "PerformedProcedureStepID",
        "PersonTelephoneNumbers",
        "PlacerOrderNumberImagingServiceRequest",
        "PlacerOrderNumberImagingServiceRequestRetired",
        "PlacerOrderNumberProcedure",
        "PotentialReasonsForProcedure",
        "ReasonForStudy",
        "ReasonForTheImagingServiceRequest",
        "ReasonForTheRequestedProcedure",
        "ReferringPhysicianTelephoneNumbers",
        "RequestedProcedureID",
        "RequestingService",
        "ScheduledProcedureStepID",
        "ServiceEpisodeID",
        "SlideIdentifier",
        "SpecimenAccessionNumber",
        "SpecimenIdentifier",
        "SpecimenShortDescription",
        "StudyID",
        "StudyIDIssuer",
        "TelephoneNumberTrial",
        "TextString",
        "TopicAuthor",
        "TopicKeywords",
        "TopicTitle",
        "UserContentLabel",
        "UserContentLongLabel",
    }
)
_LONGEST_SHOWN = 64


@dataclass(frozen=True)
class Values:
    """What an attribute holds. `each`: its values; `whole`: the texts they stand in, `A\\B` in one."""

    each: tuple[str, ...]
    whole: tuple[str, ...]
    count: int  # of values, or of a sequence's items

    def __bool__(self) -> bool:
        return self.count > 0


@dataclass(frozen=True)
class Attribute:
    """One attribute, or one inside sequences. `path`: keywords, or `gggg,eeee` where a tag has none."""

    name: str  # as the rule writes it
    path: tuple[str, ...]
    vr: str  # PS3.5, 6.2; "US or SS" where the standard leaves it open, "" where it is not known
    withheld: bool  # its values may tell who the patient is

    @property
    def numeric(self) -> bool:
        return not NUMERIC.isdisjoint(self.vr.split(" or "))

    def values(self, attributes: Mapping[str, Any]) -> Values:
        """Its values; inside a sequence those of every item."""
        found = [value for value in _leaves(attributes, self.path) if value is not None and value != ""]
        if self.vr == "SQ":
            return Values((), (), sum(len(value) for value in found if isinstance(value, list | tuple)))
        whole = tuple(_text(value) for value in found)
        each = whole if self.vr in _ONE_TEXT else tuple(one for text in whole for one in text.split("\\"))
        return Values(each, whole, len(each))

    def shown(self, values: Values) -> str:
        """The values for a person, without what tells who the patient is."""
        if self.withheld:
            return "another one (withheld)"
        if self.vr == "SQ":
            return f"{values.count} items"
        return ", ".join(repr(_short(text)) for text in values.whole[:3])


def attribute(name: str, place: Place) -> Attribute:
    """The attribute of this name: a keyword or `gggg,eeee`, after the sequences it is in, with dots between.

    Raises WrongCondition for what is no attribute, or one that no condition can look at.
    """
    path = tuple(_key(part, place) for part in name.split("."))
    vrs = [_vr(part) for part in path]
    for part, vr in zip(path[:-1], vrs[:-1], strict=True):
        if vr not in {"SQ", ""}:
            raise WrongCondition(place, f"{part} is no sequence, so nothing is inside it")
    if set(vrs[-1].split(" or ")) <= _BYTES:
        raise WrongCondition(place, f"{path[-1]} holds bytes, which no condition can look at")
    return Attribute(name, path, vrs[-1], any(map(_is_withheld, path, vrs)))


def _key(part: str, place: Place) -> str:
    tag = _TAG.fullmatch(part)
    if tag is not None:
        number = int(tag[1] + tag[2], 16)
        return keyword_for_tag(number) or f"{tag[1]},{tag[2]}".lower()
    if tag_for_keyword(part) is None:
        raise WrongCondition(place, f"not a DICOM keyword{meant(part, keyword_dict)}")
    return part


def _vr(key: str) -> str:
    tag = tag_for_keyword(key)
    return dictionary_VR(tag) if tag is not None else ""


def _is_withheld(key: str, vr: str) -> bool:
    tag = tag_for_keyword(key)
    if tag is None:
        return True  # private: nobody can say what it holds
    if key in _SHOWN_OF_PATIENT:
        return False
    return tag >> 16 in _WITHHELD_GROUPS or key in _WITHHELD or vr in _WITHHELD_VRS


def _leaves(attributes: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Any]:
    value = attributes.get(path[0])
    if len(path) == 1:
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            if isinstance(item, Mapping):
                yield from _leaves(item, path[1:])


def _text(value: Any) -> str:
    return "\\".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."
