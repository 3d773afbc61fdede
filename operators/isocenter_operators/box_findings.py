"""The operator that says what a model has found as boxes, and how sure it was of each."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from monai.deploy.core import ConditionType, Fragment, Operator, OperatorSpec
from numpy.typing import NDArray

from isocenter_operators.dicom import codes
from isocenter_operators.dicom.findings import Box, Findings, Measurement, MeasurementGroup, Segment
from isocenter_operators.dicom.results.region import corners_mm
from isocenter_operators.errors import InvalidResult
from isocenter_operators.run import Record
from isocenter_operators.volume import lps_affine

__all__ = ["BoxFindingsOperator", "found_in"]

_MOST = 50
_SCORES = (
    "The certainty of each finding is the score that the model itself gives the box, in %. It is not calibrated: it is "
    "not the share of such boxes in which there is something."
)
_BOXES = (
    "Each box lies along the patient's axes, as the model gives it, and its sizes are its own, not those of what it "
    "holds. They are no measurements of a lesion."
)


class BoxFindingsOperator(Operator):
    """Makes findings of the boxes that a model on Triton gives, the surest first. None is a finding too: it is said.

    Named inputs: `image`: the volume that was looked at; `tensors`: `boxes` FP64 [N, 6], centre x, y, z and size along
    x, y, z, mm in LPS; `scores` FP64 [N], 0 to 1; `classes` INT32 [N], the number of one of `segments`; and `findings`,
    JSON as UTF-8 in bytes, which may hold a list of `notes`.
    Named output: `findings`: one group for each box, with its region, its sizes and its score.

    Parameters
    ----------
    segments
        What each class is, in order from 1, as the label catalogue has it.
    at_most
        How many are told of; more are counted in a note.
    notes
        What a reader has to know of every result.

    Raises InvalidResult for boxes without a size, or that do not go with their scores and classes.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        segments: Sequence[Segment],
        at_most: int = _MOST,
        notes: Sequence[str] = (),
        record: Record | None = None,
        **kwargs: Any,
    ) -> None:
        self._segments = tuple(segments)
        self._at_most = at_most
        self._notes = tuple(notes)
        self._record = record or Record()
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("image")
        spec.input("tensors")
        spec.output("findings").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        image = op_input.receive("image")
        tensors: Mapping[str, NDArray[Any]] = op_input.receive("tensors")
        with self._record.step("findings"):
            said = json.loads(np.asarray(tensors["findings"]).tobytes()).get("notes", ())
            depth, height, width = image.asnumpy().shape
            findings = found_in(
                {name: np.asarray(tensors[name]) for name in ("boxes", "scores", "classes")},
                self._segments,
                lps_affine(image),
                (depth, height, width),
                at_most=self._at_most,
                notes=(*map(str, said), *self._notes),
            )
        self._record.findings = findings
        op_output.emit(findings, "findings")


def found_in(
    tensors: Mapping[str, NDArray[Any]],
    segments: Sequence[Segment],
    affine: NDArray[np.float64],
    shape: tuple[int, int, int],
    *,
    at_most: int = _MOST,
    notes: Sequence[str] = (),
) -> Findings:
    """The boxes as findings, the surest first; where there is none, a note that says so.

    tensors: see `BoxFindingsOperator`. affine, shape: of the volume, index (x, y, z, 1) to LPS mm and (Z, Y, X).
    Raises InvalidResult.
    """
    boxes, scores, classes = _checked(tensors, len(segments))
    inside = np.array([_shown(box, affine, shape) for box in boxes], bool)
    surest = [int(place) for place in np.argsort(-scores, kind="stable") if inside[place]]
    groups = tuple(
        _group(boxes[place], float(scores[place]), segments[classes[place] - 1], number)
        for number, place in enumerate(surest[:at_most], 1)
    )
    told = [*_left_out(len(surest), at_most, scores[surest]), *_beside(int((~inside).sum()))]
    if not groups:
        names = ", ".join(segment.label for segment in segments)
        return Findings((), (f"Nothing was found of: {names}.", *told, *notes))
    return Findings(groups, (_SCORES, _BOXES, *told, *notes))


def _checked(
    tensors: Mapping[str, NDArray[Any]], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]:
    """Boxes (N, 6), scores (N), classes (N)."""
    boxes = np.asarray(tensors["boxes"], np.float64)
    scores, classes = np.asarray(tensors["scores"], np.float64), np.asarray(tensors["classes"], np.intp)
    if boxes.ndim != 2 or boxes.shape[1] != 6 or not scores.shape == classes.shape == boxes.shape[:1]:
        raise InvalidResult(
            f"the model gives boxes of {boxes.shape}, scores of {scores.shape} and classes of {classes.shape}, which "
            "do not belong together"
        )
    if not (np.isfinite(boxes).all() and (boxes[:, 3:] > 0).all()):
        raise InvalidResult("the model gives boxes without a place or without a size")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise InvalidResult(
            f"the model gives scores from {scores.min():g} to {scores.max():g}, not from 0 to 1"
        )
    if not ((classes >= 1) & (classes <= count)).all():
        raise InvalidResult(f"the model gives class {classes.max()}, and says of {count} what they are")
    return boxes, scores, classes


def _shown(box: NDArray[np.float64], affine: NDArray[np.float64], shape: tuple[int, int, int]) -> bool:
    """Whether the volume shows a part of the box: resampled, it may reach beyond its last voxels."""
    index = np.linalg.solve(affine[:3, :3], (corners_mm(_box(box)) - affine[:3, 3]).T).T  # (x, y, z)
    low, high = index.min(axis=0), index.max(axis=0)
    sizes = np.array(shape[::-1])
    return bool(((np.minimum(high, sizes - 0.5) - np.maximum(low, -0.5)) > 0.01).all())


def _box(values: NDArray[np.float64]) -> Box:
    x, y, z, width, depth, height = (float(each) for each in values)
    return Box((x, y, z), (width, depth, height))


def _group(box: NDArray[np.float64], score: float, segment: Segment, number: int) -> MeasurementGroup:
    region = _box(box)
    width, depth, height = region.size_mm
    return MeasurementGroup(
        label=f"{segment.label} {number}",
        kind=segment.label,
        finding=segment.type,
        laterality=segment.laterality,
        site=segment.anatomic_region,
        region=region,
        measurements=(
            Measurement("certainty_percent", codes.CERTAINTY_OF_FINDING, 100 * score, codes.PERCENT),
            Measurement("width_mm", codes.BOX_WIDTH, width, codes.MILLIMETER),
            Measurement("depth_mm", codes.BOX_DEPTH, depth, codes.MILLIMETER),
            Measurement("height_mm", codes.BOX_HEIGHT, height, codes.MILLIMETER),
        ),
    )


def _left_out(count: int, at_most: int, scores: NDArray[np.float64]) -> Sequence[str]:
    """scores: of all, the surest first."""
    if count <= at_most:
        return ()
    return (
        f"The model has found {count} boxes. Only the {at_most} with the highest scores are told of here; the others "
        f"have {100 * scores[at_most]:.1f} % and less.",
    )


def _beside(count: int) -> Sequence[str]:
    if not count:
        return ()
    boxes = "1 box lies" if count == 1 else f"{count} boxes lie"
    return (f"{boxes} beside the images, and no image shows anything of it: left out.",)
