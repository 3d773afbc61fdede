"""What an application says about a volume, in plain values, before any of it is DICOM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Code", "Findings", "Measurement", "MeasurementGroup", "Segment"]


class Code(NamedTuple):
    """A coded concept, as in the Code Sequence Macro (PS3.3, 8.8): all three are needed."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True)
class Segment:
    """One value of a label map and what it stands for (PS3.3, C.8.20.2 Segment Description)."""

    number: int  # the label's value; 1, 2, 3 ... without a gap
    label: str
    category: Code
    type: Code
    display_rgb: tuple[int, int, int]  # 0..255 each
    laterality: Code | None = None


@dataclass(frozen=True)
class Measurement:
    """One number with its meaning and its unit in UCUM."""

    name: str  # short, for tables and JSON: "volume_mL"
    concept: Code
    value: float
    unit: Code
    derivation: Code | None = None  # as in TID 1419: "Mean", "Percentile"
    decimals: int = 1  # for people; the SR keeps the full value


@dataclass(frozen=True)
class MeasurementGroup:
    """The numbers of one region: of one segment, or of several taken together."""

    label: str
    segment_numbers: tuple[int, ...]
    finding: Code
    measurements: tuple[Measurement, ...]
    laterality: Code | None = None
    notes: tuple[str, ...] = ()  # what a reader must know: "cut off at the lower end of the scan"

    def as_dict(self) -> Mapping[str, float]:
        """`{name: value}`, as shown in `--json`."""
        return {m.name: m.value for m in self.measurements}


@dataclass(frozen=True)
class Findings:
    """All that one run found. `notes` concern the whole study."""

    groups: tuple[MeasurementGroup, ...]
    notes: tuple[str, ...] = field(default=())
