"""What the operators that write results have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from monai.deploy.core import Fragment, Operator
from monai.deploy.core.domain.dicom_series_selection import StudySelectedSeries
from monai.deploy.core.domain.image import Image
from numpy.typing import NDArray

from isocenter_operators.dicom.findings import Findings, Segment
from isocenter_operators.dicom.identity import Algorithm, JobIdentity
from isocenter_operators.dicom.series.frame import Frame, instances_of
from isocenter_operators.dicom.series.geometry import on_frames, slices_of
from isocenter_operators.errors import GeometryError
from isocenter_operators.form import AS_SOURCE, ResultForm
from isocenter_operators.run import Record
from isocenter_operators.study import identity_of, selected_instances

__all__ = ["ResultWriter", "array_of"]


class ResultWriter(Operator):
    """The base of the writers of SEG, SR and pictures: what is written about, by whom, when.

    Parameters
    ----------
    segments
        What each value of the label map stands for, in order from 1.
    algorithm
        Who made it; with the series' instances it gives the results' UIDs. Versions and weights are those that the
        record names.
    created
        The date of the results; by default, when they are written.
    form
        In which form the site wants them.
    empty
        What to do where nothing is segmented, for writers of segments: raise InvalidResult, or emit no result.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        segments: Sequence[Segment] = (),
        algorithm: Algorithm,
        created: datetime | None = None,
        form: ResultForm = AS_SOURCE,
        record: Record | None = None,
        empty: Literal["refuse", "no result"] = "refuse",
        **kwargs: Any,
    ) -> None:
        self._empty = empty
        self._segments = tuple(segments)
        self._record = record or Record()
        self._algorithm = algorithm.as_run(self._record.algorithm)
        self._created = created
        self._form = form
        super().__init__(fragment, *args, **kwargs)

    def _frames(self, selection: Sequence[StudySelectedSeries]) -> tuple[Frame, ...]:
        """The image planes that the results are about, in the order of Z: those of the volume that was made of them."""
        made = _volume_metadata(selection)
        frames: tuple[Frame, ...] = made.get("frames") or tuple(slices_of(selected_instances(selection)))
        self._record.sources |= {str(each.SOPInstanceUID): each for each in instances_of(frames)}
        return frames

    def _on_frames(self, selection: Sequence[StudySelectedSeries], values: NDArray[Any]) -> NDArray[Any]:
        """Values on the volume's slices, (Z, Y, X) or (segments, Z, Y, X), as they lie on these planes."""
        places = _volume_metadata(selection).get("places", ())
        if values.ndim == 4:
            return on_frames(values.swapaxes(0, 1), places).swapaxes(0, 1)
        return on_frames(values, places)

    def _found_on_frames(self, selection: Sequence[StudySelectedSeries], found: NDArray[Any]) -> NDArray[Any]:
        """A label map (Z, Y, X), or masks or fractions (segments, Z, Y, X), as they lie on these planes.

        Raises GeometryError where a segment lies only on slices that were interpolated: no image shows it.
        """
        kept = self._on_frames(selection, found)
        if kept.shape != found.shape:
            lost = sorted(_present(found) - _present(kept))
            if lost:
                names = [
                    self._segments[number - 1].label if number <= len(self._segments) else f"segment {number}"
                    for number in lost
                ]
                raise GeometryError(
                    f"{', '.join(names)}: found only on slices that were interpolated between the images; there is no "
                    "image that it could be shown on"
                )
        return kept

    def _noted(self, selection: Sequence[StudySelectedSeries], findings: Findings) -> Findings:
        """The findings with what was decided about the series, which their reader has to know: half a scan is half."""
        notes = tuple(_volume_metadata(selection).get("notes", ()))
        return replace(findings, notes=(*notes, *findings.notes)) if notes else findings

    def _skips(self, found: NDArray[Any]) -> bool:
        """Whether there is nothing, and that is no error."""
        return self._empty == "no result" and not found.any()

    def _identity(self, frames: Sequence[Frame]) -> JobIdentity:
        """Of the whole run, as the service knows it: a larger set of images makes other results, used or not."""
        if self._record.instances is not None:
            return JobIdentity.of(self._record.instances, self._algorithm, self._created or datetime.now(UTC))
        return identity_of(instances_of(frames), self._algorithm, self._created)


def array_of(received: Any) -> NDArray[Any]:
    """What came in at a port that takes the SDK's Image or an array."""
    return received.asnumpy() if isinstance(received, Image) else np.asarray(received)


def _present(found: NDArray[Any]) -> set[int]:
    """The numbers of the segments that have a voxel."""
    if found.ndim == 4:
        return {number for number, mask in enumerate(found, start=1) if mask.any()}
    return {int(number) for number in np.unique(found)} - {0}


def _volume_metadata(selection: Sequence[StudySelectedSeries]) -> dict[str, Any]:
    """What the volume operator noted of the first selected series; of the SDK's, nothing of this."""
    for study in selection:
        for selected in study.selected_series:
            image = selected.image
            return (image.metadata() or {}) if isinstance(image, Image) else {}
    return {}
