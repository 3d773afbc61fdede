"""The operator that writes a label map as a DICOM Segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.deploy.core import ConditionType, Fragment, OperatorSpec

from isocenter_operators.dicom.codes import ARTIFICIAL_INTELLIGENCE
from isocenter_operators.dicom.findings import Code
from isocenter_operators.dicom.results.profile import DestinationProfile, SegmentationKind, profile_of
from isocenter_operators.dicom.results.seg import segmentation
from isocenter_operators.result_gate import checked, write_instances
from isocenter_operators.result_writer import ResultWriter, array_of

__all__ = ["SegWriterOperator"]


class SegWriterOperator(ResultWriter):
    """Writes a label map on the grid of its series. Stands in for the SDK's `DICOMSegmentationWriterOperator`.

    Named inputs: `seg_image`: an SDK Image or an array, uint8 or uint16 (Z, Y, X), 0 for background, or bool
    (segments, Z, Y, X) for segments that may overlap; `study_selected_series_list`: the series it was made from.
    Named output: `dicom_instances`: a list with one Segmentation.

    Parameters
    ----------
    segments, algorithm, created
        See `ResultWriter`.
    algorithm_family
        What kind of algorithm it is (PS3.16, CID 7162).
    output_folder
        Also write the object there, as the SDK's writer does; for graphs without one of our sinks.
    profile
        What the destination takes: a profile, its name, or its fields (see `profile_of`); by default, the form's.
    kind
        "BINARY" or "LABELMAP", whatever the profile says. Masks that may overlap are BINARY, unless this is given.

    Raises InputError, GeometryError or InvalidResult; with a folder, StorageFull or ConfigurationError, which is also
    raised for a profile that is none.

    Example: `SegWriterOperator(self, segments=[LUNG_RIGHT, LUNG_LEFT], algorithm=Algorithm("lungs", "1.0"))`
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        algorithm_family: Code = ARTIFICIAL_INTELLIGENCE,
        output_folder: Path | None = None,
        profile: str | Mapping[str, Any] | DestinationProfile | None = None,
        kind: SegmentationKind | None = None,
        **kwargs: Any,
    ) -> None:
        self._algorithm_family = algorithm_family
        self._output_folder = output_folder
        self._kind = kind
        super().__init__(fragment, *args, **kwargs)
        if profile is not None:
            self._form = replace(self._form, profile=profile_of(profile))

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("seg_image")
        spec.input("study_selected_series_list")
        spec.output("dicom_instances").condition(ConditionType.NONE)

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        seg_image = op_input.receive("seg_image")
        selection = op_input.receive("study_selected_series_list")
        labels = array_of(seg_image)
        if self._skips(labels):
            op_output.emit([], "dicom_instances")
            return
        kind = self._kind or ("BINARY" if labels.ndim == 4 else self._form.profile.segmentation)
        with self._record.step("SEG"):
            frames = self._frames(selection)
            seg = segmentation(
                labels=self._found_on_frames(selection, labels),
                frames=frames,
                segments=self._segments,
                algorithm=self._algorithm,
                algorithm_family=self._algorithm_family,
                identity=self._identity(frames),
                kind=kind,
                transfer_syntax_uid=self._form.profile.transfer_syntax(kind),
                disclaimer=self._form.disclaimer,
            )
        written = self._form.given([seg])
        if self._output_folder is not None:
            write_instances(checked([written]), self._output_folder)
        op_output.emit(written, "dicom_instances")
