"""The operator that makes one volume of each selected series, all on the grid of the first."""

from __future__ import annotations

from typing import Any

import numpy as np
from monai.deploy.core import ConditionType, Fragment, Operator, OperatorSpec
from monai.deploy.core.domain.dicom_series_selection import SelectedSeries, StudySelectedSeries
from monai.deploy.core.domain.image import Image

from isocenter_operators.dicom.gate.acceptance import Acceptance
from isocenter_operators.dicom.gate.examination import examined
from isocenter_operators.dicom.series.alignment import aligned
from isocenter_operators.dicom.series.geometry import Volume, volume_of
from isocenter_operators.errors import NotApplicable
from isocenter_operators.run import Record
from isocenter_operators.volume import image_of

__all__ = ["AlignedVolumesOperator"]


class AlignedVolumesOperator(Operator):
    """Makes volumes of all selected series of the first study, and brings them to the grid of the first.

    Named input: `study_selected_series_list`, as the `SequenceSelectorOperator` emits it.
    Named outputs: `image`: the first series, as the `VolumeOperator` makes it, with notes of what was done about the
    others; `channels`: an SDK Image of all of them, int16 (series, Z, Y, X).

    The results are about the first series' images; those of all series count for the results' identity. What the input
    gate would refuse is refused of every series but the first, which goes through the gate itself.

    Raises GeometryError, UnreadableInput, InputError, or NotApplicable where the series do not belong together.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        accepts: Acceptance,
        record: Record | None = None,
        **kwargs: Any,
    ) -> None:
        self._accepts = accepts
        self._record = record or Record()
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("study_selected_series_list")
        for output in ("image", "channels"):
            spec.output(output).condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        selection: list[StudySelectedSeries] = op_input.receive("study_selected_series_list")
        with self._record.step("volume"):
            series = selection[0].selected_series
            first, *others = (_volume(each) for each in series)
            channels = [np.ascontiguousarray(first.voxels, np.int16)]
            notes = list(first.notes)
            for each, volume in zip(series[1:], others, strict=True):
                self._examine(volume, each.selection_name)
                voxels, note = aligned(volume, first, each.selection_name)
                channels.append(voxels)
                notes += [f"{each.selection_name}: {said}" for said in volume.notes]
                notes += [note] if note else []
            notes.insert(0, _told(series))
            image = image_of(first)
            image.metadata()["notes"] = tuple(notes)
            self._record.notes.extend(notes)
            series[0].image = image
            self._identify([first, *others])
        op_output.emit(image, "image")
        op_output.emit(Image(np.stack(channels), image.metadata()), "channels")

    def _examine(self, volume: Volume, name: str) -> None:
        examination = examined(volume, self._accepts)
        if examination.refusals:
            raise NotApplicable(
                f"{name}: {'; '.join(examination.refusals)}", series_uid=volume.frames[0].series_uid
            )

    def _identify(self, volumes: list[Volume]) -> None:
        """Where the run does not say what it is for, it is for all that was used: not for the first series alone."""
        if self._record.instances is None:
            used = (str(source.SOPInstanceUID) for volume in volumes for source in volume.sources)
            self._record.instances = frozenset(used)


def _volume(selected: SelectedSeries) -> Volume:
    return volume_of([each.get_native_sop_instance() for each in selected.series.get_sop_instances()])


def _told(series: list[SelectedSeries]) -> str:
    """Which series were taken for what, in the numbers by which a reader knows them."""
    named = [
        f"{each.selection_name}"
        + (f" is series {each.series.SeriesNumber}" if getattr(each.series, "SeriesNumber", None) else "")
        for each in series
    ]
    return f"Made of {len(series)} series: {', '.join(named)}"
