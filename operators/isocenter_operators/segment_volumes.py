"""The operator that measures the volume of each segment, or says that none was found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from monai.deploy.core import Fragment, Operator, OperatorSpec
from numpy.typing import NDArray

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Findings, Measurement, MeasurementGroup, Segment
from isocenter_operators.result_writer import array_of
from isocenter_operators.run import Record
from isocenter_operators.volume import lps_affine

__all__ = ["SegmentVolumesOperator", "volumes_of"]


class SegmentVolumesOperator(Operator):
    """Counts each segment's voxels. A model that finds nothing has found that: it is said in words.

    Named inputs: `image`: the volume that was looked at; `seg_image`: an SDK Image or an array, labels (Z, Y, X) or
    masks (segments, Z, Y, X); `tensors`: what else the model gave, of which `findings`, JSON as UTF-8 in bytes, may
    hold a list of `notes`.
    Named output: `findings`.

    Parameters
    ----------
    segments
        What each number stands for, in order from 1.
    notes
        What a reader has to know of every result.
    takes_tensors
        False: there is no input `tensors`.
    """

    _takes_tensors = True

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        segments: Sequence[Segment],
        notes: Sequence[str] = (),
        takes_tensors: bool = True,
        record: Record | None = None,
        **kwargs: Any,
    ) -> None:
        self._takes_tensors = takes_tensors
        self._segments = tuple(segments)
        self._notes = tuple(notes)
        self._record = record or Record()
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("image")
        spec.input("seg_image")
        if self._takes_tensors:
            spec.input("tensors")
        spec.output("findings")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        image = op_input.receive("image")
        found = array_of(op_input.receive("seg_image"))
        said = _notes(op_input.receive("tensors")) if self._takes_tensors else ()
        with self._record.step("volumes"):
            voxel_ml = abs(float(np.linalg.det(lps_affine(image)[:3, :3]))) / 1000
            findings = volumes_of(found, self._segments, voxel_ml, (*said, *self._notes))
        self._record.findings = findings
        op_output.emit(findings, "findings")


def _notes(tensors: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """What the model has said of how it came to its answer."""
    said = json.loads(np.asarray(tensors["findings"]).tobytes()) if "findings" in tensors else {}
    return tuple(str(note) for note in said.get("notes", ()))


def volumes_of(
    found: NDArray[Any], segments: Sequence[Segment], voxel_ml: float, notes: Sequence[str] = ()
) -> Findings:
    """The volume of each segment that has a voxel; where none has, a note that says so.

    found: labels (Z, Y, X), or masks (segments, Z, Y, X). voxel_ml: of one voxel, in millilitres.
    """
    if found.ndim == 4:
        counts = [int(np.count_nonzero(mask)) for mask in found]
    else:
        # Plane by plane: bincount makes 64 bits of each value, which then stay in the processor's cache.
        most = max(256, len(segments) + 1)
        counted = np.zeros(most, np.int64)
        for plane in found:
            counted += np.bincount(plane.reshape(-1), minlength=most)[:most]
        counts = [int(count) for count in counted[1 : len(segments) + 1]]
    groups = tuple(
        MeasurementGroup(
            label=segment.label,
            segment_numbers=(segment.number,),
            finding=segment.type,
            laterality=segment.laterality,
            measurements=(Measurement("volume_mL", codes.VOLUME, count * voxel_ml, codes.MILLILITER),),
        )
        for segment, count in zip(segments, counts, strict=True)
        if count
    )
    if groups:
        return Findings(groups, tuple(notes))
    return Findings((), (f"Nothing was found of: {', '.join(each.label for each in segments)}.", *notes))
