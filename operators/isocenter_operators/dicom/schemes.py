"""The private coding scheme is declared wherever one of its codes is used (PS3.3, C.12.1.1.9)."""

from __future__ import annotations

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from isocenter_operators.dicom.codes import PRIVATE_SCHEME

__all__ = ["declare_schemes", "uses_scheme"]

_DESIGNATOR = 0x00080102  # Coding Scheme Designator
_IDENTIFICATION = 0x00080110  # Coding Scheme Identification Sequence


def declare_schemes(result: Dataset) -> None:
    """Name Isocenter's private scheme in the Coding Scheme Identification Sequence, where the result uses it.

    To be called once the result is complete. What is declared of other schemes stays.
    """
    declared = list(result.get("CodingSchemeIdentificationSequence") or [])
    if any(item.get("CodingSchemeDesignator") == PRIVATE_SCHEME for item in declared):
        return
    if not uses_scheme(result, PRIVATE_SCHEME):
        return
    scheme = Dataset()
    scheme.CodingSchemeDesignator = PRIVATE_SCHEME
    scheme.CodingSchemeName = "Isocenter private codes"
    scheme.CodingSchemeResponsibleOrganization = "Isocenter"
    result.CodingSchemeIdentificationSequence = [*declared, scheme]


def uses_scheme(dataset: Dataset, scheme: str) -> bool:
    """Whether any code in the dataset, however deep, is of this coding scheme."""
    for tag in dataset.keys():  # noqa: SIM118
        element = dataset.get_item(tag)
        if tag == _DESIGNATOR and dataset[tag].value == scheme:
            return True
        if element.VR != "SQ" or tag == _IDENTIFICATION:
            continue
        items = dataset[tag].value if isinstance(element, RawDataElement) else element.value
        if any(uses_scheme(item, scheme) for item in items):
            return True
    return False
