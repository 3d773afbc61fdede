"""A series as the rules see it: its attributes as text, and whether an application of ours made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from isocenter.map_reference import is_package
from isocenter.rules.geometry import Stack, Unknown, number, stack
from isocenter_operators.dicom.identity import Algorithm

__all__ = ["OUR_OWN", "Series", "attributes_of", "is_our_own", "place_in_series"]

OUR_OWN = "Isocenter made it"  # why a result of ours is not analysed again
_DERIVED = (  # what an application of ours stores: never images to be analysed again
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture, every kind
    "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
    "1.2.840.10008.5.1.4.1.1.66.7",  # Label Map Segmentation
    "1.2.840.10008.5.1.4.1.1.88",  # Structured Reports
    "1.2.840.10008.5.1.4.1.1.30",  # Parametric Map
    "1.2.840.10008.5.1.4.1.1.104",  # Encapsulated documents
)
_MANUFACTURER = Algorithm("", "").manufacturer
_BYTES = frozenset({"OB", "OW", "OF", "OD", "OL", "OV", "UN"})


@dataclass(frozen=True)
class Series:
    """What the rules look at.

    `attributes`: of its first instance, DICOM keyword to text, several values as `A\\B`, a sequence as a list of such
    mappings; what has no keyword (private attributes too) by its tag, `gggg,eeee`. `every`: those of each instance; it
    may be slow, and is called once, when a condition needs it. What it raises, `judge` raises.
    """

    study_uid: str
    series_uid: str
    instances: int
    attributes: Mapping[str, Any]
    every: Callable[[], Sequence[Mapping[str, Any]]]

    @cached_property
    def each_instance(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(self.every())

    @cached_property
    def stack(self) -> Stack | Unknown:
        """The places of its slices."""
        return stack(self.each_instance)

    @cached_property
    def ours(self) -> bool:
        """Whether an application of ours made it."""
        if self._made_by_package:
            return True
        sop_class = str(self.attributes.get("SOPClassUID", ""))
        derived = any(sop_class == known or sop_class.startswith(f"{known}.") for known in _DERIVED)
        return derived and self.attributes.get("Manufacturer") == _MANUFACTURER

    @property
    def _made_by_package(self) -> bool:
        """What a package made says so (`package_results`): else images that one makes would be given to it again."""
        makers = self.attributes.get("ContributingEquipmentSequence")
        return isinstance(makers, list) and any(
            is_package(str(each.get("ManufacturerModelName", "")))
            for each in makers
            if isinstance(each, Mapping)
        )


def is_our_own(series: Series) -> bool:
    """Whether an application of ours made the series, so that no rule looks at it."""
    return series.ours


def place_in_series(instance_number: Any, sop_instance_uid: str) -> tuple[bool, float, str]:
    """Where an instance stands in its series: by Instance Number, then by its UID; without a number at the end.

    The first one by this is the one whose attributes the rules look at, wherever the series is.
    """
    found = number(instance_number)
    return found is None, found or 0.0, sop_instance_uid


def attributes_of(instance: Dataset) -> dict[str, Any]:
    """The attributes of an instance as `Series` holds them. What can not be read is left out."""
    found: dict[str, Any] = {}
    for tag in instance.keys():  # noqa: SIM118 - iterating the dataset itself would stop at a damaged element
        try:
            element = instance[tag]
            value = _value(element)
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, OverflowError):
            continue  # a scanner's bad value: it is as if it were not there, and a reason says "has no value"
        if value is not None:
            found[element.keyword or f"{element.tag.group:04x},{element.tag.element:04x}"] = value
    return found


def _value(element: DataElement) -> Any:
    if element.VR == "SQ":
        return [attributes_of(item) for item in element.value or []]
    if element.VR in _BYTES:
        return None
    if element.value is None:
        return ""
    return "\\".join(map(str, element.value)) if element.VM > 1 else str(element.value)
