"""The operator that writes images made of images, denoised or synthetic, as a series."""

from __future__ import annotations

from functools import partial
from typing import Any

from monai.deploy.core import ConditionType, Fragment, OperatorSpec

from isocenter_operators.dicom.findings import Code
from isocenter_operators.dicom.results.derived_series import DerivedModality, SeriesKind, derived_series
from isocenter_operators.result_writer import ResultWriter, array_of

__all__ = ["DerivedSeriesWriterOperator"]


class DerivedSeriesWriterOperator(ResultWriter):
    """Writes a volume on the grid of its series as a CT or MR series of its own.

    Named inputs: `image`: an SDK Image or an array (Z, Y, X), Hounsfield units of a CT; `study_selected_series_list`:
    the series it was made from.
    Named output: `dicom_instances`: one image for each slice.

    Parameters
    ----------
    segments, algorithm, created
        See `ResultWriter`.
    what, kind, modality, step, padding, window, derivation, number
        What the images are: see `derived_series`.

    Slices that were interpolated between the series' own are not written: they have no source.

    Raises InputError, GeometryError or InvalidResult.

    Example: `DerivedSeriesWriterOperator(self, what="Denoised", segments=(), algorithm=Algorithm("quiet", "1.0"))`
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        what: str,
        kind: SeriesKind = "processed",
        modality: DerivedModality | None = None,
        step: float | None = None,
        padding: float | None = None,
        window: tuple[float, float] | None = None,
        derivation: Code | None = None,
        number: int = 1,
        **kwargs: Any,
    ) -> None:
        self._written = partial(
            derived_series,
            what=what,
            kind=kind,
            modality=modality,
            step=step,
            padding=padding,
            window=window,
            derivation=derivation,
            number=number,
        )
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("image")
        spec.input("study_selected_series_list")
        spec.output("dicom_instances").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        given = op_input.receive("image")
        selection = op_input.receive("study_selected_series_list")
        voxels = array_of(given)
        with self._record.step("derived series"):
            frames = self._frames(selection)
            made = self._written(
                voxels=self._on_frames(selection, voxels),
                frames=frames,
                algorithm=self._algorithm,
                identity=self._identity(frames),
                disclaimer=self._form.disclaimer,
            )
        op_output.emit(self._form.given(made), "dicom_instances")
