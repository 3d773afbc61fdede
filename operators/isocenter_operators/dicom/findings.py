"""What an application says about a volume, in plain values, before any of it is DICOM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = [
    "Box",
    "Code",
    "Contour",
    "Evaluation",
    "Findings",
    "Measurement",
    "MeasurementGroup",
    "Points",
    "Region",
    "Segment",
]


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
    anatomic_region: Code | None = None  # where a thing is that can be anywhere: a cyst, a tumor


@dataclass(frozen=True)
class Points:
    """One or more places in the patient: LPS millimetres, (N, 3)."""

    points_mm: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Contour:
    """The outline of a planar region, closed without repeating its first point: LPS millimetres, (N >= 3, 3)."""

    points_mm: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Box:
    """A box along the patient's axes: its middle, and its sizes along x, y and z, each more than 0; LPS millimetres."""

    centre_mm: tuple[float, float, float]
    size_mm: tuple[float, float, float]


# What a group of measurements is about, where it is no segment: places, a planar region, a volume as outlines of it, or
# a box.
Region = Points | Contour | tuple[Contour, ...] | Box


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
class Evaluation:
    """One answer of a classifier: what was asked, and the code that answers it."""

    name: str  # short, for tables and JSON: "pneumothorax"
    concept: Code
    value: Code


@dataclass(frozen=True)
class MeasurementGroup:
    """The numbers and answers about one region: about one segment or several taken together, about a `region` given by
    its coordinates, or, where there is neither, about the images as a whole."""

    label: str
    finding: Code
    segment_numbers: tuple[int, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    laterality: Code | None = None
    notes: tuple[str, ...] = ()  # what a reader must know: "cut off at the lower end of the scan"
    region: Region | None = None
    evaluations: tuple[Evaluation, ...] = ()
    site: Code | None = None  # where in the body; of segments, by default, what their anatomy says
    kind: str = ""  # what several are alike: "Lung nodule" of "Lung nodule 3"; "": the finding's meaning

    def as_dict(self) -> Mapping[str, float | str]:
        """`{name: value}`, as shown in `--json`; of an evaluation, the meaning of its answer."""
        answers = {each.name: each.value.meaning for each in self.evaluations}
        return {m.name: m.value for m in self.measurements} | answers


@dataclass(frozen=True)
class Findings:
    """All that one run found. `notes` concern the whole study."""

    groups: tuple[MeasurementGroup, ...]
    notes: tuple[str, ...] = field(default=())
